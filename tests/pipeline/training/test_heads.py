"""Contract of the heads of a run: each has its own top-1, and val alone chooses what they weigh."""

import json
from pathlib import Path

import pytest
import torch

from tests.made_stores import made_dataset, made_stores
from tests.pipeline.made_training import MODEL, SETTINGS, readers_of, tiny_training, validated_dataset
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.train import config_from, prepare_run


@pytest.fixture(scope="module")
def validated_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("validated")
    made_stores(cache, validated_dataset())
    return cache


def test_each_head_and_their_weighted_product_have_a_top1(validated_caches: Path, tmp_path: Path) -> None:
    result = tiny_training(validated_caches, tmp_path, dataset=validated_dataset(), epochs=2)
    assert list(result.heads) == ["video", "aligned", "mean", "weighted"]
    for name in ("video", "aligned", "mean"):
        assert set(result.heads[name]) == {"test", "val"}
        assert 0 <= result.heads[name]["test"] <= 1
    assert set(result.heads["weighted"]["weights"]) == {"video", "aligned"}
    # One of the two weighs nothing where the other is clearly better on val.
    assert all(weight >= 0 for weight in result.heads["weighted"]["weights"].values())
    assert any(weight > 0 for weight in result.heads["weighted"]["weights"].values())
    assert (result.heads["weighted"]["fitted_on"], result.heads["weighted"]["samples"]) == ("val", 4)
    # The product is what is predicted.
    assert result.heads["weighted"]["test"] == result.metrics["top1"]
    assert json.loads((result.folder / "result.json").read_text())["heads"] == result.heads
    # A run that was finished before says the same.
    assert tiny_training(validated_caches, tmp_path, dataset=validated_dataset(), epochs=2).heads == result.heads


@pytest.mark.parametrize(
    ("modalities", "predicted"), [(("video", "pose", "text"), "aligned"), (("video", "text"), "mean")]
)
def test_without_a_val_part_the_aligned_head_answers_where_it_sees_poses(
    modalities: tuple[str, ...], predicted: str, made_caches: Path, tmp_path: Path
) -> None:
    result = tiny_training(made_caches, tmp_path, model={**MODEL, "modalities": list(modalities)}, epochs=3)
    assert list(result.heads) == ["video", "aligned", "mean"]
    assert result.heads[predicted] == {"test": result.metrics["top1"]}
    # So does everything that reads the run.
    evaluated = evaluate_run(result.folder, made_dataset(), cache=made_caches)
    assert evaluated.agrees
    weights = torch.load(result.folder / "checkpoints" / "last.pt", weights_only=True)["head_weights"]
    assert weights == ({"video": 0.0, "aligned": 1.0} if predicted == "aligned" else {})


def test_a_run_of_one_head_has_none(validated_caches: Path, tmp_path: Path) -> None:
    model = {"modalities": ["video"]}
    assert tiny_training(validated_caches, tmp_path, dataset=validated_dataset(), model=model, epochs=1).heads == {}


@pytest.mark.parametrize(
    ("name", "model", "decides"),
    [
        ("unialign", {**MODEL, "modalities": ["video", "pose"]}, True),
        ("unialign", {**MODEL, "modalities": ["video"]}, False),
        ("skeleton", {"width": 8, "clip_len": 12}, True),  # the epoch whose weights are exported
    ],
)
def test_what_val_decides_is_in_the_identity_of_the_runs_where_it_decides_something(
    validated_caches: Path, name: str, model: dict[str, object], decides: bool
) -> None:
    prepared = prepare_run(
        name,
        validated_dataset(),
        protocol=None,
        readers=readers_of(validated_caches),
        config=config_from(name, model),
        settings=SETTINGS,
        options=Options(),
    )
    assert ("validation" in prepared.identity({}, "")) == decides
    assert prepared.mixes == bool(getattr(prepared.build().model, "heads", {}))
