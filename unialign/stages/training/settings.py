"""How a run of stage two trains: one frozen record, checked once."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from unialign.errors import UsageError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "cosine")
PRECISIONS = ("fp32", "bf16", "fp16")

# Fields that change how fast or how safely a run goes, but not what it computes.
NOT_IDENTITY = (
    "num_workers",
    "prefetch",
    "read_threads",
    "device",
    "keep",
    "checkpoint_every",
    "checkpoint_batches",
    "checkpoint_minutes",
    "log_every",
)

# Fields that came after keys of runs were written: where they say what was done before, keys stay as they were.
YOUNGER = {"compile": False}


@dataclass(frozen=True)
class TrainSettings:
    """Everything that training needs beside data and model.

    batch_size: clips in one optimizer step, over all processes of a distributed run.
    lr, weight_decay: for every parameter; those with fewer than two axes (biases, norms) have no weight decay.
    schedule: "step" multiplies the rate by `step_factor` every `step_every` epochs (ART: 0.1 every 20 of 50); "cosine"
        falls to 0 at the last epoch. Both begin with `warmup_epochs` of linear increase.
    gradient_clip: largest norm of the gradient, 0 for no limit.
    precision: "fp32", or automatic mixed precision; "fp16" also scales the loss.
    compile: train through torch.compile. The first step takes minutes, and losses differ from those without by rounding
        and by other random numbers (dropout, ALT's noise); evaluation is not compiled.
    num_workers: 0 decodes in a thread beside the training loop, more use processes. `prefetch` batches wait ready.
    read_threads: that gather cached arrays with num_workers of 0, beside the loop itself when it would wait; of
        memory-mapped stores no more than there are cores.
    window_shards: 0 shuffles all samples; otherwise cached arrays come from so many shards at a time, for stores that
        are larger than memory.
    device: "auto" takes a GPU if there is one.
    eval_every, checkpoint_every: epochs; checkpoint_batches: also every so many batches (0: no); checkpoint_minutes:
        also within an epoch, when the last checkpoint is so old (0: no). keep: how many numbered checkpoints stay.
        log_every: batches between two lines of the step log.
    crop_scale, crop_ratio: range of the random crop's share of the picture's area and of width over height.
    flip: probability of a mirrored clip. Off (0), because fine-grained classes often differ in left and right ("raise
        the left arm"); switch it on (0.5) only for a dataset whose classes a mirror does not change.
    colour: largest relative change of brightness and contrast.
    test_clips, test_crops: clips in time and crops in space (1 or 3) whose probabilities are averaged in evaluation.
    pose_test: "first" view of the cached grid in evaluation, or the "mean" of those that are not mirrored.
    """

    epochs: int = 50
    batch_size: int = 24
    optimizer: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: str = "step"
    step_every: int = 20
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    gradient_clip: float = 20.0
    precision: str = "fp32"
    compile: bool = False
    seed: int = 0
    num_workers: int = 0
    prefetch: int = 3
    read_threads: int = 2
    window_shards: int = 0
    device: str = "auto"
    eval_every: int = 1
    checkpoint_every: int = 1
    checkpoint_batches: int = 0
    checkpoint_minutes: float = 10.0
    keep: int = 2
    log_every: int = 10
    crop_scale: tuple[float, float] = (0.6, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.0
    colour: float = 0.2
    test_clips: int = 1
    test_crops: int = 1
    pose_test: str = "first"

    def __post_init__(self) -> None:
        # A YAML file gives lists where ranges are meant.
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))
        object.__setattr__(self, "crop_ratio", tuple(self.crop_ratio))
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            _one_of(name, getattr(self, name), known)
        _one_of("pose_test", self.pose_test, ("first", "mean"))
        for name in ("epochs", "batch_size", "prefetch", "read_threads", "eval_every", "checkpoint_every", "log_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("step_every", "test_clips"):
            _at_least(name, getattr(self, name), 1)
        for name in (
            "weight_decay",
            "momentum",
            "warmup_epochs",
            "gradient_clip",
            "seed",
            "num_workers",
            "window_shards",
        ):
            _at_least(name, getattr(self, name), 0)
        _at_least("checkpoint_batches", self.checkpoint_batches, 0)
        _at_least("checkpoint_minutes", self.checkpoint_minutes, 0)
        if self.keep < 2:
            raise UsageError(
                f"train.settings.keep is {self.keep}; at least 2 checkpoints must stay, for one may be damaged."
            )
        if not self.lr > 0:
            raise UsageError(f"train.settings.lr is {self.lr}; it must be above 0.")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise UsageError(
                f"train.settings.warmup_epochs is {self.warmup_epochs}; it must be below epochs ({self.epochs})."
            )
        if self.test_crops not in (1, 3):
            raise UsageError(
                f"train.settings.test_crops is {self.test_crops}; it is 1 (centre) or 3 (along the longer side)."
            )
        for name in ("flip", "step_factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"train.settings.{name} is {getattr(self, name)}; it must be between 0 and 1.")
        if not 0 <= self.colour < 1:
            raise UsageError(f"train.settings.colour is {self.colour}; it must be at least 0 and below 1.")
        _range("crop_scale", self.crop_scale, 1.0)
        _range("crop_ratio", self.crop_ratio, float("inf"))

    def identity(self) -> dict[str, Any]:
        """The fields that decide what a run computes, as plain values: part of a run's key."""
        fields = {name: value for name, value in self.plain().items() if name not in NOT_IDENTITY}
        return {name: value for name, value in fields.items() if YOUNGER.get(name, ...) != value}

    def plain(self) -> dict[str, Any]:
        """All fields as values that JSON and YAML know."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def settings_from(values: Mapping[str, Any], defaults: TrainSettings | None = None) -> TrainSettings:
    """Settings from names and plain values, the rest from `defaults`.

    Raises `UsageError` for an unknown name and for a value of another kind than the default's.
    """
    base = defaults or TrainSettings()
    known = {field.name: getattr(base, field.name) for field in fields(TrainSettings)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"unknown key train.settings.{name}; known: {', '.join(known)}.")
        kind = type(known[name])
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
        if type(value) is not kind:
            raise UsageError(f"train.settings.{name} is {value!r}; it must be of type {kind.__name__}.")
        checked[name] = value
    return replace(base, **checked)


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """The rate at a moment of a run, in epochs from 0 (start) to `settings.epochs` (end).

    A function of the moment, so a resumed run needs no scheduler's state.
    """
    if progress < settings.warmup_epochs:
        # Never 0: the first step learns too.
        return settings.lr * max(progress / settings.warmup_epochs, 0.01)
    if settings.schedule == "step":
        return settings.lr * settings.step_factor ** (int(progress) // settings.step_every)
    share = (progress - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"train.settings.{name} is {value!r}; it is one of {', '.join(known)}.")


def _at_least(name: str, value: float, lowest: int) -> None:
    if not value >= lowest:
        raise UsageError(f"train.settings.{name} is {value}; it must be at least {lowest}.")


def _range(name: str, value: tuple[float, float], highest: float) -> None:
    if len(value) != 2 or not 0 < value[0] <= value[1] <= highest:
        raise UsageError(f"train.settings.{name} is {list(value)}; it is two numbers, the smaller one first, above 0.")
