"""Contract of an evaluation: the checkpoint and the stores that a run names give what the run says."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.made_stores import CLASSES, made_dataset
from tests.pipeline.made_training import readers_of, tiny_training, unsigned, validated_dataset
from unialign.cache.keys import digest
from unialign.errors import DamagedStore, MissingCache, StaleCache, UsageError
from unialign.pipeline.ablation.results import hits_of
from unialign.pipeline.evaluation.compare_runs import sentence_of
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.training.train import RunResult
from unialign.stages.datasets.base import Dataset, Split

# As many samples as the caches hold; 4 of the 12 that are no test choose the best epoch.
DATASET = validated_dataset(8, 4, 8)


@pytest.fixture(scope="module")
def finished(made_caches: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return tiny_training(made_caches, tmp_path_factory.mktemp("runs"), dataset=DATASET)


@pytest.fixture
def copied(finished: RunResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / finished.run))


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_run_is_what_it_says(made_caches: Path, finished: RunResult, which: str) -> None:
    found = evaluate_run(finished.folder, DATASET, cache=made_caches, which=which)
    expected = finished.metrics if which == "last" else finished.best["test"]
    assert found.agrees
    assert all(expected[name] == value for name, value in found.metrics.items())
    assert found.largest_change == (0 if which == "last" else None)
    json.dumps(found.result())


def test_classes_and_confusions_add_up(made_caches: Path, finished: RunResult) -> None:
    found = evaluate_run(finished.folder, DATASET, cache=made_caches)
    assert found.confusion.shape == (4, 4)
    assert found.confusion.sum(axis=1).tolist() == [2, 2, 2, 2]
    assert [row["name"] for row in found.per_class] == list(CLASSES)
    correct = sum(row["correct"] for row in found.per_class)
    assert correct == np.trace(found.confusion) == found.metrics["top1"] * 8
    accuracies = [row["accuracy"] for row in found.per_class]
    assert found.metrics["mean_class"] == pytest.approx(sum(accuracies) / 4)


def test_views_of_a_clip_are_averaged(made_caches: Path, tmp_path: Path) -> None:
    done = tiny_training(made_caches, tmp_path, dataset=DATASET, epochs=1, test_clips=2, test_crops=3)
    found = evaluate_run(done.folder, DATASET, readers=readers_of(made_caches))
    assert found.agrees


def test_another_model_in_the_checkpoint_is_seen(made_caches: Path, copied: Path) -> None:
    shutil.copy(copied / "checkpoints/best.pt", copied / "checkpoints/last.pt")
    found = evaluate_run(copied, DATASET, cache=made_caches)
    assert found.agrees  # from the numbered twin of "last"
    assert any("last.pt is not what was written" in each for each in found.skipped)
    for name in ("best.pt", "best.json"):
        (copied / "checkpoints" / name).unlink()
    with pytest.raises(MissingCache, match=r"best.pt"):
        evaluate_run(copied, DATASET, cache=made_caches, which="best")


def test_a_changed_result_is_noticed_and_one_that_was_signed_anew_does_not_agree(
    made_caches: Path, copied: Path
) -> None:
    result = json.loads((copied / "result.json").read_text())
    result["metrics"]["top1"] = 1.0 if result["metrics"]["top1"] < 1 else 0.5
    (copied / "result.json").write_text(json.dumps(result))
    with pytest.raises(DamagedStore, match=r"result.json was changed after the run had ended"):
        evaluate_run(copied, DATASET, cache=made_caches)
    del result["digest"]
    (copied / "result.json").write_text(json.dumps(result))
    with pytest.raises(DamagedStore, match=r"result.json was changed"):
        evaluate_run(copied, DATASET, cache=made_caches)
    (copied / "result.json").write_text(json.dumps({**result, "digest": digest(result)}))
    assert not evaluate_run(copied, DATASET, cache=made_caches).agrees


def test_changed_predictions_are_noticed(made_caches: Path, copied: Path) -> None:
    with np.load(copied / "predictions.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(copied / "predictions.npz", **{**arrays, "labels": arrays["labels"][::-1]})
    with pytest.raises(DamagedStore, match=r"predictions.npz was changed"):
        evaluate_run(copied, DATASET, cache=made_caches)
    with pytest.raises(DamagedStore, match=r"predictions.npz was changed"):
        hits_of(copied)


def test_a_run_of_before_there_was_a_val_part_is_evaluated_still(made_caches: Path, copied: Path) -> None:
    result = json.loads((copied / "result.json").read_text())
    for name in ("digest", "predictions", "data", "files"):
        del result[name]
    keys = json.loads((copied / "keys.json").read_text())
    for name in ("data", "revision", "classes"):
        del keys[name]
    (copied / "keys.json").write_text(json.dumps(keys))
    result["best"] = {"epoch": result["best"]["epoch"], **result["best"]["test"]}
    (copied / "result.json").write_text(json.dumps(result))
    (copied / "data.csv").unlink()
    for which in ("last", "best"):
        assert evaluate_run(copied, DATASET, cache=made_caches, which=which).agrees


def test_a_run_without_a_val_part_has_no_best_epoch(made_caches: Path, tmp_path: Path) -> None:
    done = tiny_training(made_caches, tmp_path, epochs=1)
    assert done.best == {}
    with pytest.raises(UsageError, match=r"has no best epoch \(a val part would have 4 of the 12 training samples"):
        evaluate_run(done.folder, made_dataset(), cache=made_caches, which="best")


def test_what_is_not_there_is_named(made_caches: Path, copied: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingCache, match="is not a run"):
        evaluate_run(tmp_path / "nowhere", DATASET, cache=made_caches)
    with pytest.raises(MissingCache, match="is not a store"):
        evaluate_run(copied, DATASET, cache=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="give the cache folder"):
        evaluate_run(copied, DATASET)
    with pytest.raises(UsageError, match="it is last or best"):
        evaluate_run(copied, DATASET, cache=made_caches, which="first")
    other = type(DATASET)("other", "made", DATASET.root, CLASSES, DATASET.samples, DATASET.protocols)
    with pytest.raises(UsageError, match="was trained on tiny, not on other"):
        evaluate_run(copied, other, cache=made_caches)


def split_of(dataset: Dataset, change: Callable[[Split], Split]) -> Dataset:
    """The same samples in another split of the same name."""
    made = dataset.protocols["whole"]
    return replace(dataset, protocols={"whole": lambda samples: change(made(samples))})


def test_samples_that_the_run_was_trained_on_are_not_tested(made_caches: Path, finished: RunResult) -> None:
    moved = split_of(DATASET, lambda split: Split(split.train[1:], (*split.test, split.train[0]), split.val))
    with pytest.raises(UsageError, match=r"was trained on 1 sample that whole of tiny tests now \(clip000\)"):
        evaluate_run(finished.folder, moved, cache=made_caches)


def test_other_data_than_the_run_had_are_said(made_caches: Path, finished: RunResult) -> None:
    assert evaluate_run(finished.folder, DATASET, cache=made_caches).data == {}
    fewer = split_of(DATASET, lambda split: Split(split.train, split.test[1:], split.val))
    found = evaluate_run(finished.folder, fewer, cache=made_caches)
    gone = DATASET.split().test[0]
    assert found.data["removed"] == {"count": 1, "examples": [gone]}
    assert sentence_of(found.data) == f"1 sample fewer ({gone})"


def test_outputs_are_not_taken_for_other_classes(made_caches: Path, finished: RunResult) -> None:
    """A class that was renamed moves to another place among the sorted ones, and with it what each output means."""
    turned = tuple(reversed(CLASSES))
    samples = tuple(replace(each, label=turned.index(CLASSES[each.label])) for each in DATASET.samples)
    with pytest.raises(UsageError, match=f"knows the classes {', '.join(CLASSES)}; the dataset has {turned[0]}"):
        evaluate_run(finished.folder, replace(DATASET, classes=turned, samples=samples), cache=made_caches)


def test_a_store_of_another_key_is_stale(made_caches: Path, copied: Path) -> None:
    unsigned(copied)
    keys = json.loads((copied / "keys.json").read_text())
    keys["stores"]["frames"]["key"] = "0" * 64
    (copied / "keys.json").write_text(json.dumps(keys))
    with pytest.raises(StaleCache, match="holds another key"):
        evaluate_run(copied, DATASET, cache=made_caches)


def test_damaged_files_of_a_run_are_named(made_caches: Path, copied: Path) -> None:
    for name, content in (("config.yaml", "a: ["), ("result.json", "[")):
        (copied / name).write_text(content)
        with pytest.raises(DamagedStore, match=name):
            evaluate_run(copied, DATASET, cache=made_caches)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "model: unialign"),
        ("keys.json", "[]"),
        ("keys.json", '{"run": "0", "stores": [1]}'),
        ("keys.json", '{"run": "0", "stores": {"frames": "x"}}'),
        ("keys.json", '{"run": "0", "stores": {"frames": {"key": "0"}}, "data": 5}'),
        ("keys.json", '{"stores": {}}'),
    ],
)
def test_files_that_are_not_those_of_a_run_are_named(made_caches: Path, copied: Path, name: str, content: str) -> None:
    """As in a run of someone else, which has no checksum."""
    unsigned(copied)
    (copied / name).write_text(content)
    with pytest.raises(DamagedStore, match=f"{name} .*; it is not the file of a run" if content != "[]" else name):
        evaluate_run(copied, DATASET, cache=made_caches)
