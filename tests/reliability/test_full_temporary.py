"""R31: a temporary folder that is full, and none at all: the same result, or one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import unprivileged
from tests.cache.test_store import tree_digest
from tests.made_extractor import extract, make_files
from tests.made_stores import frames_store, made_dataset, text_store
from tests.reliability.conftest import Report
from tests.reliability.scenes import sized
from tests.reliability.test_full_disk import small_disk

# Each piece of work prints its result, or what the command line would tell instead.
WORK = """
import json, sys
from pathlib import Path
if sys.argv[2] == "none":
    import tempfile
    tempfile._candidate_tempdir_list = lambda: ["/dev/null/none"]
from unialign.cache.access import explained
folder = Path(sys.argv[1])

def extraction(cluster):
    from tests.made_extractor import extract, make_files
    return extract(folder / f"cache{cluster}", make_files(folder / "files", 8), cluster=cluster).extracted

def training(workers):
    from tests.pipeline.made_training import tiny_training
    runs = folder / f"runs{sys.argv[2]}{workers}"
    found = tiny_training(folder / "made", runs, model={"modalities": ("video", "text")}, epochs=1, num_workers=workers)
    return dict(found.metrics)

if __name__ == "__main__":
    for name, value in json.loads(sys.argv[3]):
        try:
            print(json.dumps({"result": globals()[name](value)}), flush=True)
        except OSError as error:
            print(json.dumps({"error": explained(error)}), flush=True)
"""


def outcomes(folder: Path, kind: str, *work: tuple[str, object], **environment: str) -> list[dict[str, Any]]:
    script = folder / "work.py"
    script.write_text(WORK)
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    out = unprivileged.run(code, folder, kind, json.dumps(work), cwd=folder, **environment)
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(found) == len(work), out
    return found


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    frames_store(tmp_path / "made", made_dataset())
    text_store(tmp_path / "made")
    return tmp_path


def test_a_full_temporary_folder_changes_no_result(scene: Path, report: Report) -> None:
    work: list[tuple[str, object]] = [("extraction", ""), ("training", 0)]
    work += [("extraction", "local:2"), ("training", 1)] * sized(0, 1)
    plain = outcomes(scene, "room", ("training", 0))
    with small_disk(scene / "tmp", 1) as full:
        (full / "fill").write_bytes(bytes((1 << 20) - 4096))
        with pytest.raises(OSError, match="No space left"):
            (full / "more").write_bytes(bytes(8192))
        found = outcomes(scene, "full", *work, TMPDIR=str(full))
    assert [each for each in found if "error" in each] == []
    for (name, _), each in zip(work, found, strict=True):
        assert each == (plain[0] if name == "training" else {"result": 8})
    whole = tree_digest(extract(scene / "whole", make_files(scene / "files", 8)).store)
    assert tree_digest(next((scene / "cache" / "made" / "poses").glob("[!.]*.zarr"))) == whole
    report("R31", temporary_folder="full", works=len(work), differences=0, silent=0)


def test_without_any_temporary_folder_what_needs_one_says_so(scene: Path, report: Report) -> None:
    found = outcomes(scene, "none", ("extraction", ""), ("extraction", "local:1"), ("training", 0))
    assert found[0] == {"result": 8}
    for each in found[1:]:
        assert "set TMPDIR to a folder with room" in each["error"]
    report("R31", temporary_folder="none", works=len(found), one_sentence=2, silent=0)
