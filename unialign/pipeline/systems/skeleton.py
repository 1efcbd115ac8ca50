"""A skeleton encoder in body space, also for small datasets: exported for `extract pose-features`, like ST-GCN++.

Differences from `encoder`, the published recipe: body coordinates instead of frame or camera coordinates, streams of
joints, bones and motion, the augmentation of the skeleton literature, a moving average of the weights, and a size and
schedule that fit the number of samples. docs/encoders.md has the measurements behind each choice.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unialign.pipeline.systems.base import ASSUMED, Example, System, refuse_start
from unialign.pipeline.systems.encoder import (
    ASSUMED_LAYOUT,
    NUM_PERSONS,
    layout_of_poses,
    pose_batch,
    seen_classes,
)
from unialign.pipeline.training.preparation import PreparedRun, Request, prepared
from unialign.stages.extraction.pose_clips import Shape
from unialign.stages.extraction.pose_recipes import recipe_of
from unialign.stages.models.skeleton.config import SkeletonConfig
from unialign.stages.models.skeleton.streams import SkeletonStreams
from unialign.stages.training.pose_samples import BodyClips, CachedPoses
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.skeleton_augmentation import SkeletonAugmentation
from unialign.types import Json

# 1600 steps of 32 clips suffice for a small network; small datasets get more epochs, up to a limit.
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 1600, 30, 300
# Of a run. With few clips an epoch takes less time than a checkpoint.
CHECKPOINTS = 30
# Below this number of training clips their motion is not always shown, see docs/encoders.md.
FEW_CLIPS, MOTION_DROPOUT = 100, 0.5
FIRST_STEPS = 10  # warm-up of the moving average, which follows the weights faster at first


class SkeletonTraining(nn.Module):
    """Adapts an encoder to the training loop's interface, with a moving average of its weights.

    `learning` is updated by gradients; `network`, its average, is evaluated and exported. Without averaging they are
    the same object.
    """

    steps: Tensor

    def __init__(self, network: nn.Module, *, average: float, smoothing: float) -> None:
        super().__init__()
        self.learning = network
        self.network = copy.deepcopy(network).requires_grad_(False) if average else network
        self.average, self.smoothing = average, smoothing
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # The same number on the host, which would have to wait for the buffer's; None after a checkpoint was loaded.
        self._done: int | None = 0
        self.register_load_state_dict_post_hook(_count_anew)  # type: ignore[no-untyped-call]

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens (N, T', D), feature (N, D) and logits (N, classes) of a batch's keypoints (N, M, T, V, C).

        In training also the mixup labels and shares (N,), if any.
        """
        network = self.learning if self.training else self.network
        outputs: dict[str, Tensor] = network(batch["keypoints"], batch["present"], batch.get("persons"))
        mixed = {name: batch[name] for name in ("partner_labels", "share") if name in batch}
        return {**outputs, **mixed}

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Move the average toward the weights, after each optimizer step."""
        if not self.average:
            return
        self._done = 1 + (int(self.steps) if self._done is None else self._done)
        self.steps += 1
        decay = min(self.average, self._done / (self._done + FIRST_STEPS))
        with torch.no_grad():
            for kept, value in zip(
                self.network.state_dict().values(), self.learning.state_dict().values(), strict=True
            ):
                if kept.dtype.is_floating_point:
                    kept.lerp_(value, 1 - decay)
                else:
                    kept.copy_(value)


def _count_anew(module: nn.Module, keys: Any) -> None:
    """Other steps were loaded."""
    del keys
    module._done = None  # type: ignore[assignment]


def skeleton_losses(model: Any, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Mean over the streams of the label-smoothed cross-entropy, a scalar; labels (N,).

    With mixup, weighted by the share of each label.
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits.float(), targets, label_smoothing=model.smoothing, reduction="none")

    terms = [loss(logits, labels) for logits in outputs["stream_logits"]]
    if "share" in outputs:
        share, partners = outputs["share"], outputs["partner_labels"]
        mixed = [loss(logits, partners) for logits in outputs["stream_logits"]]
        terms = [share * one + (1 - share) * other for one, other in zip(terms, mixed, strict=True)]
    return {"classification": torch.stack(terms).mean()}


def prepare_skeleton(request: Request) -> PreparedRun:
    """Prepare a run of an encoder in body space; its classes are those of `encoder.seen_classes`."""
    config, dataset, reader = request.config, request.dataset, request.readers["poses"]
    layout = layout_of_poses(reader)
    numbers, unknown, sides = seen_classes(request)
    seen = [dataset.classes[label] for label in numbers]
    recipe = recipe_of(layout, reader.array_attributes("keypoints")["coordinates"], "body")
    poses = CachedPoses(reader, layout, recipe, Shape(config.clip_len, NUM_PERSONS), config.crop)
    augmentation = SkeletonAugmentation(
        **{name: getattr(config, name) for name in SkeletonAugmentation.__dataclass_fields__}
    )
    parts: dict[str, Json] = {
        "layout": layout.plain,
        "num_classes": len(numbers),
        "coordinates": 2 if recipe == "body-2d" else 3,
    }
    dropout = config.motion_dropout
    if dropout is None:
        dropout = MOTION_DROPOUT if len(sides.train.samples) < FEW_CLIPS else 0.0
    return prepared(
        # A run says what it does, and is then the same run, whether that was asked for or chosen.
        replace(request, config=config.replaced(motion_dropout=dropout)),
        sides,
        sides.sources(
            lambda samples, learns: BodyClips(
                samples, poses, request.settings, augmentation if learns else None, mixup=config.mixup
            )
        ),
        {**parts, "motion_dropout": dropout},
        extra={
            "model": request.name,
            "config": {**parts, **network_settings(config)},
            "layout": layout.plain,
            "recipe": recipe,
            "clip_len": config.clip_len,
            "classes": seen,
            "protocol": request.protocol,
            "dataset": dataset.name,
        },
        classes=tuple(seen + [dataset.classes[label] for label in unknown]),
        unknown=len(unknown),
    )


def network_settings(config: SkeletonConfig) -> dict[str, Any]:
    """The network's constructor arguments, besides layout, classes and coordinates."""
    names = ("network", "streams", "fusion", "width", "blocks", "dropout", "head_dropout")
    plain = config.plain()
    return {name: plain[name] for name in names}


