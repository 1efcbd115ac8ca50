"""What the pipeline asks of a trainable system. A system is one `System`, beside the network that it trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from unialign.cache.reader import Recorded, StoreReader
from unialign.errors import UsageError
from unialign.pipeline.training.preparation import Options, PreparedRun, Request
from unialign.settings import Settings
from unialign.stages.training.settings import TrainSettings

# The data that costs are counted with: of no dataset in particular, and the same for all systems.
ASSUMED = {
    "classes": 400,
    "prompts": 16,
    "text_width": 512,
    "sentence_width": 768,
    "entities": 548,
    "tokens_of_a_text": 16,
    "pose_tokens": 25,
    "pose_width": 256,
}
Colors = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class ClassSpecificWeights:
    """What a training run does not take over from the run that it starts from: these weights and buffers start anew.

    of_classes: beginnings of the names of what belongs to a run's classes (classifiers, texts). added: parts of the
    names of layers that may be put into a trained network, and that the run need not have.
    """

    of_classes: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """What a system's cost is counted with: its parts and one clip, without values (on the device "meta").

    network, num_frames, image_size: for the table; "none" and 0 for a system that sees no images. config: the
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
    """A test clip to draw. frames (T, H, W, 3) uint8: those that the model saw. outputs: the model's, of this clip.

    importance: weight of each modality, where the model says so. config: of the run, as in config.yaml. stored: the
    store of frames. poses: the store that the pose features were made from, where it is at hand.
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
    """Mean and standard deviation that leave images as they are; of models that see none."""
    del model
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class System:
    """How one system is configured, prepared, trained, evaluated and drawn. `config` below is an object of `config`.

    config: its settings, a frozen pydantic model.
    stores: (config) -> the modalities of the cache that it reads, in order.
    prepare: (request) -> what is trained and evaluated; see `training.preparation.prepared`.
    build: (config, **parts) -> model, with the `parts` that `prepare` found. Raises `UsageError` for parts that do not
        fit. The model is a `Trainable`: a dict of tensors in, a dict with "logits" out.
    losses: (model, outputs, labels) -> dict of weighted scalars whose sum is minimized.
    normalization: (model) -> mean and standard deviation, per color, that frames in [0, 1] are normalized with.
    rate: (model, name of a parameter) -> its learning rate over that of the run.
    class_specific: what a training run that starts from another one does not take from it.
    check: (config, options) -> raises `UsageError` for a run that makes no sense, though its model can be built.
    no_val: (config) -> why a run needs no val part to choose its epoch on; "" where it does.
    any_class: (config) -> nothing that is learned belongs to classes; unseen ones are recognized by their texts.
    recipe: (config, number of training samples, settings) -> `train.settings` of its own for those that nobody set.
    example: (config) -> what its cost is counted with, called on the device "meta"; None: its cost is not counted.
    draw: (clip) -> a PNG of a test clip with what the model looked at, or None; None: there is nothing to draw.
    """

    config: type[Settings]
    stores: Callable[[Any], tuple[str, ...]]
    prepare: Callable[[Request], PreparedRun]
    build: Callable[..., nn.Module]
    losses: Callable[[Any, Mapping[str, Tensor], Tensor], dict[str, Tensor]]
    normalization: Callable[[Any], Colors] = no_normalization
    rate: Callable[[Any, str], float] = lambda model, name: 1.0
    class_specific: ClassSpecificWeights = field(default_factory=ClassSpecificWeights)
    check: Callable[[Any, Options], None] = lambda config, options: None
    no_val: Callable[[Any], str] = lambda config: ""
    any_class: Callable[[Any], bool] = lambda config: False
    recipe: Callable[[Any, int, TrainSettings], Mapping[str, Any]] = lambda config, count, settings: {}
    example: Callable[[Any], Example] | None = None
    draw: Callable[[DrawnClip], bytes | None] | None = None


def refuse_start(name: str, options: Options) -> None:
    """Raise `UsageError` where a run to start from is given: zero-shot results rest on what an encoder has seen."""
    if options.start is not None:
        raise UsageError(
            f"{name} starts from no run (train.start): what that has seen would hide from zero-shot results which "
            "classes are unseen."
        )
