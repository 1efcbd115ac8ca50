"""Contract of a training: a run folder that says everything, reuse of finished runs, and honesty about coverage."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.made_stores import (
    CLASSES,
    TEMPLATES,
    frames_store,
    made_dataset,
    pose_features_store,
    poses_store,
)
from tests.pipeline.made_training import MODEL, SETTINGS, readers_of, tiny_training
from unialign.errors import DamagedStore, LockedStore, MissingCache, UsageError
from unialign.pipeline.evaluation.compare_runs import compare_runs
from unialign.pipeline.systems.unialign import read_weights
from unialign.pipeline.training.preparation import Options, covered_sides
from unialign.pipeline.training.run_folder import find_run, read_config, run_of, sole_writer
from unialign.pipeline.training.text_bank_start import load_text_bank
from unialign.pipeline.training.train import RunResult, train_model
from unialign.stages.datasets.base import Split
from unialign.stages.training.loop import Progress
from unialign.stages.training.settings import settings_from

DATASET = made_dataset()


def test_published_weights_without_a_network_say_how_to_give_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(UsageError, match="--backbone-weights FILE"):
        read_weights(Path("hub"), "tsm-resnet18")
    with pytest.raises(UsageError, match="no published weights"):
        read_weights(Path("hub"), "tsm-tiny")
    with pytest.raises(UsageError, match="no such file"):
        read_weights(Path("none.pt"), "tsm-tiny")


@pytest.fixture(scope="module")
def finished(made_caches: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return tiny_training(made_caches, tmp_path_factory.mktemp("runs"))


def test_the_run_folder_holds_everything(made_caches: Path, finished: RunResult) -> None:
    folder = finished.folder
    assert folder.name == finished.run == f"tiny-unialign-seed0-{finished.key[:12]}"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        *("config.yaml", "keys.json", "env.json", "metrics.csv", "log.jsonl", "predictions.npz", "result.json"),
        *("data.csv", "checkpoints/last.pt", "checkpoints/000003-000000000.pt"),
    } <= names
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["unialign"]["width"] == 16
    assert config["settings"]["epochs"] == 3
    assert config["templates"] == sorted(TEMPLATES)
    keys = json.loads((folder / "keys.json").read_text())
    readers = readers_of(made_caches)
    expected = {name: readers[name].store.key.digest for name in ("frames", "pose-features", "text")}
    assert {name: found["key"] for name, found in keys["stores"].items()} == expected
    assert keys["samples"]["train"]["used"] == 12
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"] == finished.metrics
    assert finished.extracted == 0
    assert {"top1", "mean_class", "coverage"} <= finished.metrics.keys()
    assert str(made_caches) not in "".join(
        (folder / name).read_text() for name in ("config.yaml", "keys.json", "env.json", "result.json")
    )


def test_the_predictions_are_those_of_the_test_samples(finished: RunResult) -> None:
    with np.load(finished.folder / "predictions.npz", allow_pickle=False) as stored:
        assert stored["ids"].tolist() == [sample.id for sample in DATASET.samples[12:]]
        assert stored["labels"].tolist() == [sample.label for sample in DATASET.samples[12:]]
        np.testing.assert_allclose(stored["probabilities"].sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(stored["importance"].sum(axis=1), 1, rtol=1e-5)
        assert stored["importance_names"].tolist() == ["video", "pose"]
        guesses = stored["probabilities"].argmax(axis=1)
        assert finished.metrics["top1"] == (guesses == stored["labels"]).mean()


def test_tensorboard_has_clips_confusions_and_settings_beside_metrics(finished: RunResult) -> None:
    shown = EventAccumulator(str(finished.folder / "tensorboard")).Reload()
    assert set(shown.Tags()["images"]) == {"clips", "confusion"}
    (clips,) = shown.Images("clips")
    assert (clips.width, clips.height) == (2 * 16, 4 * 16)  # two frames of each of four clips
    assert shown.Scalars("test/top1")[-1].value == pytest.approx(finished.metrics["top1"])
    assert b"settings.lr" in shown.PluginTagToContent("hparams")["_hparams_/session_start_info"]


def test_the_same_training_again_is_the_finished_run(made_caches: Path, finished: RunResult) -> None:
    shown: list[Progress] = []
    again = tiny_training(made_caches, finished.folder.parent, show=shown.append, num_workers=0, keep=3)
    assert again.reused
    assert not shown
    assert {**again.result(), "reused": False} == finished.result()


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 0.02}, {"model": {"cmsa": "B"}}, {"model": {"momentum": 0.5}}])
def test_another_setting_is_another_run(
    made_caches: Path, finished: RunResult, tmp_path: Path, change: dict[str, Any]
) -> None:
    assert tiny_training(made_caches, tmp_path, **{"epochs": 1, **change}).key != finished.key


def test_other_samples_in_the_caches_are_another_run(made_caches: Path, tmp_path: Path) -> None:
    stores = {**readers_of(made_caches), "frames": frames_store(tmp_path, DATASET, failed=["clip001"])}
    keys = {
        train_model(
            "unialign",
            DATASET,
            readers=readers,
            model={**MODEL, "modalities": ["video"]},
            settings=settings_from({"epochs": 1}, SETTINGS),
            runs=tmp_path / "runs",
            options=Options(min_coverage=0.9),
        ).key
        for readers in (stores, readers_of(made_caches))
    }
    assert len(keys) == 2


def test_an_interrupted_training_goes_on_to_the_same_result(
    made_caches: Path, finished: RunResult, tmp_path: Path
) -> None:
    left = [4]

    def interrupt(progress: Progress) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_training(made_caches, tmp_path, show=interrupt)
    result = tiny_training(made_caches, tmp_path)
    assert not result.reused
    assert result.metrics == finished.metrics
    first, second = (torch.load(each.folder / "checkpoints/last.pt") for each in (result, finished))
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in second["model"])
    assert '"event": "resumed", "checkpoint": "last.pt"' in (result.folder / "log.jsonl").read_text()


def test_the_text_bank_is_trained_and_kept_in_checkpoints(finished: RunResult, made_caches: Path) -> None:
    state = torch.load(finished.folder / "checkpoints/last.pt", weights_only=True)["model"]
    start = load_text_bank(readers_of(made_caches)["text"], CLASSES)
    assert state["bank.main"].shape == start.shape == (2, 4, 8)
    assert not torch.equal(state["bank.agent"], start)
    assert 0 < float((state["bank.main"] - start).abs().max()) < float((state["bank.agent"] - start).abs().max())


def test_two_processes_do_not_train_one_run(made_caches: Path, finished: RunResult) -> None:
    run = run_of(finished.folder.parent, dataset="tiny", model="unialign", identity={"any": 1})
    with sole_writer(run), pytest.raises(LockedStore, match="another process trains this run"), sole_writer(run):
        pass


def test_a_run_is_found_by_its_key_whatever_its_folder_is_called(
    made_caches: Path, finished: RunResult, tmp_path: Path
) -> None:
    key = finished.key[:12]
    assert finished.run == f"tiny-unialign-seed0-{key}"
    for name in (f"tiny-unialign-{key}", f"tiny-unialign-video-pose-seed0-{key}"):
        runs = tmp_path / name
        shutil.copytree(finished.folder, runs / name)
        again = tiny_training(made_caches, runs, row="another row")
        assert (again.reused, again.run) == (True, name)
    # Another dataset's run, and one that only looks like it.
    for name in (f"tiny2-unialign-{key}", f"tiny-unialign-x{key}"):
        shutil.copytree(finished.folder, tmp_path / "others" / name)
    new = tiny_training(made_caches, tmp_path / "others", row="Video + pose, w/o text")
    assert (new.reused, new.run) == (False, f"tiny-unialign-video-pose-w-o-text-seed0-{key}")
    assert read_config(new.folder)["name"] == "Video + pose, w/o text"
    assert new.key == finished.key
    (found,) = compare_runs(finished.folder, new.folder)["settings"]
    assert (found["field"], found["decides"]) == ("name", False)


def test_a_run_is_named_by_its_path_or_the_beginning_of_its_name_or_key(tmp_path: Path) -> None:
    for name in ("tiny-art-seed0-0123456789ab", "tiny-art-seed1-456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "ablations").mkdir()
    first, second = sorted(path for path in tmp_path.iterdir() if path.name != "ablations")
    assert find_run(tmp_path, Path("tiny-art-seed1")) == find_run(tmp_path, Path("4567")) == second
    assert find_run(tmp_path, first) == first
    with pytest.raises(UsageError, match=r"tiny may be tiny-art-seed0-0123456789ab or tiny-art-seed1-456789abcdef"):
        find_run(tmp_path, Path("tiny"))
    with pytest.raises(MissingCache, match="ablations is not a run, and no run in"):
        find_run(tmp_path, Path("ablations"))


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ("a/b", "-a-b"),
        ("../../x", "-x"),
        ("C:\\y:z", "-c-y-z"),
        ("Über Größe", "-über-größe"),
        ("/", ""),
        (" . ", ""),
        ("x" * 300, f"-{'x' * 40}"),
    ],
)
def test_any_name_is_a_part_of_one_folder_name(tmp_path: Path, row: str, shown: str) -> None:
    run = run_of(tmp_path, dataset="tiny", model="art", identity={"any": 1}, row=row, seed=0)
    assert run.folder == tmp_path / f"tiny-art{shown}-seed0-{run.key[:12]}"


def test_the_folder_of_a_run_on_a_dataset_of_ones_own_has_no_colon(tmp_path: Path) -> None:
    """Windows shares allow none, and rsync and scp take what is before it for a host; runs that have one are found."""
    given: dict[str, Any] = {"dataset": "mine:gestures", "model": "art", "identity": {"any": 1}}
    run = run_of(tmp_path, **given, seed=0)
    assert run.folder.name == f"mine.gestures-art-seed0-{run.key[:12]}"
    earlier = tmp_path / f"mine:gestures-art-row-seed0-{run.key[:12]}"
    earlier.mkdir()
    with sole_writer(run) as found:
        assert found.folder == run_of(tmp_path, **given).folder == earlier


def test_one_run_under_two_rows_has_one_lock_and_one_folder(tmp_path: Path) -> None:
    first, second = (run_of(tmp_path, dataset="tiny", model="art", identity={"any": 1}, row=row) for row in ("a", "b"))
    with sole_writer(first), pytest.raises(LockedStore), sole_writer(second):
        pass
    first.folder.mkdir()
    with sole_writer(second) as found:
        assert found.folder == first.folder


def test_a_run_of_before_a_change_of_what_is_computed_is_not_reused(
    made_caches: Path, finished: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unialign.pipeline.training.preparation.REVISION", 0)
    again = tiny_training(made_caches, finished.folder.parent)
    assert not again.reused
    assert again.key != finished.key


def test_a_damaged_result_is_not_reused(made_caches: Path, tmp_path: Path) -> None:
    done = tiny_training(made_caches, tmp_path, epochs=1)
    (done.folder / "result.json").write_text("{")
    with pytest.raises(DamagedStore, match=r"result.json cannot be read"):
        tiny_training(made_caches, tmp_path, epochs=1)


def train_on(stores: dict[str, Any], runs: Path, minimum: float, **model: Any) -> RunResult:
    return train_model(
        "unialign",
        DATASET,
        readers=stores,
        model={**MODEL, **model},
        settings=settings_from({"epochs": 1}, SETTINGS),
        runs=runs,
        options=Options(min_coverage=minimum),
    )


def test_gaps_below_the_threshold_name_command_and_classes(made_caches: Path, tmp_path: Path) -> None:
    gaps = pose_features_store(tmp_path, DATASET, failed=["clip001", "clip005", "clip002"])
    stores = {**readers_of(made_caches), "pose-features": gaps}
    with pytest.raises(MissingCache) as caught:
        train_on(stores, tmp_path / "runs", 0.95)
    message = str(caught.value)
    assert "hold 9 of 12 train samples of tiny whole (75.0%, needed 95.0%)" in message
    assert "pose-features lacks wave right 2, squat 1" in message
    # Another extraction would not bring those that it could not use.
    assert "they are quarantined (3 " in message
    assert "so repair these clips, or remove them, or lower train.min_coverage" in message
    never = made_dataset(9, 8)
    stores["pose-features"] = pose_features_store(tmp_path / "fewer", never)
    with pytest.raises(MissingCache, match=r"run `unialign extract pose-features --dataset tiny`, or lower train\.min"):
        train_on(stores, tmp_path / "runs", 0.95)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "runs").exists()


def test_gaps_above_the_threshold_are_counted_and_reported_both_ways(made_caches: Path, tmp_path: Path) -> None:
    stores = {
        **readers_of(made_caches),
        "frames": frames_store(tmp_path, DATASET, failed=["clip000", "clip012", "clip013"]),
    }
    result = train_on(stores, tmp_path / "runs", 0.7)
    assert result.samples["train"] == {"used": 11, "missing": 1, "missing_by_class": {"frames": {"wave left": 1}}}
    assert result.samples["test"]["missing_by_class"] == {"frames": {"wave left": 1, "wave right": 1}}
    metrics = result.metrics
    assert metrics["coverage"] == 0.75
    assert metrics["top1_missing_wrong"] == pytest.approx(metrics["top1"] * 6 / 8)


def test_a_split_without_test_samples_says_what_to_add() -> None:
    with pytest.raises(UsageError, match=r"protocol whole of tiny leaves no test samples; add .* `split`"):
        covered_sides(DATASET, "whole", Split(tuple(each.id for each in DATASET.samples), ()), {}, 0.95)


def test_modalities_that_are_off_need_no_store(made_caches: Path, tmp_path: Path) -> None:
    frames = {"frames": readers_of(made_caches)["frames"]}
    result = train_on(frames, tmp_path, 1.0, modalities=["video"])
    assert set(result.keys) == {"frames"}
    with pytest.raises(MissingCache, match="`unialign extract text --dataset tiny`"):
        train_on(frames, tmp_path, 1.0, modalities=["video", "text"])


def test_unknown_samples_of_a_protocol_are_refused(tmp_path: Path) -> None:
    poses_store(tmp_path, DATASET)
    smaller = made_dataset(6, 2)
    broken = type(smaller)(
        smaller.name,
        smaller.collection,
        smaller.root,
        smaller.classes,
        smaller.samples[:-1],
        {"whole": lambda samples: smaller.protocols["whole"](smaller.samples)},
    )
    with pytest.raises(UsageError, match="1 unknown sample \\(clip007\\)"):
        train_model(
            "unialign",
            broken,
            readers={"frames": frames_store(tmp_path, DATASET)},
            model={**MODEL, "modalities": ["video"]},
            settings=SETTINGS,
            runs=tmp_path / "runs",
        )
