"""Contract of a sweep: every trial once, changes paired by seed, and a count of what was extracted meanwhile."""

import csv
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.made_extractor import extract, make_files
from unialign.errors import UsageError
from unialign.pipeline.ablation import sweep
from unialign.pipeline.ablation.grid import Grid, Trial, read_grid, trials
from unialign.pipeline.ablation.results import FailedTrial, TrialResult
from unialign.pipeline.ablation.sweep import run_ablation
from unialign.pipeline.ablation.trials import TrialOutcome
from unialign.pipeline.config import Config
from unialign.pipeline.evaluation.baselines import Row

GRID = """
name: modalities
set: {train.settings.epochs: 2}
seeds: [0, 1]
rows:
  - {name: video, set: {train.unialign.modalities: [video]}}
  - {name: video + text, set: {train.unialign.modalities: [video, text]}}
"""


def grid(tmp_path: Path, text: str = GRID) -> Grid:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    return read_grid(path)


def test_rows_times_seeds_with_common_values(tmp_path: Path) -> None:
    found = trials(grid(tmp_path))
    assert [(trial.row, trial.seed) for trial in found] == [
        ("video", 0),
        ("video", 1),
        ("video + text", 0),
        ("video + text", 1),
    ]
    assert dict(found[3].values) == {
        "train.settings.epochs": 2,
        "train.unialign.modalities": ["video", "text"],
        "train.settings.seed": 1,
    }


def test_seeds_may_set_values_such_as_the_features_of_their_own_encoder(tmp_path: Path) -> None:
    seeds = "seeds:\n  0: {train.stores.pose-features: a}\n  1: {train.stores.pose-features: b}\n"
    found = grid(tmp_path, GRID.replace("seeds: [0, 1]\n", seeds))
    stores = [(trial.seed, dict(trial.values)["train.stores.pose-features"]) for trial in trials(found)]
    assert stores == [(0, "a"), (1, "b"), (0, "a"), (1, "b")]
    assert {trial.seed for trial in trials(found.with_seeds([1]))} == {1}
    with pytest.raises(UsageError, match="has none for 2"):
        found.with_seeds([2])


def test_another_name_keeps_the_tables_of_two_datasets_apart(tmp_path: Path) -> None:
    made = grid(tmp_path, "name: one\nrows: [{name: first}]")
    assert made.with_name("ntu60-one") == made.model_copy(update={"name": "ntu60-one"})
    for name in ("", "a/b", "..", "-x", "two words", "a\n"):
        with pytest.raises(UsageError, match="cannot be the name of an ablation"):
            made.with_name(name)


