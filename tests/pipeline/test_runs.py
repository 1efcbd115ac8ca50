"""`unialign runs`: listing, comparing class by class, and removing what nothing rests on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.forked_command import run_forked
from tests.pipeline.made_training import tiny_training
from unialign.errors import LockedStore, MissingCache, UsageError
from unialign.pipeline.runs import compare_classes, describe_run, list_runs, remove_run
from unialign.pipeline.training.run_folder import read_predictions, read_result
from unialign.pipeline.training.train import RunResult


@pytest.fixture(scope="module")
def trained(made_caches: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, RunResult]:
    """Two finished runs of one folder."""
    runs = tmp_path_factory.mktemp("runs") / "runs"
    return tiny_training(made_caches, runs), tiny_training(made_caches, runs, seed=1, lr=0.02)


@pytest.fixture
def runs(trained: tuple[RunResult, RunResult], tmp_path: Path) -> Path:
    """A copy of the folder, which may be changed."""
    return Path(shutil.copytree(trained[0].folder.parent, tmp_path / "runs"))


def test_the_list_has_accuracy_interval_and_size_and_what_is_unfinished_or_broken(
    runs: Path, trained: tuple[RunResult, RunResult]
) -> None:
    first, second = (found.run for found in trained)
    (runs / first / "result.json").unlink()
    broken = Path(shutil.copytree(runs / second, runs / "broken"))
    (broken / "result.json").write_text("{}")
    found = {line.run: line for line in list_runs(runs)}
    assert found.keys() == {first, second, "broken"}
    line = found[second]
    assert line.finished
    assert (line.model, line.epoch, line.tested) == ("unialign", 3, trained[1].samples["test"]["used"])
    assert line.top1 == trained[1].metrics["top1"]
    assert line.low is not None
    assert line.high is not None
    assert 0 <= line.low <= line.top1 <= line.high <= 1
    assert line.size == sum(path.stat().st_size for path in (runs / second).rglob("*") if path.is_file())
    assert (found[first].finished, found[first].top1, found[first].epoch) == (False, None, 3)
    assert "result.json" in found["broken"].problem
    with pytest.raises(MissingCache, match="there are no runs in"):
        list_runs(runs / "nothing")


def test_two_runs_are_compared_by_setting_and_class_on_the_clips_of_both(
    runs: Path, trained: tuple[RunResult, RunResult]
) -> None:
    folders = [runs / each.run for each in trained]
    found = compare_classes(*folders)
    assert {row["field"] for row in found["settings"]} == {"settings.seed", "settings.lr"}
    tops = [read_result(folder)["metrics"]["top1"] for folder in folders]
    assert found["top1"] == pytest.approx(tops)
    assert found["change"] == pytest.approx(tops[1] - tops[0])
    assert found["low"] <= found["change"] <= found["high"]
    assert (found["only_second"] - found["only_first"]) / found["tested"] == pytest.approx(found["change"])
    assert sum(row["samples"] for row in found["classes"]) == found["tested"]
    changes = [abs(row["change"]) for row in found["classes"]]
    assert changes == sorted(changes, reverse=True)
    # Each class by hand.
    arrays = [read_predictions(folder) for folder in folders]
    for label, row in enumerate(sorted(found["classes"], key=lambda row: str(row["name"]))):
        for side, name in zip(arrays, ("first", "second"), strict=True):
            assert side is not None
            of_class = side["labels"] == label
            right = side["probabilities"].argmax(axis=1) == side["labels"]
            assert row[name] == pytest.approx(np.mean(right[of_class]))


def test_a_run_that_something_rests_on_is_kept_and_others_go(
    runs: Path, made_caches: Path, trained: tuple[RunResult, RunResult]
) -> None:
    first, second = (runs / found.run for found in trained)
    table = runs / "ablations" / "grid" / "ablation.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps({"results": [{"run": str(first)}]}))
    assert describe_run(first, runs, made_caches)["rests"] == ["the ablation grid lists it"]
    with pytest.raises(UsageError, match="is needed: the ablation grid lists it"):
        remove_run(first, runs, made_caches)
    assert first.is_dir()
    assert remove_run(second, runs, made_caches) > 0
    assert not second.exists()


def test_a_run_in_training_is_not_removed(
    runs: Path, made_caches: Path, trained: tuple[RunResult, RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    from unialign.pipeline import runs as module

    taken: list[Path] = []

    @contextmanager
    def locked(path: Path, root: Path):  # type: ignore[no-untyped-def]
        taken.append(path)
        raise LockedStore("held")
        yield

    monkeypatch.setattr(module, "store_lock", locked)
    folder = runs / trained[0].run
    with pytest.raises(LockedStore, match="a process trains this run"):
        remove_run(folder, runs, made_caches)
    assert folder.is_dir()
    # The lock that training holds.
    assert taken[0].name == f"{trained[0].dataset}-unialign-{trained[0].key[:12]}"


def test_the_command_asks_before_it_deletes(
    runs: Path, trained: tuple[RunResult, RunResult], fork_server: None, tmp_path: Path
) -> None:
    refused = run_forked("runs", "rm", trained[0].run, cwd=tmp_path, code=2)
    assert "give --yes" in refused["error"]
    done = run_forked("runs", "rm", trained[0].run, "--yes", cwd=tmp_path)
    assert done["removed"] == [trained[0].run]
    assert [line["run"] for line in run_forked("runs", "ls", cwd=tmp_path)["found"]] == [trained[1].run]
