"""`unialign report` on small real runs: a page whose numbers are those of the run's files."""

import base64
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.chromium import chromium
from tests.made_stores import CLASSES, made_dataset
from tests.pipeline.made_training import tiny_training
from unialign.cli import app
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.ablation.grid import Trial
from unialign.pipeline.ablation.results import Ablation, TrialResult, rows_of
from unialign.pipeline.ablation.stored import read_ablation
from unialign.pipeline.ablation.tables import write_tables
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.pages.overview import write_overview
from unialign.pipeline.pages.report import write_report
from unialign.pipeline.training.run_folder import read_predictions

ROWS = {"video": ["video"], "all </script>": ["video", "pose", "text"]}


@pytest.fixture(scope="module")
def config(made_caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An ablation of two rows and two seeds, one epoch each, with its tables, on the stores of `made_dataset`."""
    runs = tmp_path_factory.mktemp("runs")
    save_manifest(made_dataset(), made_caches)
    results = []
    for row, modalities in ROWS.items():
        for seed in (0, 1):
            found = tiny_training(
                made_caches,
                runs,
                model={"modalities": modalities},
                row=row,
                epochs=1,
                seed=seed,
                dataset=made_dataset(),
            )
            results.append(
                TrialResult(Trial(row, seed, ()), str(found.folder), found.metrics, 1.0, found.keys, reused=False)
            )
    baselines = ({"baseline": "1-nn", "features": "frames", "top1": 0.75, "seconds": 0.1, "chosen": ""},)
    ablation = Ablation("tiny", tuple(results), rows_of(list(ROWS), results), 0, baselines=baselines)
    write_tables(ablation, runs / "ablations" / "tiny")
    return with_values(Config(), {"dataset": "tiny", "cache": made_caches, "runs": runs})


def content_of(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    (data,) = re.findall(r'id="data">([A-Za-z0-9+/=]*)</script>', text)
    return json.loads(gzip.decompress(base64.b64decode(data)))


def numbers(value: Any) -> list[int]:
    kind = {"u8": np.uint8, "u16": np.uint16, "i16": np.int16, "f32": np.float32}[value["kind"]]
    return np.frombuffer(base64.b64decode(value["data"]), kind).tolist()  # type: ignore[no-any-return]


def test_the_newest_is_the_ablation_and_its_numbers_are_those_of_its_files(config: Config) -> None:
    page = write_report(config)
    assert page.path == config.runs / "ablations" / "tiny" / "report.html"
    assert page.bytes == page.path.stat().st_size < 1_000_000
    found = content_of(page.path)
    assert [row["name"] for row in found["rows"]] == list(ROWS)
    stored = read_ablation(page.path.parent)
    assert [row["mean"] for row in found["rows"]] == [row["top1"] for row in stored.rows()]
    assert [[seed["top1"] for seed in row["seeds"]] for row in found["rows"]] == [
        [each.metrics["top1"] for each in stored.results if each.trial.row == row] for row in ROWS
    ]
    assert found["baselines"][0]["name"] == "1-nn on frames"
    for place, result in enumerate(stored.results):
        predictions = read_predictions(Path(result.run))
        assert predictions is not None
        assert numbers(found["clips"]["predicted"][place]) == predictions["probabilities"].argmax(axis=1).tolist()
        assert numbers(found["clips"]["labels"]) == predictions["labels"].tolist()
    assert found["classes"] == list(CLASSES)
    # The full row's clips are shown, with what the network attends to; every test clip fits.
    assert found["runs"][found["main"]]["label"] == "all </script>, seed 0"
    assert len(found["shown"]) == 8
    assert all(
        len(clip["weights"]) == 2 and sum(clip["weights"]) == pytest.approx(1, abs=1e-3) for clip in found["shown"]
    )
    assert all(len(clip["texts"]) == len(clip["top"]) == 4 for clip in found["shown"])
    # What is said of a clip is what the run's test said, with the weights of its heads.
    main = read_predictions(Path(stored.results[found["main"]].run))
    assert main is not None
    for clip in found["shown"]:
        shares = main["probabilities"][clip["clip"]]
        assert clip["top"][0] == [int(shares.argmax()), pytest.approx(float(shares.max()), abs=1e-4)]
    assert "modalities" not in found["clips"]
    assert found["texts"]["nearest"]
    assert found["coverage"]["samples"] == [5, 5, 5, 5]
    assert found["map"]["clips"] == list(range(8))
    assert [len(curve["loss"]) for curve in found["speed"]["curves"]] == [1, 1, 1, 1]


def test_the_same_run_gives_the_same_file(config: Config, tmp_path: Path) -> None:
    pages = [write_report(config, Path("tiny"), out=tmp_path / name).path for name in ("a.html", "b.html")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_a_run_by_its_name_without_stores_keeps_its_numbers(config: Config, tmp_path: Path) -> None:
    run = next(path for path in sorted(config.runs.iterdir()) if "all" in path.name)
    bare = with_values(config, {"cache": tmp_path / "nothing"})
    page = write_report(bare, Path(run.name[:-6]), out=tmp_path / "page.html")
    found = content_of(page.path)
    assert found["rows"][0]["mean"] == json.loads((run / "result.json").read_text())["metrics"]["top1"]
    assert (found["shown"], found["texts"], found["coverage"], found["map"]) == ([], None, None, None)
    assert "cannot be opened" in found["chosen"]


def test_answers_that_would_not_fit_are_left_out_and_said(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("unialign.pipeline.pages.answers.MOST_ANSWERS", 10)
    found = content_of(write_report(config, Path("tiny"), out=tmp_path / "page.html").path)
    assert [run["seed"] for run in found["runs"]] == [0, 0]
    assert len(found["clips"]["ids"]) == 5
    assert "2 of 4 runs" in found["chosen"]
    assert "5 of 8 clips" in found["chosen"]
    # The rows are still those of all seeds and clips.
    assert [len(row["seeds"]) for row in found["rows"]] == [2, 2]


def test_what_is_not_there_is_said_in_one_sentence(config: Config, tmp_path: Path) -> None:
    with pytest.raises(MissingCache, match="no finished run in"):
        write_report(with_values(config, {"runs": tmp_path}))
    with pytest.raises(MissingCache, match="is not a run"):
        write_report(config, Path("nobody"))
    folder = Path(shutil.copytree(config.runs / "ablations", tmp_path / "ablations")) / "tiny"
    table = json.loads((folder / "ablation.json").read_text())
    for broken in ({**table, "rows": [{"row": 1}]}, {**table, "trials": [{"row": "video"}]}, []):
        (folder / "ablation.json").write_text(json.dumps(broken))
        with pytest.raises(MissingCache.__mro__[1], match=r"ablation\.json cannot be used"):
            write_report(config, folder)
    (folder / "ablation.json").write_text(json.dumps({**table, "trials": []}))
    with pytest.raises(MissingCache, match="no finished run"):
        write_report(config, folder)


def test_runs_without_common_clips_are_not_put_side_by_side(config: Config) -> None:
    from unialign.pipeline.pages.answers import read_answers, side_by_side

    run = next(path for path in sorted(config.runs.iterdir()) if "all" in path.name)
    one = read_answers(run, 0, "one")
    other = one.at(np.arange(4))
    assert side_by_side([one, other])[0].ids == other.ids
    with pytest.raises(UsageError, match="no test clip in common"):
        side_by_side([one.at(np.arange(4, 8)), other])


def test_one_picture_shows_clips_beside_the_rows(config: Config, tmp_path: Path) -> None:
    ablation = read_ablation(config.runs / "ablations" / "tiny")
    full = next(Path(each.run) for each in ablation.results if each.trial.row == "all </script>")
    drawn = [write_overview(tmp_path / name, full, ablation, config.cache) for name in ("a", "b")]
    assert drawn[0] is not None
    assert drawn[1] is not None
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    with Image.open(drawn[0]) as picture:
        assert min(picture.size) > 300
    assert write_overview(tmp_path / "c", full, ablation, tmp_path / "nothing") is None


def test_the_commands_write_the_pages_and_say_where(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = ["--cache", str(config.cache), "--json"]
    done = CliRunner().invoke(app, ["report", "tiny", "--runs", str(config.runs), "--out", "a/page.html", *places])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"path": str(tmp_path / "a" / "page.html"), "bytes": found["bytes"], "what": "tiny"}
    assert content_of(tmp_path / "a" / "page.html")["title"].startswith("tiny: 2 rows")
    done = CliRunner().invoke(app, ["browse", *places])
    assert done.exit_code == 0, done.output
    assert content_of(tmp_path / "browse.html")["title"] == "made: 20 samples in 4 stores"
    done = CliRunner().invoke(app, ["report", "nobody", "--runs", str(config.runs)])
    assert isinstance(done.exception, MissingCache)


def test_a_browser_plays_the_clips_with_their_skeletons(config: Config, tmp_path: Path) -> None:
    path = write_report(config, Path("tiny"), out=tmp_path / "page.html").path
    with chromium(tmp_path) as browser:
        browser.open(path)
        assert browser.messages == []
        browser.look("new Promise(done => setTimeout(done, 300))")
        colours = (
            "(() => { const film = document.querySelector('canvas.film'); const found = new Set();"
            "const data = film.getContext('2d').getImageData(0, 0, film.width, film.height).data;"
            "for (let at = 0; at < data.length; at += 4) found.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);"
            "return found.size; })()"
        )
        assert browser.look(colours) > 20  # not the empty background
        assert browser.look("document.querySelectorAll('.pair canvas').length") >= 1
        before = browser.look("document.querySelector('input[type=range]').value")
        browser.key("ArrowRight")
        assert browser.look("document.querySelector('input[type=range]').value") != before
        assert "all </script>" in browser.look("document.body.textContent")
