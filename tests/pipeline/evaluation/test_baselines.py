"""Contract of the baselines: honest figures from any cached store, chosen without a look at the test samples."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.made_stores import CLASSES, made_dataset, write_store
from tests.pipeline.made_training import readers_of, validated_dataset
from tests.pipeline.made_utd import called, write_files
from unialign.cache.arrays import ArraySpec
from unialign.cache.reader import StoreReader
from unialign.cli import app
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.config import Config
from unialign.pipeline.evaluation import baseline_features, baselines
from unialign.pipeline.evaluation.baseline_features import FEATURES, motion_vectors, pose_vectors
from unialign.pipeline.evaluation.baselines import (
    CLASSIFIERS,
    QUICK,
    Baselines,
    quick_baselines,
    run_baselines,
)
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.extraction.skeleton_arrays import pixel_specs

DATASET = made_dataset()


def rows(cache: Path, modality: str, protocol: str | None = None, dataset: Dataset = DATASET) -> Baselines:
    return run_baselines(dataset, protocol=protocol, modality=modality, readers=readers_of(cache))


@pytest.mark.parametrize("modality", ["poses", "pose-features", "frames"])
def test_every_classifier_has_a_row_and_majority_is_chance(made_caches: Path, modality: str) -> None:
    found = rows(made_caches, modality)
    assert [row.baseline for row in found.rows] == list(CLASSIFIERS)
    by_name = {row.baseline: row for row in found.rows}
    assert by_name["majority"].top1 == by_name["majority"].mean_class == 0.25
    # The poses of the tiny dataset tell classes apart by the place in the image alone, which is not looked at.
    assert found.best.top1 > 0.8 or modality == "poses"
    assert {row.features for row in found.rows} == {modality}
    assert found.samples == {"train": 12, "val": 0, "test": 8}


@pytest.mark.parametrize("modality", ["poses", "pose-features", "frames"])
def test_vectors_are_read_by_the_block_and_do_not_depend_on_it(
    made_caches: Path, modality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: StoreReader, sample: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        raise AssertionError("read_one is for looking at one sample")

    monkeypatch.setattr(StoreReader, "read_one", refused)
    reader, vectors = readers_of(made_caches)[modality], FEATURES[modality]
    ids = [sample.id for sample in reversed(DATASET.samples)]
    together = list(vectors(reader, ids))
    monkeypatch.setattr(baseline_features, "BLOCK", 3)
    for whole, part, name in zip(together, vectors(reader, ids), ids, strict=True):
        assert whole.dtype == np.float32
        np.testing.assert_array_equal(whole, part)
        np.testing.assert_array_equal(whole, next(vectors(reader, [name])))


@pytest.mark.parametrize("shots", [1, 2])
def test_one_or_two_samples_a_class_are_enough_and_no_library_complains(tmp_path: Path, shots: int) -> None:
    labels = range(24)
    samples = tuple(Sample(f"s{n:03d}", n % 24, {}) for n in range(24 * (shots + 1)))
    split = Split(tuple(s.id for s in samples[24:]), tuple(s.id for s in samples[:24]))
    names = tuple(f"class {label}" for label in labels)
    dataset = Dataset("tiny", "made", tmp_path, names, samples, {"few": lambda found: split})
    values = {s.id: {"feature": np.eye(24, dtype=np.float32)[[s.label]]} for s in samples}
    spec = ArraySpec("feature", "float32", (1, 24), ("view", "channel"))
    reader = write_store(tmp_path, "pose-features", (spec,), values)
    found = run_baselines(dataset, protocol=None, modality="pose-features", readers={"pose-features": reader})
    assert [row.baseline for row in found.rows] == list(CLASSIFIERS)
    assert found.samples["train"] == 24 * shots
    assert found.best.top1 == 1


def test_settings_are_chosen_without_the_test_samples(made_caches: Path) -> None:
    wrong = tuple(
        replace(sample, label=(sample.label + 1) % 4) if sample.attributes["side"] == "test" else sample
        for sample in DATASET.samples
    )
    honest, other = (
        rows(made_caches, "pose-features", dataset=each) for each in (DATASET, replace(DATASET, samples=wrong))
    )
    assert [row.chosen for row in honest.rows] == [row.chosen for row in other.rows]
    assert honest.best.top1 == 1
    # The labels of the test samples decide what is right, and nothing else.
    assert other.best.top1 <= 0.25


def test_a_val_part_chooses_and_is_not_trained_on(tmp_path: Path) -> None:
    dataset = validated_dataset()
    values = {
        sample.id: {"feature": np.eye(4, dtype=np.float32)[[sample.label]] + 0.01 * np.float32(number)}
        for number, sample in enumerate(dataset.samples)
    }
    spec = ArraySpec("feature", "float32", (1, 4), ("view", "channel"))
    reader = write_store(tmp_path, "pose-features", (spec,), values)
    found = run_baselines(dataset, protocol=None, modality="pose-features", readers={"pose-features": reader})
    assert found.chosen_on == "the val part"
    assert found.samples == {"train": 12, "val": 4, "test": 8}


def unseen_dataset(num_classes: int = 8, each: int = 6) -> tuple[Dataset, dict[str, np.ndarray]]:
    """The last two classes are never trained on; features are a linear image of the classes' texts."""
    generator = np.random.default_rng(0)
    texts, picture = generator.normal(size=(num_classes, 8)), generator.normal(size=(8, 20))
    samples = tuple(Sample(f"s{n:03d}", n % num_classes, {}) for n in range(num_classes * each))

    def unseen(found: Sequence[Sample]) -> Split:
        last = num_classes - 2
        return Split(tuple(s.id for s in found if s.label < last), tuple(s.id for s in found if s.label >= last))

    names = tuple(f"class {number}" for number in range(num_classes))
    dataset = Dataset("tiny", "made", Path("nowhere"), names, samples, {"unseen": unseen})
    features = {s.id: texts[s.label] @ picture + generator.normal(0, 0.05, 20) for s in samples}
    return dataset, {**features, **{f"label|t|{name}": texts[place] for place, name in enumerate(names)}}


