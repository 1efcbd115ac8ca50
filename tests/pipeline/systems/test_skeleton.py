"""Contract of the skeleton encoder in body space: what extraction reads, what is set for whom, what mixing does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.made_stores import CLASSES, made_dataset
from tests.pipeline.made_training import readers_of
from unialign.errors import UsageError
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.systems.skeleton import SkeletonTraining, skeleton_losses, skeleton_recipe
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.train import RunResult, prepare_run, train_model
from unialign.stages.extraction.pose_clips import Shape
from unialign.stages.extraction.pose_encoder import load_encoder
from unialign.stages.models.skeleton.config import SkeletonConfig
from unialign.stages.models.skeleton.streams import SkeletonStreams
from unialign.stages.skeleton_layouts import LAYOUTS
from unialign.stages.training.pose_samples import BodyClips, CachedPoses
from unialign.stages.training.samples import Labelled
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.skeleton_augmentation import SkeletonAugmentation

DATASET = made_dataset()
SMALL = {"width": 8, "clip_len": 12}


def encoder(
    made_caches: Path, runs: Path, protocol: str = "whole", model: dict[str, Any] = SMALL, **settings: Any
) -> RunResult:
    return train_model(
        "skeleton",
        DATASET,
        protocol=protocol,
        readers=readers_of(made_caches),
        model=model,
        settings=TrainSettings(device="cpu", **settings),
        runs=runs,
    )


@pytest.mark.parametrize("network", ["stgcn++", "ctr-gcn"])
def test_a_trained_encoder_can_be_read_by_extraction(network: str, made_caches: Path, tmp_path: Path) -> None:
    result = encoder(made_caches, tmp_path, model={**SMALL, "network": network}, epochs=2)
    loaded = load_encoder(result.folder / "encoder.pt")
    assert (loaded.name, loaded.layout.name, loaded.recipe, loaded.clip_len) == ("skeleton", "coco-17", "body-2d", 12)
    assert loaded.classes == CLASSES
    kept = torch.load(result.folder / "checkpoints/last.pt")["model"]
    # What is exported is the average, not the last step.
    exported = loaded.network.state_dict()
    assert all(torch.equal(value, kept[f"network.{name}"]) for name, value in exported.items())
    assert any(not torch.equal(value, kept[f"learning.{name}"]) for name, value in exported.items())


def test_an_encoder_learns_what_the_poses_tell(made_caches: Path, tmp_path: Path) -> None:
    # Bodies of the tiny data set differ in nothing but their way through the picture. Twelve clips are too few to learn
    # it under the augmentation.
    changes = ("tilt", "scale", "shear", "jitter", "joint_dropout", "frame_dropout", "dropout", "head_dropout")
    changes += ("motion_dropout",)
    model = {**SMALL, **dict.fromkeys(changes, 0.0), "crop": 1.0, "label_smoothing": 0.0, "average": 0.0}
    result = encoder(made_caches, tmp_path, model=model, epochs=20, batch_size=12, lr=0.01, checkpoint_every=20)
    rows = (result.folder / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert min(losses) < 0.6 * losses[0]


def test_an_encoder_for_a_zero_shot_protocol_never_sees_unseen_classes(made_caches: Path, tmp_path: Path) -> None:
    result = encoder(made_caches, tmp_path, "seen", epochs=1)
    assert load_encoder(result.folder / "encoder.pt").classes == ("wave left", "wave right")
    assert result.metrics == {}


def test_what_nobody_set_is_set_for_the_number_of_samples() -> None:
    config = SkeletonConfig()
    few, many = (skeleton_recipe(config, count, TrainSettings()) for count in (60, 100_000))
    assert few["epochs"] > 200
    assert many["epochs"] == 30
    # Short epochs are not followed by a checkpoint each: with 15 clips these took as long as the steps.
    assert (few["checkpoint_every"], many["checkpoint_every"]) == (10, 1)
    settings = TrainSettings(epochs=2, optimizer="sgd")
    found = settings.with_unset(skeleton_recipe(config, 60, settings))
    assert (found.epochs, found.optimizer, found.schedule) == (2, "sgd", "cosine")
    assert found.warmup_epochs < 2
    assert TrainSettings().with_unset({}) == TrainSettings()


def test_a_grid_leaves_unset_what_nobody_set() -> None:
    config = with_values(Config(), {"train.model": "skeleton", "train.settings.seed": 1})
    again = with_values(config, {"train.settings.lr": 0.1})
    assert again.train.settings.model_fields_set == {"seed", "lr"}
    assert again.train.model == "skeleton"


def test_some_clips_show_no_motion_in_training() -> None:
    parts: dict[str, Any] = {"layout": "penn-13", "num_classes": 2, "coordinates": 2, "width": 8}
    keypoints = torch.randn(64, 1, 4, 13, 5)

    def hidden(network: SkeletonStreams) -> float:
        (joined,) = network.split(keypoints)
        joints, motion = joined[..., :5], joined[..., 5:]
        assert (joints.flatten(1) != 0).any(dim=1).all()
        return float((motion.flatten(1) == 0).all(dim=1).float().mean())

    network = SkeletonStreams(**parts, motion_dropout=0.5)
    assert 0.3 < hidden(network) < 0.7
    assert hidden(network.eval()) == 0
    assert hidden(SkeletonStreams(**parts)) == 0
    # A network that reads nothing else keeps it.
    assert SkeletonStreams(**parts, streams=("motion",), motion_dropout=0.5).motion_dropout == 0
    assert SkeletonStreams(**parts, fusion="late", motion_dropout=0.5).motion_dropout == 0


@pytest.mark.parametrize(("chosen", "found"), [(None, 0.5), (0.0, 0.0), (0.3, 0.3)])
def test_few_clips_hide_their_motion_unless_it_is_said_how_often(
    made_caches: Path, chosen: float | None, found: float
) -> None:
    prepared = prepare_run(
        "skeleton",
        DATASET,
        protocol="whole",
        readers=readers_of(made_caches),
        config=SkeletonConfig(width=8, clip_len=12, motion_dropout=chosen),
        settings=TrainSettings(device="cpu"),
        options=Options(),
    )
    model: Any = prepared.build().model
    assert model.learning.motion_dropout == found


def test_the_average_follows_the_weights() -> None:
    network = SkeletonStreams(layout="penn-13", num_classes=2, coordinates=2, width=8)
    model = SkeletonTraining(network, average=0.9, smoothing=0.0)
    start = model.network.get_parameter("networks.0.classify.weight").clone()
    with torch.no_grad():
        model.learning.get_parameter("networks.0.classify.weight").add_(1.0)
    for _ in range(200):
        model.update({}, torch.zeros(1))
    assert torch.allclose(model.network.get_parameter("networks.0.classify.weight"), start + 1, atol=1e-3)
    assert not any(value.requires_grad for value in model.network.parameters())


def test_the_loss_of_a_mixture_is_that_of_its_parts() -> None:
    model = SkeletonTraining(torch.nn.Linear(1, 1), average=0.0, smoothing=0.0)
    logits, labels = torch.randn(1, 3, 4), torch.tensor([0, 1, 2])
    partners, share = torch.tensor([3, 1, 0]), torch.tensor([0.25, 1.0, 0.5])
    found = skeleton_losses(model, {"stream_logits": logits, "partner_labels": partners, "share": share}, labels)
    one, other = (cross_entropy(logits[0], each, reduction="none") for each in (labels, partners))
    assert torch.allclose(found["classification"], (share * one + (1 - share) * other).mean())


def clips(made_caches: Path, mixup: float, *, learns: bool = True) -> BodyClips:
    samples = Labelled(tuple(s.id for s in DATASET.samples[:12]), tuple(s.label for s in DATASET.samples[:12]))
    poses = CachedPoses(readers_of(made_caches)["poses"], LAYOUTS["coco-17"], "body-2d", Shape(16, 2))
    return BodyClips(samples, poses, TrainSettings(flip=0.5), SkeletonAugmentation() if learns else None, mixup=mixup)


def test_mixtures_say_whose_they_are_and_evaluation_has_none(made_caches: Path) -> None:
    picks = [(0, index) for index in range(12)]
    mixed = clips(made_caches, 0.4).__getitems__(picks)
    assert mixed["keypoints"].shape == (12, 2, 16, 17, 5)
    assert ((mixed["share"] >= 0) & (mixed["share"] <= 1)).all()
    assert 0 < (mixed["share"] < 1).sum() < 12
    own = mixed["share"] == 1
    assert torch.equal(mixed["partner_labels"][own], mixed["labels"][own])
    assert "share" not in clips(made_caches, 0.4, learns=False).__getitems__(picks)


def test_a_batch_depends_on_seed_epoch_and_index_alone(made_caches: Path) -> None:
    made = clips(made_caches, 0.4)
    both = made.__getitems__([(1, 3), (1, 5)])["keypoints"]
    assert np.array_equal(both[1], made.__getitems__([(1, 5)])["keypoints"][0])
    assert not np.array_equal(both[0], made.__getitems__([(2, 3)])["keypoints"][0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"depth": 3}, "unknown key 'train.skeleton.depth'"),
        ({"streams": []}, "train.skeleton.streams"),
        ({"network": "gcn"}, "train.skeleton.network"),
    ],
)
def test_bad_settings_are_named(made_caches: Path, tmp_path: Path, model: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder(made_caches, tmp_path, model=model)
