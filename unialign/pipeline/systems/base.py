"""The interface of a trainable system: one `System` object plus the network that it trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from unialign.cache.reader import Recorded, StoreReader
from unialign.errors import UsageError
from unialign.pipeline.evaluation.pictures import Pictures
from unialign.pipeline.training.preparation import Options, PreparedRun, Request
from unialign.settings import Settings
from unialign.stages.datasets.base import Split
from unialign.stages.training.settings import TrainSettings

# Data sizes assumed when counting costs: not of any particular dataset, and the same for all systems.
ASSUMED = {
    "classes": 400,
    "prompts": 16,
    "text_width": 512,
    "sentence_width": 768,
    "entities": 548,
    "tokens_of_a_text": 16,
    "pose_tokens": 25,
    "pose_width": 256,
    "token_width": 768,
}
Colors = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class ClassSpecificWeights:
    """Weights and buffers that a training run initializes anew instead of taking them from the run it starts from.

    of_classes: name prefixes of weights that depend on a run's classes (classifiers, texts). added: name fragments of
    layers that may be added to a trained network, and may therefore be absent from the earlier run.
    """

    of_classes: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """Input for counting a system's cost: its parts and one clip, without values (on the device "meta").

    network, num_frames, image_size: for the table; "none" and 0 for a system without image input. config: the
    configuration to build. views: whether evaluation runs the network once per view of a clip.
    """

    config: Any
    parts: Mapping[str, Any]
    batch: Mapping[str, Tensor]
    network: str = "none"
    num_frames: int = 0
    image_size: int = 0
    views: bool = True


@dataclass(frozen=True)
class DrawnClip:
    """A test clip to draw. frames (T, H, W, 3) uint8: the model's input. outputs: the model's outputs for this clip.

    importance: weight of each modality, if the model reports it. config: of the run, as in config.yaml. stored: the
    store of frames. poses: the store that the pose features were extracted from, if available.
    """

    sample: str
    title: str
    frames: np.ndarray
    outputs: Mapping[str, np.ndarray]
    importance: Mapping[str, float]
    classes: tuple[str, ...]
    config: Mapping[str, Any]
    stored: Recorded
    poses: StoreReader | None = None


def no_normalization(model: nn.Module) -> Colors:
    """Mean and standard deviation that leave images unchanged, for models without image input."""
    del model
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class System:
    """How one system is configured, prepared, trained, evaluated and drawn. `config` below is an object of `config`.

    config: its settings, a frozen pydantic model.
    stores: (config) -> the modalities of the cache that it reads, in order.
    prepare: (request) -> the prepared run; see `training.preparation.prepared`.
    build: (config, **parts) -> model, with the `parts` from `prepare`. Raises `UsageError` for parts that do not
        fit. The model is a `Trainable`: a dict of tensors in, a dict with "logits" out.
    losses: (model, outputs, labels) -> dict of weighted scalars whose sum is minimized. With a keyword `smoothing` they
        can smooth labels.
    clipped_apart: beginnings of the names of parameters whose gradient is clipped by a norm of its own.
    normalization: (model) -> mean and standard deviation per color channel to normalize frames in [0, 1] with.
    rate: (model, name of a parameter) -> the parameter's learning rate divided by that of the run.
    class_specific: what a training run does not take from the run it starts from.
    check: (config, options) -> raises `UsageError` for a run that makes no sense although its model can be built.
    no_val: (config) -> why a run needs no val part to select its epoch on; "" if it does need one.
    any_class: (config) -> True if no learned weights depend on the classes: unseen ones are recognized by their texts.
    mixes: (config) -> True if the model has several `heads`, whose probabilities are joined in the prediction.
    settled: (config, split) -> the settings that a run has on a split of the dataset, and why where they are not those
        given, as a sentence, else "". What somebody set (`model_fields_set`) stays.
    recipe: (config, number of training samples, settings) -> the system's own defaults for unset `train.settings`.
    example: (config) -> input for counting its cost, called on the device "meta"; None: its cost is not counted.
    draw: (clip) -> a drawing of a test clip that shows what the model attended to, as `Pictures` or as the bytes of a
        PNG, or None; None: nothing to draw.
    """

    config: type[Settings]
    stores: Callable[[Any], tuple[str, ...]]
    prepare: Callable[[Request], PreparedRun]
    build: Callable[..., nn.Module]
    losses: Callable[..., dict[str, Tensor]]
    normalization: Callable[[Any], Colors] = no_normalization
    rate: Callable[[Any, str], float] = lambda model, name: 1.0
    clipped_apart: tuple[str, ...] = ()
    class_specific: ClassSpecificWeights = field(default_factory=ClassSpecificWeights)
    check: Callable[[Any, Options], None] = lambda config, options: None
    no_val: Callable[[Any], str] = lambda config: ""
    any_class: Callable[[Any], bool] = lambda config: False
    mixes: Callable[[Any], bool] = lambda config: False
    settled: Callable[[Any, Split], tuple[Any, str]] = lambda config, split: (config, "")
    recipe: Callable[[Any, int, TrainSettings], Mapping[str, Any]] = lambda config, count, settings: {}
    example: Callable[[Any], Example] | None = None
    draw: Callable[[DrawnClip], Pictures | bytes | None] | None = None


def refuse_start(name: str, options: Options) -> None:
    """Raise `UsageError` if a run to start from is given: zero-shot results depend on what an encoder has seen."""
    if options.start is not None:
        raise UsageError(
            f"{name} starts from no run (train.start): what that has seen would hide from zero-shot results which "
            "classes are unseen."
        )
