"""docs/own-dataset.md: its files are written and its commands are run, in order, in an empty folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.pages import ROOT, run_page
from unialign.stages.video import encode_clip

PAGE = ROOT / "docs" / "own-dataset.md"


@pytest.mark.usefixtures("fork_server")
def test_the_page_works(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for shade, name in enumerate(("anna_wave", "anna_bow", "ben_wave", "ben_bow")):
        encode_clip(tmp_path / "clips" / f"{name}.mp4", np.full((8, 32, 40, 3), 40 * shade, dtype=np.uint8), fps=10)
    said = run_page("own-dataset.md", tmp_path)
    assert "24 ('side to side', 'up and down') 8" in "".join(said)
    assert (tmp_path / "dog.png").read_bytes().startswith(b"\x89PNG")
    assert "by-person" in said[-3]
    stores = list((tmp_path / "cache" / "skeletons-tails" / "poses").glob("*.zarr"))
    assert len(stores) == 1
    assert len(list((tmp_path / "cache" / "gestures" / "frames").glob("*.zarr"))) == 1
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/result.json")]
    assert {(each["dataset"], each["protocol"]) for each in results} == {
        ("skeletons", "split"),
        ("mine:gestures", "by-person"),
    }


@pytest.mark.parametrize(
    "heading", ["your-own-skeletons", "folders", "pickles-of-pyskl-and-mmaction2", "skeletons-of-other-programs"]
)
def test_the_headings_that_the_page_names_are_there(heading: str) -> None:
    text = (PAGE.parent / "datasets.md").read_text()
    assert heading in {line[3:].lower().replace(" ", "-") for line in text.splitlines() if line.startswith("## ")}
