"""A training of ST-GCN++ on cached poses, prepared."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unialign.errors import UsageError
from unialign.pipeline.training.coverage import Covered
from unialign.pipeline.training.preparation import Options, PreparedRun, Sides, covered_sides, get_reader
from unialign.stages.datasets.base import Dataset
from unialign.stages.extraction.pose_clips import Shape, recipe_of
from unialign.stages.models.skeleton.stgcnpp import NUM_BRANCHES, STGCNPlusPlus
from unialign.stages.sample_reader import SampleReader
from unialign.stages.skeleton_layouts import LAYOUTS, Layout, layout_in
from unialign.stages.training.clips import Labelled
from unialign.stages.training.pose_samples import CachedPoses, PoseClips
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import Task

NUM_PERSONS = 2


class EncoderTraining(nn.Module):
    """A skeleton encoder behind the contract of the training loop: a dict in, a dict out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens, feature and logits of a batch's keypoints."""
        outputs: dict[str, Tensor] = self.network(batch["keypoints"], batch["present"])
        return outputs

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Nothing moves beside the weights."""


def classification_loss(model: nn.Module, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the logits."""
    return {"classification": cross_entropy(outputs["logits"].float(), labels)}


def prepare_encoder(
    dataset: Dataset,
    *,
    protocol: str | None,
    readers: Mapping[str, SampleReader],
    model: Mapping[str, Any],
    settings: TrainSettings,
    options: Options,
) -> PreparedRun:
    """What a training of ST-GCN++ on cached poses needs; its classes are those of the protocol's training samples.

    model: "width" and "dropout" of the network, "clip_len" frames of a clip (100), "crop": shortest random part of a
    sample in training (0.5). Joint layout and recipe follow from the store of poses. Test samples of classes that
    training has no sample of count as wrong; where there are no others (zero-shot protocols), nothing is evaluated.
    """
    protocol = protocol or dataset.default_protocol
    chosen = encoder_settings(model)
    reader = get_reader(readers, "poses", dataset)
    layout = _layout(reader)
    numbers, unknown, sides = seen_classes(dataset, protocol, reader, options.min_coverage)
    seen = [dataset.classes[label] for label in numbers]
    recipe, clip_len = recipe_of(layout, reader.array_attributes("keypoints")["coordinates"]), chosen["clip_len"]
    poses = CachedPoses(reader, layout, recipe, Shape(clip_len, NUM_PERSONS), chosen["crop"])
    network = {
        "layout": layout.plain,
        "num_classes": len(numbers),
        "width": chosen["width"],
        "dropout": chosen["dropout"],
    }
    config = {"model": "stgcn++", "dataset": dataset.name, "protocol": protocol, "encoder": chosen}
    return PreparedRun(
        dataset=dataset,
        protocol=protocol,
        model="stgcn++",
        config={**config, "settings": settings.plain()},
        settings=settings,
        readers={"poses": reader},
        train=PoseClips(sides.train.samples, poses, settings, train=True),
        val=PoseClips(sides.val.samples, poses, settings, train=False),
        test=PoseClips(sides.test.samples, poses, settings, train=False),
        train_side=sides.train,
        val_side=sides.val,
        test_side=sides.test,
        build=partial(build_task, network, settings.seed),
        extra={
            "model": "stgcn++",
            "config": network,
            "layout": layout.plain,
            "recipe": recipe,
            "clip_len": clip_len,
            "classes": seen,
            "protocol": protocol,
            "dataset": dataset.name,
        },
        classes=tuple(seen + [dataset.classes[label] for label in unknown]),
        unknown=len(unknown),
    )


def seen_classes(
    dataset: Dataset, protocol: str, reader: SampleReader, minimum: float
) -> tuple[dict[int, int], list[int], Sides]:
    """Places of the training classes by label of the dataset, tested classes beside them, and the relabelled parts.

    The tested classes that training lacks have the places behind; the test is empty where there are no others.
    """
    split = dataset.split(protocol)
    labels = {sample.id: sample.label for sample in dataset.samples}
    numbers = {label: number for number, label in enumerate(sorted({labels[each] for each in split.train}))}
    if not any(labels[each] in numbers for each in split.test):
        split = replace(split, test=())
    others = sorted({labels[each] for each in (*split.test, *split.val)} - numbers.keys())
    places = numbers | {label: len(numbers) + number for number, label in enumerate(others)}
    sides = covered_sides(dataset, protocol, split, {"poses": reader}, minimum)
    train, val, test = (renumbered(side, places) for side in (sides.train, sides.val, sides.test))
    return numbers, others, Sides(train, val, test)


def encoder_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an encoder's training, defaults filled in. Raises `UsageError` for bad names and values."""
    chosen: dict[str, Any] = {"width": 64, "dropout": 0.0, "clip_len": 100, "crop": 0.5}
    for name, value in model.items():
        if name not in chosen:
            raise UsageError(f"unknown setting {name!r} of stgcn++; known: {', '.join(chosen)}.")
        if isinstance(value, bool) or not isinstance(value, int | type(chosen[name])):
            raise UsageError(f"setting {name} of stgcn++ is {value!r}; it must be a number like {chosen[name]}.")
        chosen[name] = type(chosen[name])(value)
    if chosen["width"] < NUM_BRANCHES or chosen["clip_len"] < 4:
        raise UsageError(f"stgcn++ needs a width of at least {NUM_BRANCHES} and a clip_len of at least 4.")
    if not (0 < chosen["crop"] <= 1 and 0 <= chosen["dropout"] < 1):
        raise UsageError("stgcn++ needs a crop above 0 and up to 1, and a dropout of at least 0 and below 1.")
    return chosen


def build_task(network: Mapping[str, Any], seed: int) -> Task:
    """ST-GCN++ and its loss, random weights from the seed."""
    torch.manual_seed(seed)
    return Task(EncoderTraining(STGCNPlusPlus(**network)), classification_loss)


def _layout(reader: SampleReader) -> Layout:
    layout = layout_in(reader.array_attributes("keypoints"))
    if layout is None:
        raise UsageError(f"the poses' joints are of an unknown order; known are {', '.join(LAYOUTS)}.")
    return layout


def renumbered(side: Covered, numbers: Mapping[int, int]) -> Covered:
    """The same side with other labels: `numbers` by label of the dataset."""
    samples = Labelled(side.samples.ids, tuple(numbers[label] for label in side.samples.labels))
    return Covered(samples, tuple((name, numbers[label]) for name, label in side.missing), side.lost)
