"""Contract of the heads of a run: each has its own top-1, and val alone chooses the weights of their mixture."""

import json
from pathlib import Path

import pytest

from tests.made_stores import made_stores
from tests.pipeline.made_training import tiny_training, validated_dataset


@pytest.fixture(scope="module")
def validated_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("validated")
    made_stores(cache, validated_dataset())
    return cache


def test_each_head_and_their_weighted_mixture_have_a_top1(validated_caches: Path, tmp_path: Path) -> None:
    result = tiny_training(validated_caches, tmp_path, dataset=validated_dataset(), epochs=2)
    assert list(result.heads) == ["video", "aligned", "mean", "weighted"]
    for name in ("video", "aligned", "mean"):
        assert set(result.heads[name]) == {"test", "val"}
        assert 0 <= result.heads[name]["test"] <= 1
    assert set(result.heads["weighted"]["weights"]) == {"video", "aligned"}
    assert all(weight > 0 for weight in result.heads["weighted"]["weights"].values())
    assert (result.heads["weighted"]["fitted_on"], result.heads["weighted"]["samples"]) == ("val", 4)
    # The mixture is what is predicted.
    assert result.heads["weighted"]["test"] == result.metrics["top1"]
    assert json.loads((result.folder / "result.json").read_text())["heads"] == result.heads
    # A run that was finished before says the same.
    assert tiny_training(validated_caches, tmp_path, dataset=validated_dataset(), epochs=2).heads == result.heads


def test_without_a_val_part_the_mean_is_predicted(made_caches: Path, tmp_path: Path) -> None:
    result = tiny_training(made_caches, tmp_path, epochs=1)
    assert list(result.heads) == ["video", "aligned", "mean"]
    assert result.heads["mean"] == {"test": result.metrics["top1"]}


def test_a_run_of_one_head_has_none(validated_caches: Path, tmp_path: Path) -> None:
    model = {"modalities": ["video"]}
    assert tiny_training(validated_caches, tmp_path, dataset=validated_dataset(), model=model, epochs=1).heads == {}
