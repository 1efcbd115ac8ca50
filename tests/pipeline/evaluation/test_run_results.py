"""Contract of `unialign results`: each recipe once with what qualifies its figure, beside what papers report."""

import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.pipeline.evaluation.test_strange_runs import sign
from tests.pipeline.made_training import tiny_training, validated_dataset
from unialign.cli import app
from unialign.errors import MissingCache
from unialign.pipeline.evaluation.baselines import Row as BaselineRow
from unialign.pipeline.evaluation.baselines import record_baselines
from unialign.pipeline.evaluation.published import EVIDENCE, published_results
from unialign.pipeline.evaluation.run_results import FinishedRun, collect_results, read_run, split_of, spoken_recipe
from unialign.pipeline.training.run_data import Row, data_digest, data_text
from unialign.pipeline.training.run_folder import write_elsewhere
from unialign.pipeline.training.train import RunResult
from unialign.stages.datasets.catalog import DATASETS

DATASET = replace(validated_dataset(8, 4, 8), name="hmdb51")
Trained = tuple[RunResult, RunResult, RunResult]


@pytest.fixture(scope="module")
def trained(made_caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two seeds of one recipe, and another recipe."""
    runs = tmp_path_factory.mktemp("runs")
    first, second, other = (
        tiny_training(made_caches, runs, dataset=DATASET, epochs=1, **changed)
        for changed in ({"seed": 0}, {"seed": 3}, {"seed": 0, "lr": 0.02})
    )
    return first, second, other


@pytest.fixture
def runs(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0].folder.parent, tmp_path / "runs"))


def test_a_recipe_is_spoken_with_its_numbers() -> None:
    said = {"optimizer": "sgd", "lr": 0.1, "batch_size": 8}
    assert spoken_recipe({**said, "epochs": 1}) == "1 epoch, sgd 0.1, batch 8"
    views = {**said, "epochs": 20, "test_clips": 3}
    assert spoken_recipe(views, "wide") == "wide, 20 epochs, sgd 0.1, batch 8, 3x1 views"


def test_seeds_of_a_recipe_share_a_row_and_another_setting_is_another_row(runs: Path, trained: Trained) -> None:
    found = collect_results([runs])
    by_count = {len(row["runs"]): row for row in found["rows"]}
    assert sorted(by_count) == [1, 2]
    both = by_count[2]
    tops = [result.metrics["top1"] for result in trained[:2]]
    assert both["seeds"] == [0, 3]
    assert both["metrics"]["top1"] == statistics.mean(tops)
    assert both["deviations"]["top1"] == statistics.stdev(tops)
    assert by_count[1]["deviations"] == {}
    assert both["recipe"] != by_count[1]["recipe"]
    # The same samples in all three.
    assert both["splits"] == by_count[1]["splits"]
    assert both["coverage"] == {"train": 1.0, "val": 1.0, "test": 1.0}
    assert both["samples"] == {"train": 8, "val": 4, "test": 8}


def test_the_same_recipe_on_other_clips_is_a_row_of_its_own(runs: Path, made_caches: Path) -> None:
    tiny_training(made_caches, runs, dataset=replace(validated_dataset(6, 4, 8), name="hmdb51"), epochs=1, seed=0)
    rows = collect_results([runs])["rows"]
    assert sorted((row["samples"]["train"], len(row["runs"])) for row in rows) == [(6, 1), (8, 1), (8, 2)]
    assert len({row["recipe"] for row in rows}) == 2


def test_the_same_recipe_on_changed_clips_is_another_row(runs: Path, trained: Trained) -> None:
    """Clips of the same names with other content: another seed on them is no seed of the first row."""
    second = runs / trained[1].run
    keys = json.loads((second / "keys.json").read_text())
    table = (second / "data.csv").read_text().splitlines()
    place = table[1].rpartition(",")
    changed = "\n".join([table[0], f"{place[0]},{'0' * 32}", *table[2:], ""])
    (second / "data.csv").write_text(changed)
    (second / "keys.json").write_text(json.dumps({**keys, "data": data_digest(changed)}))
    sign(second)
    found = [row for row in collect_results([runs])["rows"] if len(row["seeds"]) == 1]
    assert len(found) == 3
    assert len({row["data"] for row in found}) == 2
    assert len({*(row["splits"][0] for row in found)}) == 1
    assert all("data" in row["differs"] for row in found)


def test_rows_of_one_task_say_in_which_settings_they_differ(runs: Path, made_caches: Path) -> None:
    tiny_training(made_caches, runs, dataset=DATASET, epochs=1, seed=0, lr=0.02, label_smoothing=0.2)
    found = sorted(collect_results([runs])["rows"], key=lambda row: (row["differs"]["settings.lr"], len(row["runs"])))
    mixed = [row["differs"].get("settings.label_smoothing", 0) for row in found]
    assert sorted(mixed) == [0, 0, 0.2]
    assert all({*row["differs"]} <= {"settings.lr", "settings.label_smoothing"} for row in found)
    shown = CliRunner().invoke(app, ["results", str(runs)], terminal_width=400, env={"COLUMNS": "400"})
    assert "label_smoothing 0.2" in shown.output


def test_a_run_that_lies_in_two_folders_counts_once(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "more")
    found = collect_results([runs, tmp_path / "more"])
    assert sorted(len(row["runs"]) for row in found["rows"]) == [1, 2]
    assert len(found["repeated"]) == 3
    assert all(str(tmp_path / "more") in folder for folder in found["repeated"])


def test_the_best_baseline_of_the_split_stands_beside_all_its_runs(runs: Path, trained: Trained) -> None:
    assert {row["baseline"] for row in collect_results([runs])["rows"]} == {None}
    for result, top1 in zip(trained[:2], (0.25, 0.75), strict=True):
        record_baselines(runs / result.run, [BaselineRow("ridge", "frames", top1, top1, 0.1)])
    for row in collect_results([runs])["rows"]:
        assert row["baseline"] == {"name": "ridge on frames", "top1": 0.75}


def test_a_split_is_its_samples_classes_and_tested_part(tmp_path: Path) -> None:
    def digest_of(*rows: tuple[str, str, str]) -> str:
        text = data_text([Row(name, part, label, {"poses": f"sha256:{name}"}) for name, part, label in rows])
        (tmp_path / "data.csv").write_text(text)
        return split_of(tmp_path, data_digest(text))[0]

    first = digest_of(("a", "train", "run"), ("b", "val", "run"), ("c", "test", "jump"))
    # What is set aside for validation is drawn by the seed, and does not make another split.
    assert digest_of(("a", "val", "run"), ("b", "train", "run"), ("c", "test", "jump")) == first
    assert digest_of(("a", "train", "run"), ("b", "test", "run"), ("c", "test", "jump")) != first
    assert digest_of(("a", "train", "run"), ("b", "val", "run"), ("c", "test", "run")) != first
    assert digest_of(("a", "train", "run"), ("c", "test", "jump")) != first
    assert split_of(tmp_path / "before", "") == ("", "")


def test_runs_that_cannot_be_used_are_named_and_the_others_stay(runs: Path, trained: Trained) -> None:
    first, second, other = (runs / result.run for result in trained)
    (first / "result.json").unlink()
    (second / "config.yaml").write_text("model: [")
    found = collect_results([runs])
    assert found["unfinished"] == [str(first)]
    assert [(each["run"], "config.yaml" in each["error"]) for each in found["unreadable"]] == [(str(second), True)]
    assert [row["runs"] for row in found["rows"]] == [[str(other)]]


def test_what_a_run_reached_on_another_dataset_is_a_row_of_that_dataset(runs: Path, trained: Trained) -> None:
    row = {
        "dataset": "ucf101",
        "protocol": "split1",
        "trained_on": ["hmdb51"],
        "split": "0" * 64,
        "used": 9,
        "missing": 1,
    }
    for result, top1 in zip(trained[:2], (0.5, 0.7), strict=True):
        write_elsewhere(runs / result.run, {**row, "metrics": {"top1": 0.1}})
        write_elsewhere(runs / result.run, {**row, "metrics": {"top1": top1}})
        write_elsewhere(runs / result.run, {**row, "protocol": "split2", "metrics": {"top1": 0.2}})
    found = collect_results([runs])
    (first, second) = (each for each in found["rows"] if each["dataset"] == "ucf101")
    assert (first["protocol"], second["protocol"]) == ("split1", "split2")
    assert first["metrics"] == {"top1": pytest.approx(0.6)}
    assert (first["seeds"], first["trained_on"], first["coverage"]) == ([0, 3], ["hmdb51"], {"test": 0.9})
    assert {each["dataset"] for each in found["published"]} == {"hmdb51", "ucf101"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("elsewhere.json", '{"rows": [{"dataset": "x"}]}'),
        ("baselines.json", '{"rows": [{"baseline": "svm", "features": "poses", "top1": 7}]}'),
        ("baselines.json", "[]"),
        ("config.yaml", "model: x\ndataset: y\nprotocol: z\nsettings: {lr: .nan}\n"),
        ("config.yaml", "model: x\ndataset: y\nprotocol: z\nsettings: {1: 2, a: 3}\n"),
    ],
)
def test_strange_files_are_named(runs: Path, trained: Trained, name: str, text: str) -> None:
    run = runs / trained[0].run
    (run / name).write_text(text)
    sign(run)
    (problem,) = collect_results([runs])["unreadable"]
    assert problem["run"] == str(run)
    assert name in problem["error"]


def test_the_share_of_the_published_size_is_beside_the_share_of_the_split(runs: Path, trained: Trained) -> None:
    run = read_run(runs / trained[0].run)
    assert isinstance(run, FinishedRun)
    (row, _) = collect_results([runs])["rows"]
    # The protocol "whole" of the tiny dataset is none of HMDB51's.
    assert row["published_share"] == {}
    from unialign.pipeline.evaluation.run_results import _published_share

    copied = replace(run, protocol="split1", used={"train": 3000, "val": 213, "test": 1377}, missing={})
    assert _published_share(copied) == {"train": 0.9, "test": 0.9}
    assert _published_share(replace(copied, shots=2)) == {}
    kinetics = replace(run, dataset="k400", protocol="official", used={"train": 120_218, "val": 0, "test": 9_898})
    assert _published_share(kinetics) == {"train": 0.5, "test": 0.5}


def test_the_command_shows_ours_and_theirs(runs: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["results", str(runs), "--json"])
    found = json.loads(shown.stdout)
    assert {row["dataset"] for row in found["published"]} == {"hmdb51"}
    text = CliRunner().invoke(app, ["results", str(runs)], env={"COLUMNS": "300"}, terminal_width=300).stdout
    assert "unialign (ours)" in text
    assert "56.6 ± 0.8" in text  # ALT-L/14 on HMDB51, zero-shot
    (tmp_path / "empty").mkdir()
    empty = CliRunner().invoke(app, ["results", str(tmp_path / "empty")])
    assert "no finished run" in empty.stdout
    wrong = CliRunner().invoke(app, ["results", str(tmp_path / "nowhere")])
    assert isinstance(wrong.exception, MissingCache)


def test_every_published_figure_is_a_fraction_with_evidence_and_of_a_known_dataset() -> None:
    rows = published_results()
    assert len(rows) > 100
    for row in rows:
        assert row.dataset in DATASETS.own, row
        assert row.evidence in EVIDENCE, row
        assert row.source, row
        assert row.metrics, row
        assert all(0 < value < 1 for value in row.metrics.values()), row
        assert row.evidence not in ("computed", "inferred") or row.note, row
    assert len({(row.dataset, row.protocol, row.shots, row.method, row.note) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("dataset", "protocol", "shots", "method", "top1"),
    [
        ("k400", "official", 0, "ALT-L/14", 0.881),
        ("hmdb51", "split1", 2, "ALT-B/16", 0.643),
        ("ucf101", "zero-shot, splits 1-3", 0, "ALT-L/14", 0.839),
        ("ntu120", "synse-96-24", 0, "DVTA", 0.5181),
        ("gym288", "official", 0, "ART, TEA", 0.844),
        ("ntu120", "xset", 0, "PoseConv3D, joint + limb", 0.903),
    ],
)
def test_figures_that_are_known_by_heart(dataset: str, protocol: str, shots: int, method: str, top1: float) -> None:
    tops = [
        row.metrics["top1"]
        for row in published_results()
        if (row.dataset, row.protocol, row.shots, row.method) == (dataset, protocol, shots, method)
    ]
    assert max(tops) == top1
