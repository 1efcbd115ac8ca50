"""Contract of a run's identity: it rests on what the samples were made from, and two runs can say why they differ."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.io import loadmat, savemat
from typer.testing import CliRunner

from tests.made_stores import made_dataset
from tests.pipeline.made_training import tiny_training, unsigned, validated_dataset
from tests.pipeline.made_utd import called, write_files
from unialign.cli import app
from unialign.errors import DamagedStore, MissingCache, StaleCache
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.evaluation.compare_runs import compare_runs, data_differences
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.training.from_config import cached_readers
from unialign.pipeline.training.run_data import Row, data_text, duplicates
from unialign.pipeline.training.train import RunResult
from unialign.stages.datasets.base import Sample, Split

SMALL = ("train.encoder.width=8", "train.encoder.clip_len=8", "train.settings.device=cpu", "train.settings.epochs=1")
WHERE = ("--dataset", "utd-mhad", "--root", "files", "--json")


def extract() -> dict[str, Any]:
    return dict(json.loads(called("extract", "poses", "--source", "skeleton", *WHERE).splitlines()[-1]))


def train(*flags: str) -> dict[str, Any]:
    return dict(json.loads(called("train", "--model", "stgcn++", *flags, *WHERE, *SMALL).splitlines()[-1]))


def change(path: Path) -> None:
    """Other numbers in the same file."""
    skeleton = loadmat(path)["d_skel"]
    savemat(path, {"d_skel": skeleton + 0.01})


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "files")
    return tmp_path


def test_stale(work: Path) -> None:
    """Changed sources are noticed before and after they are extracted again; the run of before is never the answer."""
    before = {path.name: path.read_bytes() for path in (work / "files").iterdir()}
    extract()
    first = train()
    assert train()["reused"]
    change(work / "files" / "a3_s1_t1_skeleton.mat")
    change(work / "files" / "a2_s2_t1_skeleton.mat")
    refused = CliRunner().invoke(app, ["train", "--model", "stgcn++", *WHERE, *SMALL])
    assert refused.exception is not None
    assert "2 samples were made from other sources than those there now" in str(refused.exception)
    assert extract()["extracted"] == 2
    second = train()
    assert not second["reused"]
    assert (second["key"] != first["key"], second["keys"]["poses"]["key"]) == (True, first["keys"]["poses"]["key"])
    why = json.loads(called("why", first["folder"], second["folder"], "--json"))
    assert why["data"]["source"] == {"count": 2, "examples": ["a2_s2_t1", "a3_s1_t1"]}
    assert [why[name] for name in ("settings", "code", "stores", "libraries")] == [[], [], [], []]
    assert not why["same_run"]
    assert "samples made from other files" in called("why", first["folder"], second["folder"])
    # As it was before, the first run is the answer again.
    for name, data in before.items():
        (work / "files" / name).write_bytes(data)
    assert extract()["extracted"] == 2
    assert (train()["reused"], train()["run"]) == (True, first["run"])


def test_features_are_compared_with_the_files_behind_the_poses(work: Path) -> None:
    extract()
    encoder = train()["exported"]
    called("extract", "pose-features", "--weights", encoder, *WHERE)
    config = with_values(Config(), {"dataset": "utd-mhad", "data": work / "files"})
    assert cached_readers(("pose-features",), the_dataset(config), config, check=True).keys() == {"pose-features"}
    change(work / "files" / "a1_s1_t1_skeleton.mat")
    with pytest.raises(StaleCache, match="1 sample was made from other sources") as refused:
        cached_readers(("pose-features",), the_dataset(config), config, check=True)
    assert "extract poses --dataset utd-mhad` and `unialign extract pose-features" in str(refused.value)
    assert extract()["extracted"] == 1
    with pytest.raises(StaleCache, match="1 sample"):
        cached_readers(("pose-features",), the_dataset(config), config, check=True)


def test_a_changed_result_is_not_reused(work: Path) -> None:
    extract()
    path = Path(train()["folder"]) / "result.json"
    path.write_text(path.read_text().replace('"epochs": 1', '"epochs": 2'))
    refused = CliRunner().invoke(app, ["train", "--model", "stgcn++", *WHERE, *SMALL])
    assert isinstance(refused.exception, DamagedStore)
    assert "result.json was changed after the run had ended" in str(refused.exception)
    with pytest.raises(DamagedStore, match="was changed"):
        compare_runs(path.parent, path.parent)
    again = train("--overwrite")
    assert (again["reused"], Path(again["folder"])) == (False, path.parent)
    assert '"epochs": 1' in path.read_text()
    assert train()["reused"]


def test_a_result_that_lost_its_digest_is_not_reused(work: Path) -> None:
    """A key of today is that of a run whose result had one, whatever else is gone from the folder."""
    extract()
    folder = Path(train()["folder"])
    result = json.loads((folder / "result.json").read_text())
    del result["digest"], result["files"]
    result["metrics"]["top1"] = 0.987
    (folder / "result.json").write_text(json.dumps(result))
    for path in ("data.csv", "keys.json"):
        with pytest.raises(DamagedStore, match="was changed after the run had ended"):
            compare_runs(folder, folder)
        (folder / path).unlink()
        refused = CliRunner().invoke(app, ["train", "--model", "stgcn++", *WHERE, *SMALL])
        assert isinstance(refused.exception, DamagedStore)
        assert "move the folder away" in str(refused.exception)


def test_copies_across_the_split_are_named(work: Path) -> None:
    for action in (1, 2, 3):
        (work / "files" / f"a{action}_s2_t1_skeleton.mat").write_bytes(
            (work / "files" / f"a{action}_s1_t1_skeleton.mat").read_bytes()
        )
    extract()
    shown = CliRunner().invoke(app, ["train", "--model", "stgcn++", *WHERE, *SMALL])
    assert shown.exit_code == 0
    assert "3 in both test and train (a1_s2_t1 = a1_s1_t1" in " ".join(shown.stderr.split())
    data = json.loads(shown.stdout)["data"]
    assert data["duplicates"] == {"train-test": 3}
    assert data["duplicate_examples"][0] == [["train", "a1_s1_t1"], ["test", "a1_s2_t1"]]


def test_classes_of_one_side_are_named_and_unknown_ones_count_wrong(work: Path) -> None:
    (work / "files" / "a5_s1_t1_skeleton.mat").unlink()  # action 5 is tested only
    (work / "files" / "a2_s2_t1_skeleton.mat").unlink()  # action 2 is trained only
    extract()
    shown = CliRunner().invoke(app, ["train", "--model", "stgcn++", *WHERE, *SMALL])
    said = " ".join(shown.stderr.split())
    assert "classes only in test, with their samples: class 4 (1); they count as wrong." in said
    assert "classes only in train, with their samples: class 1 (1)." in said
    result = json.loads(shown.stdout)
    assert result["data"]["only_test"] == {"class 4": 1}
    assert result["samples"]["test"]["used"] == 4
    assert (result["metrics"]["coverage"], result["metrics"]["top1"] <= 3 / 4) == (1.0, True)
    found = json.loads(called("evaluate", result["folder"], *WHERE[:-1], "--json"))
    assert (found["agrees"], found["metrics"]) == (True, result["metrics"])
    rows = {row["name"]: row for row in found["per_class"]}
    assert (rows["class 4"]["samples"], rows["class 4"]["correct"]) == (1, 0)


def tiny(cache: Path, runs: Path, **more: Any) -> RunResult:
    return tiny_training(cache, runs, epochs=1, **more)


def test_another_label_part_or_source_is_another_run_and_is_named(made_caches: Path, tmp_path: Path) -> None:
    dataset = validated_dataset(8, 4, 8)
    first = tiny(made_caches, tmp_path, dataset=dataset)
    samples = list(dataset.samples)
    samples[0] = replace(samples[0], label=3)
    relabelled = tiny(made_caches, tmp_path, dataset=replace(dataset, samples=tuple(samples)))

    def moved(all_samples: Sequence[Sample]) -> Split:
        split = dataset.split()
        return Split(split.train[1:], split.test, (*split.val, split.train[0]))

    other = tiny(made_caches, tmp_path, dataset=replace(dataset, protocols={"whole": moved}))
    assert len({first.key, relabelled.key, other.key}) == 3
    found = compare_runs(first.folder, relabelled.folder)
    assert {kind: each["count"] for kind, each in found["data"].items() if each["count"]} == {"label": 1}
    found = compare_runs(first.folder, other.folder)
    assert found["data"]["part"] == {"count": 1, "examples": ["clip000"]}
    assert found["settings"] == []


def test_settings_that_change_no_result_are_told_apart(made_caches: Path, tmp_path: Path) -> None:
    first = tiny(made_caches, tmp_path / "a")
    second = tiny(made_caches, tmp_path / "b", lr=0.02, keep=5)
    found = {row["field"]: row["decides"] for row in compare_runs(first.folder, second.folder)["settings"]}
    assert found == {"settings.keep": False, "settings.lr": True}


def test_a_run_of_before_there_was_a_table_of_samples_is_compared_still(made_caches: Path, tmp_path: Path) -> None:
    done = tiny(made_caches, tmp_path / "a")
    old = tiny(made_caches, tmp_path / "b")
    unsigned(old.folder)
    (old.folder / "data.csv").unlink()
    keys = json.loads((old.folder / "keys.json").read_text())
    del keys["data"], keys["revision"]
    (old.folder / "keys.json").write_text(json.dumps(keys))
    result = json.loads((old.folder / "result.json").read_text())
    del result["digest"]
    (old.folder / "result.json").write_text(json.dumps(result))
    found = compare_runs(old.folder, done.folder)
    assert found["data"] is None
    assert [row["field"] for row in found["code"]] == ["revision"]
    assert found["unsigned"] == [old.run]
    assert "not signed" in called("why", old.folder, done.folder)
    assert "not recorded" in called("why", old.folder, done.folder)


def test_a_changed_table_of_samples_is_noticed(made_caches: Path, tmp_path: Path) -> None:
    done = tiny(made_caches, tmp_path)
    path = done.folder / "data.csv"
    path.write_text(path.read_text().replace("clip000", "clip999"))
    with pytest.raises(DamagedStore, match=r"data.csv is not what was written"):
        compare_runs(done.folder, done.folder)


@pytest.mark.parametrize("name", ["config.yaml", "keys.json", "env.json"])
def test_a_file_of_a_run_that_was_changed_after_its_end_is_noticed(
    made_caches: Path, tmp_path: Path, name: str
) -> None:
    """Otherwise `why` would name a difference that is none, and `evaluate` measure with settings of today."""
    done, other = tiny(made_caches, tmp_path / "a"), tiny(made_caches, tmp_path / "b")
    changes = {"config.yaml": ("num_frames: 2", "num_frames: 1"), "keys.json": ('"used": 8', '"used": 9')}
    path = done.folder / name
    before = path.read_text()
    path.write_text(before.replace(*changes.get(name, ('"threads": ', '"threads": 1'))))
    assert path.read_text() != before
    for folders in ((done.folder, other.folder), (other.folder, done.folder)):
        with pytest.raises(DamagedStore, match=rf"{name} was changed after the run had ended; move the folder away"):
            compare_runs(*folders)
    if name != "env.json":
        with pytest.raises(DamagedStore, match=f"{name} was changed"):
            evaluate_run(done.folder, made_dataset(), cache=made_caches)


def test_a_finished_run_whose_encoder_is_gone_is_not_reused(work: Path) -> None:
    extract()
    Path(train()["exported"]).unlink()
    refused = CliRunner().invoke(app, ["train", "--model", "stgcn++", *WHERE, *SMALL])
    assert isinstance(refused.exception, MissingCache)
    assert "encoder.pt, the encoder of this finished run, is gone; move the folder away" in str(refused.exception)


def test_the_table_holds_every_sample_and_the_texts_that_are_read(made_caches: Path, tmp_path: Path) -> None:
    lines = (tiny(made_caches, tmp_path).folder / "data.csv").read_text().splitlines()
    assert lines[0] == "part,id,label,frames,pose-features,text"
    parts = [line.split(",")[0] for line in lines[1:]]
    assert {part: parts.count(part) for part in parts} == {"test": 8, "train": 12, "text": 8}  # 2 templates, 4 classes


def test_equal_content_is_paired_once_and_across_parts_first() -> None:
    def row(part: str, name: str, **sources: str) -> Row:
        return Row(name, part, "jump", {key: f"sha256:{value}" if value else "" for key, value in sources.items()})

    rows = [
        row("test", "t1", frames="a", poses="x"),
        row("test", "t2", frames="b", poses=""),
        row("train", "r1", frames="a", poses="x"),
        row("train", "r2", frames="c", poses=""),
        row("train", "r3", frames="c", poses=""),
        row("val", "v1", frames="a", poses="y"),
    ]
    assert duplicates(rows) == [
        (("train", "r1"), ("test", "t1")),
        (("train", "r1"), ("val", "v1")),
        (("train", "r2"), ("train", "r3")),
    ]
    # One file for all says nothing; neither does what stands in a digest's place.
    assert duplicates([row("train", f"r{number}", frames="one") for number in range(5)]) == []
    assert duplicates([Row(name, "train", "jump", {"poses": "poses:no-person"}) for name in ("a", "b", "c")]) == []
    assert data_differences(rows, rows)["source"] == {"count": 0, "examples": []}
    assert data_text(rows).splitlines()[1] == "test,t1,jump,a,x"
