"""What every training is prepared into, from a dataset and its caches; used by training and by evaluation alike."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unialign.cache.arrays import Json
from unialign.cache.errors import MissingCache, UsageError
from unialign.cache.keys import digest
from unialign.pipeline.coverage import CachedModality, Covered, covered
from unialign.stages.datasets.base import Dataset
from unialign.stages.models.systems import SYSTEMS, Parts
from unialign.stages.training.loader import BatchSource
from unialign.stages.training.loop import Fitted
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import Task

# Raised with every change that is meant to change what a model or the loop computes (golden losses change then too), so
# that a finished run of before is not taken for one of today. 2: L_sema moves the agent bank alone. 3: training reads
# width and height of poses' frames as extraction does.
REVISION = 3


@dataclass(frozen=True)
class Options:
    """What a run needs beside dataset, caches, model and settings.

    min_coverage: smallest share of each side of the split that the caches must hold. templates: those of the text
    store that are used, all that every class has if empty. backbone_weights: a file of weights that the video backbone
    starts from, or "hub" for published ones. entities: names of those in ALT's corpus, in order, with their texts; all
    of the text store if empty. shots: training samples of each class, chosen by the seed; 0: all. start: folder of a
    finished run whose weights training starts from.
    """

    min_coverage: float = 0.95
    templates: tuple[str, ...] = ()
    backbone_weights: Path | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    shots: int = 0
    start: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """Everything that one run trains and evaluates.

    config: resolved settings for config.yaml; `identity` of a run is made of it. build: makes the task, with the seed
    of the settings. extra: values that an export of the model needs. classes: what the columns of the scores mean,
    where they are not the dataset's. report: what a finished run says of itself beside its metrics.
    """

    dataset: Dataset
    protocol: str
    model: str
    config: Mapping[str, Json]
    settings: TrainSettings
    readers: Mapping[str, CachedModality]
    train: BatchSource
    test: BatchSource
    train_side: Covered
    test_side: Covered
    build: Callable[[], Task]
    extra: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    report: Callable[[Fitted], Mapping[str, Json]] | None = None

    def identity(self, keys: Mapping[str, Mapping[str, Json]]) -> dict[str, Json]:
        """What decides the result: settings, the stores' keys, which samples are used, and what models compute."""
        sides = (self.train_side, self.test_side)
        return {
            "revision": REVISION,
            "config": {**self.config, "settings": self.settings.identity()},
            "stores": {name: found["key"] for name, found in keys.items()},
            "samples": digest([[list(side.samples.ids), list(side.samples.labels)] for side in sides]),
            "missing": digest([side.missing for side in sides]),
        }


def the_reader(readers: Mapping[str, CachedModality], name: str, dataset: Dataset) -> CachedModality:
    """The reader of that modality. Raises `MissingCache` naming the command that makes the store."""
    if name not in readers:
        raise MissingCache(
            f"the model needs {name} of {dataset.collection}, which were not given; "
            f"make them with `unialign extract {name} --dataset {dataset.name}`."
        )
    return readers[name]


def check_enough(dataset: Dataset, protocol: str, *sides: Covered) -> None:
    """Raise `UsageError` when a side (train, then test) has no sample at all."""
    for side, name in zip(sides, ("train", "test"), strict=False):
        if not len(side.samples):
            raise UsageError(f"protocol {protocol} of {dataset.name} has no {name} samples that the caches hold.")


def both_sides(
    dataset: Dataset, protocol: str, readers: Mapping[str, CachedModality], minimum: float
) -> tuple[Covered, Covered]:
    """What the stores hold of the train and of the test side of a protocol; see `covered` and `check_enough`."""
    split = dataset.split(protocol)
    train, test = (
        covered(dataset, side, ids, readers, protocol=protocol, minimum=minimum)
        for side, ids in (("train", split.train), ("test", split.test))
    )
    check_enough(dataset, protocol, train, test)
    return train, test


def plain(config: Any) -> dict[str, Json]:
    """The fields of a system's configuration as JSON and YAML know them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def build_task(name: str, parts: Parts, config: Any, seed: int) -> Task:
    """A system of `SYSTEMS` with its losses; what does not start from weights is random from the seed."""
    torch.manual_seed(seed)
    system = SYSTEMS[name]
    model = system.build(parts, config)
    mean, std = system.pictures(model)
    return Task(model, system.losses, mean, std, partial(system.rate, model))