def test_axes_make_every_combination(tmp_path: Path) -> None:
    found = grid(tmp_path, "name: x\naxes: {train.unialign.cmsa: [A, B], train.unialign.momentum: [0, 1]}\n").all_rows()
    assert [row.name for row in found] == [
        "cmsa=A, momentum=0",
        "cmsa=A, momentum=1",
        "cmsa=B, momentum=0",
        "cmsa=B, momentum=1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n", "rows.*axes"),
        ("name: ../x\nrows: [{name: a}]\n", "name"),
        ("name: x\nrows: [{name: a}, {name: a}]\n", "same name"),
        ("name: x\nrows: [{name: a, sett: {}}]\n", "rows.0.sett"),
        ("name: x\nrows: {a: {}}\n", "rows: input should be a list"),
        ("name: x\nseeds: []\nrows: [{name: a}]\n", "seeds"),
        ("name: x\nseeds: [1, 1]\nrows: [{name: a}]\n", "seeds.*twice"),
        ("{", "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_grid_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grid(tmp_path, text)


def fake_train(trial: Trial) -> TrialResult:
    top1 = 0.5 + 0.1 * trial.seed + (0.2 if "text" in trial.row else 0.0)
    return TrialResult(
        trial, f"run-{trial.row}-{trial.seed}", {"top1": top1}, 1.0, {"frames": {"key": "0" * 64}}, reused=False
    )


def each(train: Callable[[Trial], TrialOutcome]) -> Callable[[Sequence[Trial], Callable[[TrialOutcome], None]], None]:
    """All trials, the last one first: the order in which they end does not matter."""

    def run(todo: Sequence[Trial], done: Callable[[TrialOutcome], None]) -> None:
        for trial in reversed(todo):
            done(train(trial))

    return run


def test_baselines_stand_below_the_rows_in_every_table_for_people(tmp_path: Path) -> None:
    svm = {"baseline": "svm", "features": "poses", "top1": 0.9, "mean_class": 0.8, "seconds": 1.25, "chosen": "C 1"}
    folder = tmp_path / "out"
    run_ablation(
        grid(tmp_path), each(fake_train), cache=tmp_path / "cache", folder=folder, baselines=lambda ablation: [svm]
    )
    assert "| baseline: svm on poses | - | 90.0 |" in (folder / "ablation.md").read_text()
    assert "baseline: svm on poses & - & $90.0$" in (folder / "ablation.tex").read_text()
    assert json.loads((folder / "ablation.json").read_text())["baselines"] == [svm]
    assert "baseline" not in (folder / "ablation.csv").read_text()


def test_baselines_are_those_of_every_seed_where_seeds_have_features_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {  # by store: 1-nn is the best of the first, svm on average
        "a": (Row("1-nn", "pose-features", 0.9, 0.9, 0.1), Row("svm", "pose-features", 0.8, 0.7, 0.1)),
        "b": (Row("1-nn", "pose-features", 0.5, 0.5, 0.1), Row("svm", "pose-features", 0.7, 0.7, 0.1)),
    }
    monkeypatch.setattr(sweep, "the_dataset", lambda config: None)
    monkeypatch.setattr(sweep, "record_baselines", lambda folder, rows: None)
    monkeypatch.setattr(sweep, "quick_rows", lambda config, dataset, read: found[config.train.stores["pose-features"]])
    seeds = "seeds:\n  0: {train.stores.pose-features: a}\n  1: {train.stores.pose-features: b}\n"
    ablation = run_ablation(
        grid(tmp_path, GRID.replace("seeds: [0, 1]\n", seeds)),
        each(fake_train),
        cache=tmp_path / "cache",
        folder=tmp_path / "out",
        baselines=partial(sweep.baselines_of, Config()),
    )
    (row,) = ablation.baselines
    assert (row["baseline"], row["seeds"]) == ("svm", 2)
    assert (row["top1"], row["mean_class"]) == (pytest.approx(0.75), pytest.approx(0.7))
    assert row["top1_std"] == pytest.approx(0.0707, abs=1e-4)
    assert "| baseline: svm on pose-features | 2 | 75.0 ± 7.1 |" in (tmp_path / "out" / "ablation.md").read_text()


def test_the_table_has_means_deviations_and_paired_changes(tmp_path: Path) -> None:
    counts = []
    found = run_ablation(
        grid(tmp_path),
        each(fake_train),
        cache=tmp_path / "cache",
        folder=tmp_path / "out",
        report=lambda outcome, done, total: counts.append((outcome.trial.seed, done, total)),
    )
    rows = list(csv.DictReader((tmp_path / "out" / "ablation.csv").read_text().splitlines()))
    assert [float(row["top1"]) for row in rows] == pytest.approx([0.55, 0.75])
    assert float(rows[1]["change"]) == pytest.approx(0.2)
    assert float(rows[1]["top1_std"]) == pytest.approx(0.0707, abs=1e-4)
    assert "| video + text | 2 | 75.0 ± 7.1 |" in (tmp_path / "out" / "ablation.md").read_text()
    assert "video + text & $2$ & $75.0" in (tmp_path / "out" / "ablation.tex").read_text()
    assert json.loads((tmp_path / "out" / "ablation.json").read_text())["extracted"] == found.extracted == 0
    assert found.baselines == ()
    # As in the grid, whichever ended first.
    assert [result.trial for result in found.results] == list(trials(grid(tmp_path)))
    assert counts == [(1, 1, 4), (0, 2, 4), (1, 3, 4), (0, 4, 4)]


def test_a_failure_leaves_the_rows_of_the_others(tmp_path: Path) -> None:
    def train(trial: Trial) -> TrialOutcome:
        return FailedTrial(trial, "no luck.") if (trial.row, trial.seed) == ("video", 1) else fake_train(trial)

    found = run_ablation(grid(tmp_path), each(train), cache=tmp_path / "cache", folder=tmp_path / "out")
    assert [(row["row"], row["seeds"]) for row in found.rows()] == [("video", 1), ("video + text", 2)]
    # Paired over the seed that both have.
    assert found.rows()[1]["change"] == pytest.approx(0.2)
    written = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert written["failed"] == [{"row": "video", "seed": 1, "error": "no luck.", "exit_code": 1}]
    assert "Failed: 1 training run." in (tmp_path / "out" / "ablation.md").read_text()


def test_where_all_fail_no_table_is_written(tmp_path: Path) -> None:
    found = run_ablation(
        grid(tmp_path),
        each(lambda trial: FailedTrial(trial, "no luck.")),
        cache=tmp_path / "cache",
        folder=tmp_path / "out",
    )
    assert len(found.failed) == 4
    assert not (tmp_path / "out").exists()


def test_an_extraction_during_the_sweep_would_be_counted(tmp_path: Path) -> None:
    def cheating(trial: Trial) -> TrialResult:
        extract(tmp_path / "cache", make_files(tmp_path / "files", 3))
        return fake_train(trial)

    found = run_ablation(grid(tmp_path), each(cheating), cache=tmp_path / "cache", folder=tmp_path / "out")
    assert found.extracted == 3