def build_skeleton(config: SkeletonConfig, *, motion_dropout: float = 0.0, **parts: Any) -> SkeletonTraining:
    """The encoder with random weights, wrapped for the training loop. motion_dropout: of the configuration, or what it
    is for the number of training clips.
    """
    network = SkeletonStreams(**parts, **network_settings(config), motion_dropout=motion_dropout)
    return SkeletonTraining(network, average=config.average, smoothing=config.label_smoothing)


def skeleton_recipe(config: SkeletonConfig, num_train: int, settings: TrainSettings) -> dict[str, Any]:
    """Default training settings: AdamW with a cosine schedule, epochs depending on the number of samples."""
    del config
    epochs = max(FEWEST_EPOCHS, min(MOST_EPOCHS, round(32 * STEPS / max(1, num_train))))
    if "epochs" in settings.model_fields_set:
        epochs = settings.epochs
    return {
        "epochs": epochs,
        "batch_size": 32,
        "optimizer": "adamw",
        "lr": 0.004,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_epochs": min(3.0, epochs / 10),
        "gradient_clip": 5.0,
        "checkpoint_every": max(1, epochs // CHECKPOINTS),
    }


def skeleton_example(config: SkeletonConfig) -> Example:
    """One clip of two persons with the joints of COCO, in body space."""
    parts = {"num_classes": ASSUMED["classes"], "layout": ASSUMED_LAYOUT, "coordinates": 2}
    batch = pose_batch(config.clip_len, 5)  # x, y, fraction seen, root x and y
    return Example(config, parts, batch, config.network, config.clip_len, views=False)


SKELETON = System(
    config=SkeletonConfig,
    stores=lambda config: ("poses",),
    prepare=prepare_skeleton,
    build=build_skeleton,
    losses=skeleton_losses,
    check=lambda config, options: refuse_start("skeleton", options),
    recipe=skeleton_recipe,
    example=skeleton_example,
)