def test_unseen_classes_are_recognised_by_their_texts(tmp_path: Path) -> None:
    dataset, made = unseen_dataset(num_classes=12)
    poses = {s.id: {"feature": made[s.id][None].astype(np.float32)} for s in dataset.samples}
    texts = {name: {"embedding": row.astype(np.float32)} for name, row in made.items() if "|" in name}
    readers = {
        "pose-features": write_store(
            tmp_path, "pose-features", (ArraySpec("feature", "float32", (1, 20), ("view", "channel")),), poses
        ),
        "text": write_store(tmp_path, "text", (ArraySpec("embedding", "float32", (8,), ("channel",)),), texts),
    }
    found = run_baselines(dataset, protocol=None, modality="pose-features", readers=readers)
    assert [row.baseline for row in found.rows] == ["ridge to labels", "ridge from labels"]  # there are no descriptions
    assert [row.top1 for row in found.rows] == [1, 1]
    with pytest.raises(MissingCache, match="unialign extract text"):
        run_baselines(
            dataset, protocol=None, modality="pose-features", readers={"pose-features": readers["pose-features"]}
        )


def test_for_unseen_classes_it_counts_what_joints_do_and_not_when(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    clip = generator.normal(size=(12, 1, 17, 3)).astype(np.float32)
    clip[..., 2] = 0.9
    size = np.array([160, 120], dtype=np.int32)
    values = {name: {"keypoints": way, "frame_size": size} for name, way in (("there", clip), ("back", clip[::-1]))}
    reader = write_store(tmp_path, "poses", pixel_specs(32, 1), values)
    there, back = motion_vectors(reader, ["there", "back"])
    assert there == pytest.approx(back, abs=1e-5)
    assert len(there) == 4 * 17 * 2
    there, back = pose_vectors(reader, ["there", "back"])
    assert there != pytest.approx(back, abs=1e-5)


def test_rows_that_would_take_hours_are_left_out_and_named(made_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_SAMPLES", {"svm": 11})
    found = rows(made_caches, "pose-features")
    assert [row.baseline for row in found.rows] == [name for name in CLASSIFIERS if name != "svm"]
    assert found.skipped == ("svm: 12 training samples are more than 11",)


def test_beside_a_training_run_stands_only_what_takes_seconds(
    made_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "cached_readers", lambda wanted, *rest, **more: readers_of(made_caches))
    found = quick_baselines(Config(), DATASET, ["pose-features", "text", "frames"])
    assert [row.features for row in found] == ["pose-features", "frames"]
    assert all(row.baseline in QUICK for row in found)
    monkeypatch.setattr(baselines, "QUICK_SAMPLES", 19)
    assert quick_baselines(Config(), DATASET, ["pose-features"]) == ()


def test_text_alone_has_no_baseline(made_caches: Path) -> None:
    with pytest.raises(UsageError, match="there are no baselines on text"):
        rows(made_caches, "text")
    assert len(CLASSES) == 4


def test_the_command_takes_a_modality_or_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    where = ("--dataset", "utd-mhad", "--root", write_files(tmp_path / "files"), "--json")
    store = json.loads(called("extract", "poses", "--source", "skeleton", *where))["store"]
    found = json.loads(called("baseline", *where))
    assert {"baseline", "features", "top1", "mean_class", "seconds"} <= found["rows"][0].keys()
    assert found["store"] == store
    # Actions of two subjects, one to train on: how the joints swing tells them apart.
    assert max(row["top1"] for row in found["rows"]) >= 0.8
    same = json.loads(called("baseline", "--features", Path(store).stem, *where))
    assert [row["top1"] for row in same["rows"]] == [row["top1"] for row in found["rows"]]
    small = ("train.skeleton.width=8", "train.skeleton.clip_len=8", "train.settings.device=cpu")
    trained = json.loads(called("train", "--model", "skeleton", "--epochs", 1, *where, *small))
    assert trained["baseline"]["features"] == "poses"
    # Two steps of five clips beat nothing, which is said.
    assert trained["top1"] < trained["baseline"]["top1"]
    shown = called("train", "--model", "skeleton", "--epochs", 2, *where[:-1], *small)
    assert "not beaten" in shown
    assert "longer training may help" in shown
    without = CliRunner().invoke(app, ["baseline", "--protocol", "zero-shot-1", *map(str, where)])
    assert isinstance(without.exception, MissingCache)
    assert "unialign extract text" in str(without.exception)


def test_a_dataset_of_one_class_is_refused_and_one_class_in_training_leaves_the_majority(made_caches: Path) -> None:
    alone = replace(DATASET, samples=tuple(replace(sample, label=0) for sample in DATASET.samples))
    with pytest.raises(UsageError, match="all clips are of one class"):
        rows(made_caches, "pose-features", dataset=alone)
    first = DATASET.samples[0]
    split = Split(tuple(s.id for s in DATASET.samples if s.label == first.label and s.id != first.id), (first.id,))
    single = replace(DATASET, protocols={"one": lambda samples: split})
    found = rows(made_caches, "pose-features", dataset=single)
    assert [row.baseline for row in found.rows] == ["majority"]
    assert found.skipped[0] == "1-nn: all training samples are of one class"


def test_without_clips_to_compare_values_on_the_result_says_so(made_caches: Path) -> None:
    assert rows(made_caches, "pose-features").chosen_on == "3 folds of train"
    firsts = {sample.label: sample.id for sample in reversed(DATASET.samples) if sample.attributes["side"] == "train"}
    split = Split(tuple(sorted(firsts.values())), DATASET.split().test)
    one_each = replace(DATASET, protocols={"few": lambda samples: split})
    assert rows(made_caches, "pose-features", dataset=one_each).chosen_on.startswith("nothing, for want of clips")
