"""Preparation of a run from a dataset and its caches, shared by training and evaluation."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unialign.cache.keys import digest
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.training.coverage import Covered, covered
from unialign.settings import Settings
from unialign.stages.datasets.base import Dataset, Split
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.loader import BatchSource
from unialign.stages.training.loop import Fitted
from unialign.stages.training.samples import Labelled
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import Task
from unialign.types import Json

if TYPE_CHECKING:
    from unialign.pipeline.systems.base import System

# Incremented with every intended change to what a model or the loop computes (golden losses change too), so that older
# finished runs are not reused. 2: L_sema updates only the agent bank. 3: training reads width and height of the poses'
# frames as extraction does. 4: a val part selects the best epoch, and source digests of the samples are part of a run's
# identity.
REVISION = 4
# The same for what a val part decides besides the best epoch, only in the identity of runs where it decides something.
# 1 was not written: it decided nothing, heads were averaged and the last epoch was exported. 2: it weighed heads in a
# mixture. 3: it weighs them in a product (`stages.training.fusion`) and chooses the epoch that is exported.
VALIDATION_REVISION = 3
# The same for runs of several heads without a val part. 1 was not written: heads were averaged. 2: the model says which
# answer (`untested_weights`).
UNTESTED_REVISION = 2
# The same for clipping, only of systems that clip some gradients apart. 1 was not written: all shared one norm.
CLIPPING_REVISION = 2


@dataclass(frozen=True)
class Options:
    """What a run needs besides dataset, caches, model and settings.

    min_coverage: minimum fraction of each side of the split that the caches must hold. templates: which templates of
    the text store to use; if empty, all that exist for every class. backbone_weights: file with initial weights of the
    video backbone, or "hub" for published ones. entities: names of the entities in ALT's corpus, in order, with their
    texts; all in the text store if empty. shots: training samples per class, chosen by the seed; 0: all. val_share:
    fraction of the training samples held out to select the best epoch if a split has no val part. start: folder of a
    finished run to take initial weights from. row: part of a new run folder's name, between model and seed.
    overwrite: delete the run's folder first, if there is one.
    """

    min_coverage: float = 0.95
    templates: tuple[str, ...] = ()
    backbone_weights: Path | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    shots: int = 0
    val_share: float = 0.1
    start: Path | None = None
    row: str = ""
    overwrite: bool = False


@dataclass(frozen=True)
class Sides:
    """The samples of each part of a split that are in the stores."""

    train: Covered
    val: Covered
    test: Covered

    def sources(self, make: Callable[[Labelled, bool], BatchSource]) -> tuple[BatchSource, BatchSource, BatchSource]:
        """Batch sources for train, val and test. make: (samples, whether they are for training) -> batch source."""
        return make(self.train.samples, True), make(self.val.samples, False), make(self.test.samples, False)


def covered_sides(
    dataset: Dataset,
    protocol: str,
    split: Split,
    readers: Mapping[str, SampleReader],
    minimum: float,
    *,
    tested: bool = True,
) -> Sides:
    """The samples of each part of a split that are in the stores.

    minimum: minimum fraction of train and of test that must be present; not enforced for val, which is small, so that
    a missing clip does not matter. Raises `MissingCache` below it, `UsageError` if there are no samples to train on or,
    if `tested`, to test on.
    """
    train, val, test = (
        covered(dataset, part, ids, readers, protocol=protocol, minimum=least)
        for part, ids, least in (
            ("train", split.train, minimum),
            ("val", split.val, 0.0),
            ("test", split.test, minimum),
        )
    )
    for part, side in (("train", train), ("test", test)):
        if len(side.samples) or (part == "test" and not tested):
            continue
        if not getattr(split, part):
            raise UsageError(
                f"protocol {protocol} of {dataset.name} leaves no {part} samples; add clips (of each class at least "
                "two), or say which are for what: the column `split` of labels.csv, folders train/ and test/, or "
                "another --protocol."
            )
        raise UsageError(f"protocol {protocol} of {dataset.name} has no {part} samples that the caches hold.")
    return Sides(train, val, test)


@dataclass(frozen=True)
class Request:
    """A requested run: the input of a system's `prepare`.

    name, section: of the system, in `train.model` and in the configuration. dataset: with the parts of the protocol
    already resolved (few shots, val). readers: the stores that the system reads, by modality. config: its settings.
    """

    name: str
    section: str
    system: "System"
    dataset: Dataset
    protocol: str
    readers: Mapping[str, SampleReader]
    config: Any
    settings: TrainSettings
    options: Options

    def sides(self, split: Split | None = None, *, tested: bool = True) -> Sides:
        """The samples of each part of a split (default: the protocol's) that are in the stores, text excluded.

        See `covered_sides`.
        """
        stores = {name: reader for name, reader in self.readers.items() if name != "text"}
        split = split or self.dataset.split(self.protocol)
        return covered_sides(self.dataset, self.protocol, split, stores, self.options.min_coverage, tested=tested)


@dataclass(frozen=True)
class PreparedRun:
    """Everything that one run trains and evaluates.

    config: resolved settings for config.yaml; part of the run's `identity`. val: samples to select the best epoch on;
    may be None. build: creates the task, seeded from the settings. texts: ids of the text store rows that the model
    reads, if the store has them. extra: values needed to export the model. mixes: see `System.mixes`.
    classes: classes of the score columns, if they differ from the dataset's; the last `unknown` ones have no column,
    since training has no samples of them. report: what a finished run reports besides its metrics.
    follow_test: see `loop.Data`. validation: "origin" and "why" of `validation.Validation`. learned: what the initial
    weights were trained on, see `run_data.read_learned`. notes: what else to know before it trains, as sentences.
    candidates: columns that the test chooses among; all if empty, and for systems with a test of their own.
    clips_apart: whether some gradients are clipped by a norm of their own, see `System.clipped_apart`.
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
    texts: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    mixes: bool = False
    classes: tuple[str, ...] = ()
    unknown: int = 0
    report: Callable[[Fitted], Mapping[str, Json]] | None = None
    follow_test: bool = False
    validation: Mapping[str, Json] = field(default_factory=lambda: {"origin": "none", "why": "none was asked for"})
    learned: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    candidates: tuple[int, ...] = ()
    clips_apart: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The classes of the score columns, in order."""
        names = self.classes or self.dataset.classes
        return tuple(names[: len(names) - self.unknown])

    def identity(self, keys: Mapping[str, Mapping[str, Json]], data: str) -> dict[str, Json]:
        """Everything that determines the result: settings, store keys, source digests of the samples, and revision.

        data: digest of the run's data table, see `run_data`.
        """
        sides = (self.train_side, self.val_side, self.test_side)
        return {
            "revision": REVISION,
            **({"validation": VALIDATION_REVISION} if self.val_side.samples.ids and (self.mixes or self.extra) else {}),
            **({"untested": UNTESTED_REVISION} if self.mixes and not self.val_side.samples.ids else {}),
            **({"clipping": CLIPPING_REVISION} if self.clips_apart else {}),
            "config": {**self.config, "settings": self.settings.identity()},
            "stores": {name: found["key"] for name, found in keys.items()},
            "samples": digest([[list(side.samples.ids), list(side.samples.labels)] for side in sides]),
            "missing": digest([side.missing for side in sides]),
            "data": data,
        }


def prepared(
    request: Request,
    sides: Sides,
    sources: tuple[BatchSource, BatchSource | None, BatchSource],
    parts: Mapping[str, Any],
    said: Mapping[str, Json] | None = None,
    **more: Any,
) -> PreparedRun:
    """The prepared run for a request.

    sources: batch sources for train, val and test. parts: arguments of the system's `build` besides its config. said:
    additional fields of config.yaml, such as the templates; part of the run's key. more: see `PreparedRun`.
    """
    settings = request.settings
    check_recipe(request)
    return PreparedRun(
        dataset=request.dataset,
        protocol=request.protocol,
        model=request.name,
        config={
            "model": request.name,
            "dataset": request.dataset.name,
            "protocol": request.protocol,
            request.section: request.config.recorded(),
            "settings": settings.recorded(),
            **(said or {}),
        },
        settings=settings,
        readers=request.readers,
        train=sources[0],
        val=sources[1],
        test=sources[2],
        train_side=sides.train,
        val_side=sides.val,
        test_side=sides.test,
        mixes=request.system.mixes(request.config),
        clips_apart=bool(request.system.clipped_apart) and settings.gradient_clip > 0,
        build=partial(build_task, request.system, request.config, parts, settings),
        **more,
    )


def check_recipe(request: Request) -> None:
    """Raise `UsageError` for mixed clips, smoothed labels or an average of weights that a system does not allow."""
    settings, read = request.settings, set(request.readers) - {"text"}
    for name in ("mixup", "cutmix"):
        if getattr(settings, name) and read != {"frames"}:
            raise UsageError(
                f"train.settings.{name} mixes clips of frames, but this run reads {' and '.join(sorted(read))}; set it "
                "to 0."
            )
    if settings.label_smoothing and "smoothing" not in inspect.signature(request.system.losses).parameters:
        raise UsageError(f"train.settings.label_smoothing has no meaning in the losses of {request.name}; set it to 0.")
    if settings.average and hasattr(request.config, "average"):
        raise UsageError(
            f"{request.name} has a moving average of its own (`average` of its config); set train.settings.average "
            "to 0."
        )


def build_task(system: "System", config: Settings, parts: Mapping[str, Any], settings: TrainSettings) -> Task:
    """A system with its losses; parameters without initial weights are initialized randomly from the seed.

    Raises `UsageError` for `drop_path` in a model without it.
    """
    torch.manual_seed(settings.seed)
    model = system.build(config, **parts)
    if settings.drop_path is not None:
        from unialign.stages.models.drop_path import set_drop_path  # torchvision, which few runs need

        set_drop_path(model, settings.drop_path)
    smoothing = settings.label_smoothing
    mean, std = system.normalization(model)
    losses = partial(system.losses, smoothing=smoothing) if smoothing else system.losses
    return Task(model, losses, mean, std, partial(system.rate, model), system.clipped_apart)


def get_reader(readers: Mapping[str, SampleReader], name: str, dataset: Dataset) -> SampleReader:
    """The reader for a modality. Raises `MissingCache` naming the command that creates the store."""
    if name not in readers:
        raise MissingCache(
            f"the model needs {name} of {dataset.collection}, which were not given; "
            f"make them with `unialign extract {name} --dataset {dataset.name}`."
        )
    return readers[name]


def renumbered(side: Covered, numbers: Mapping[int, int]) -> Covered:
    """The same side with new labels: `numbers` maps the dataset's labels to them."""
    samples = Labelled(side.samples.ids, tuple(numbers[label] for label in side.samples.labels))
    return replace(side, samples=samples, missing=tuple((name, numbers[label]) for name, label in side.missing))


def by_place(side: Covered, classes: Sequence[int]) -> Covered:
    """The same side with indices into `classes` as labels."""
    return renumbered(side, {label: place for place, label in enumerate(classes)})
