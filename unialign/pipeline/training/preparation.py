"""What every training is prepared into, from a dataset and its caches; used by training and by evaluation alike."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unialign.cache.keys import digest
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.training.coverage import Covered, covered
from unialign.stages.datasets.base import Dataset, Split
from unialign.stages.models.systems import SYSTEMS, Parts
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.loader import BatchSource
from unialign.stages.training.loop import Fitted
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import Task
from unialign.types import Json

# Raised with every change that is meant to change what a model or the loop computes (golden losses change then too), so
# that a finished run of before is not taken for one of today. 2: L_sema moves the agent bank alone. 3: training reads
# width and height of poses' frames as extraction does. 4: a val part chooses the best epoch, and what samples were made
# from is part of a run's identity.
REVISION = 4


@dataclass(frozen=True)
class Options:
    """What a run needs beside dataset, caches, model and settings.

    min_coverage: smallest share of each side of the split that the caches must hold. templates: those of the text
    store that are used, all that every class has if empty. backbone_weights: a file of weights that the video backbone
    starts from, or "hub" for published ones. entities: names of those in ALT's corpus, in order, with their texts; all
    of the text store if empty. shots: training samples of each class, chosen by the seed; 0: all. val_share: of the
    training samples, set aside to choose the best epoch on, where a split has no val part. start: folder of a finished
    run whose weights training starts from. row: what a new run folder is called between model and seed.
    """

    min_coverage: float = 0.95
    templates: tuple[str, ...] = ()
    backbone_weights: Path | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    shots: int = 0
    val_share: float = 0.1
    start: Path | None = None
    row: str = ""


@dataclass(frozen=True)
class PreparedRun:
    """Everything that one run trains and evaluates.

    config: resolved settings for config.yaml; `identity` of a run is made of it. val: what the best epoch is chosen on;
    may be None. build: makes the task, with the seed of the settings. extra: values that an export of the model needs.
    classes: what the columns of the scores mean, where they are not the dataset's; the last `unknown` ones have no
    column, since training has no sample of them. report: what a finished run says of itself beside its metrics.
    follow_test: see `loop.Data`. validation: "origin" and "why" of `validation.Validation`.
    """

    dataset: Dataset
    protocol: str
    model: str
    config: Mapping[str, Json]
    settings: TrainSettings
    readers: Mapping[str, SampleReader]
    train: BatchSource
    val: BatchSource | None
    test: BatchSource
    train_side: Covered
    val_side: Covered
    test_side: Covered
    build: Callable[[], Task]
    extra: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    unknown: int = 0
    report: Callable[[Fitted], Mapping[str, Json]] | None = None
    follow_test: bool = False
    validation: Mapping[str, Json] = field(default_factory=lambda: {"origin": "none", "why": "none was asked for"})

    @property
    def columns(self) -> tuple[str, ...]:
        """The classes that the columns of the scores mean, in their order."""
        names = self.classes or self.dataset.classes
        return tuple(names[: len(names) - self.unknown])

    def identity(self, keys: Mapping[str, Mapping[str, Json]], data: str) -> dict[str, Json]:
        """What decides the result: settings, keys of stores, what samples were made from, and what models compute.

        data: digest of the run's table, see `run_data`.
        """
        sides = (self.train_side, self.val_side, self.test_side)
        return {
            "revision": REVISION,
            "config": {**self.config, "settings": self.settings.identity()},
            "stores": {name: found["key"] for name, found in keys.items()},
            "samples": digest([[list(side.samples.ids), list(side.samples.labels)] for side in sides]),
            "missing": digest([side.missing for side in sides]),
            "data": data,
        }


def get_reader(readers: Mapping[str, SampleReader], name: str, dataset: Dataset) -> SampleReader:
    """The reader of that modality. Raises `MissingCache` naming the command that makes the store."""
    if name not in readers:
        raise MissingCache(
            f"the model needs {name} of {dataset.collection}, which were not given; "
            f"make them with `unialign extract {name} --dataset {dataset.name}`."
        )
    return readers[name]


@dataclass(frozen=True)
class Sides:
    """What the stores hold of each part of a split."""

    train: Covered
    val: Covered
    test: Covered


def covered_sides(
    dataset: Dataset, protocol: str, split: Split, readers: Mapping[str, SampleReader], minimum: float
) -> Sides:
    """What the stores hold of the parts of a split. Raises `UsageError` without any train sample, and see `covered`.

    minimum: of train and of test; a val part is small, and one clip less in it is no reason not to train.
    """
    train, val, test = (
        covered(dataset, part, ids, readers, protocol=protocol, minimum=least)
        for part, ids, least in (
            ("train", split.train, minimum),
            ("val", split.val, 0.0),
            ("test", split.test, minimum),
        )
    )
    check_any(train, "train", dataset, protocol)
    return Sides(train, val, test)


def check_any(side: Covered, part: str, dataset: Dataset, protocol: str) -> None:
    """Raise `UsageError` for a part without any sample."""
    if not len(side.samples):
        raise UsageError(f"protocol {protocol} of {dataset.name} has no {part} samples that the caches hold.")


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
