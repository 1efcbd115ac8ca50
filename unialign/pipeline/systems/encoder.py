"""ST-GCN++ on cached poses: a skeleton encoder, exported for `extract pose-features`.

The network is in `stages.models.skeleton`. An encoder's classes are those of its protocol's training samples, so an
encoder for a zero-shot protocol has not seen the unseen classes.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unialign.errors import UsageError
from unialign.pipeline.systems.base import ASSUMED, Example, System, refuse_start
from unialign.pipeline.training.preparation import PreparedRun, Request, Sides, prepared, renumbered
from unialign.stages.extraction.pose_clips import Shape
from unialign.stages.extraction.pose_recipes import recipe_of
from unialign.stages.models.skeleton.config import EncoderConfig
from unialign.stages.models.skeleton.stgcnpp import STGCNPlusPlus
from unialign.stages.sample_reader import SampleReader
from unialign.stages.skeleton_layouts import LAYOUTS, Layout, layout_in
from unialign.stages.training.pose_samples import CachedPoses, PoseClips
from unialign.types import Json

NUM_PERSONS = 2
ASSUMED_LAYOUT = "coco-17"


class EncoderTraining(nn.Module):
    """Adapts a skeleton encoder to the training loop's interface: a dict in, a dict out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens (N, T', D), feature (N, D) and logits (N, classes) of a batch's keypoints (N, M, T, V, C)."""
        outputs: dict[str, Tensor] = self.network(batch["keypoints"], batch["present"], batch.get("persons"))
        return outputs

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Nothing to update besides the weights."""


def classification_loss(
    model: nn.Module, outputs: Mapping[str, Tensor], labels: Tensor, *, smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Cross-entropy of the logits (N, classes) with the labels (N,), a scalar. smoothing: of labels, 0 to 1."""
    return {"classification": cross_entropy(outputs["logits"].float(), labels, label_smoothing=smoothing)}


def prepare_encoder(request: Request) -> PreparedRun:
    """Prepare a run of ST-GCN++. Joint layout and recipe are derived from the pose store.

    Test samples of classes without training samples count as wrong; if there are no others (zero-shot protocols),
    nothing is evaluated.
    """
    config, dataset, reader = request.config, request.dataset, request.readers["poses"]
    layout = layout_of_poses(reader)
    numbers, unknown, sides = seen_classes(request)
    seen = [dataset.classes[label] for label in numbers]
    recipe = recipe_of(layout, reader.array_attributes("keypoints")["coordinates"])
    poses = CachedPoses(reader, layout, recipe, Shape(config.clip_len, NUM_PERSONS), config.crop)
    parts = {"layout": layout.plain, "num_classes": len(numbers)}
    return prepared(
        request,
        sides,
        sides.sources(lambda samples, learns: PoseClips(samples, poses, request.settings, train=learns)),
        parts,
        extra={
            "model": request.name,
            "config": {**parts, "width": config.width, "dropout": config.dropout},
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


def build_encoder(config: EncoderConfig, *, num_classes: int, layout: str | Mapping[str, Json]) -> EncoderTraining:
    """ST-GCN++ with random weights, wrapped for the training loop."""
    network = STGCNPlusPlus(layout=layout, num_classes=num_classes, width=config.width, dropout=config.dropout)
    return EncoderTraining(network)


def seen_classes(request: Request) -> tuple[dict[int, int], list[int], Sides]:
    """Class indices of the training classes by dataset label, the evaluated classes not in training, relabeled sides.

    Classes not in training get the indices after those; the test side is empty if it has only such classes.
    """
    dataset = request.dataset
    split = dataset.split(request.protocol)
    labels = {sample.id: sample.label for sample in dataset.samples}
    numbers = {label: number for number, label in enumerate(sorted({labels[each] for each in split.train}))}
    if not any(labels[each] in numbers for each in split.test):
        split = replace(split, test=())
    others = sorted({labels[each] for each in (*split.test, *split.val)} - numbers.keys())
    places = numbers | {label: len(numbers) + number for number, label in enumerate(others)}
    sides = request.sides(split, tested=False)
    train, val, test = (renumbered(side, places) for side in (sides.train, sides.val, sides.test))
    return numbers, others, Sides(train, val, test)


def layout_of_poses(reader: SampleReader) -> Layout:
    """The joint layout of a pose store. Raises `UsageError` for an unknown joint order."""
    layout = layout_in(reader.array_attributes("keypoints"))
    if layout is None:
        raise UsageError(f"the poses' joints are of an unknown order; known are {', '.join(LAYOUTS)}.")
    return layout


def encoder_example(config: EncoderConfig) -> Example:
    """One clip of two persons with the joints of COCO."""
    parts = {"num_classes": ASSUMED["classes"], "layout": ASSUMED_LAYOUT}
    batch = pose_batch(config.clip_len, 3)
    return Example(config, parts, batch, "stgcn++", config.clip_len, views=False)


def pose_batch(clip_len: int, channels: int) -> dict[str, Tensor]:
    """Keypoints of one clip without values, for counting the cost of an encoder: all persons are there."""
    joints = len(LAYOUTS[ASSUMED_LAYOUT].joints)
    return {
        "keypoints": torch.zeros(1, NUM_PERSONS, clip_len, joints, channels),
        "present": torch.ones(1, NUM_PERSONS, dtype=torch.bool),
    }


ENCODER = System(
    config=EncoderConfig,
    stores=lambda config: ("poses",),
    prepare=prepare_encoder,
    build=build_encoder,
    losses=classification_loss,
    check=lambda config, options: refuse_start("stgcn++", options),
    example=encoder_example,
)
