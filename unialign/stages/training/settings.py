"""How a run of stage two trains: one frozen record, checked once."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from unialign.settings import Settings, checked
from unialign.stages.training.trackers import check_trackers

# Fields that change how fast or how safely a run works, but not what it computes.
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
    "eval_batch_size",
    "activation_checkpointing",
    "deterministic",
    "trackers",
)

# Fields added after config.yaml was first written: with the former behavior as their value, they are left out of it.
YOUNGEST = {
    "accumulate": 1,
    "eval_batch_size": 0,
    "activation_checkpointing": False,
    "sync_batch_norm": False,
    "deterministic": False,
    "twice_sample": False,
    "nesterov": False,
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "average": 0.0,
    "crop": "area",
    "colour_share": 1.0,
    "saturation": 0.0,
    "grayscale": 0.0,
    "hue": 0.0,
    "drop_path": None,
    "test_crop": 1.0,
    "trackers": [],
    "decoder": "cpu",
}

# Fields added after run keys were first written: with the former behavior as their value, keys stay the same.
YOUNGER = {"compile": False, **YOUNGEST}


class TrainSettings(Settings, strict=True):
    """Everything that training needs besides data and model."""

    epochs: int = Field(50, ge=1, description="Passes over the training samples.")
    batch_size: int = Field(24, ge=1, description="Clips of a batch, over all processes together.")
    accumulate: int = Field(
        1,
        ge=1,
        description="Batches per optimizer step, whose gradients are averaged over their clips. Batch statistics, and "
        "losses that compare clips, see one batch at a time.",
    )
    eval_batch_size: int = Field(
        0,
        ge=0,
        description="Clips of a batch in evaluation, each with all its views; 0: `batch_size`, on a GPU twice as many.",
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Optimizer.")
    lr: float = Field(0.01, gt=0, title="learning rate", description="Learning rate.")
    weight_decay: float = Field(
        5e-4, ge=0, description="Weight decay; parameters with fewer than two axes (biases, norms) have none."
    )
    momentum: float = Field(0.9, ge=0, description="Momentum of sgd.")
    nesterov: bool = Field(False, description="Nesterov's momentum in sgd.")
    schedule: Literal["step", "cosine"] = Field(
        "step",
        description="step multiplies the rate by `step_factor` every `step_every` epochs (ART: 0.1 every 20 of 50); "
        "cosine falls to 0 at the last epoch.",
    )
    step_every: int = Field(20, ge=1, description="Epochs between two steps of the rate.")
    step_factor: float = Field(0.1, ge=0, le=1, description="Factor of each step of the rate.")
    warmup_epochs: float = Field(0.0, ge=0, description="Epochs of linear increase that both schedules begin with.")
    gradient_clip: float = Field(
        20.0,
        ge=0,
        description="Largest norm of the gradient; 0: no limit. A text bank has a norm of its own, so that its loss "
        "does not shorten the steps of everything else.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the target that all classes have in common, in the cross-entropies of classifiers.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        description="Alpha of mixup: clips of frames are mixed in pairs by a share from Beta(alpha, alpha); 0: no.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        description="Alpha of cutmix, which puts a box of one clip into another; with mixup too, each batch has one of "
        "them, with equal probability. 0: no.",
    )
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="average of weights",
        description="Share of a moving average of the weights that an optimizer step leaves (0.9999 is usual). The "
        "average is evaluated and kept instead of the weights; 0: no.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Automatic mixed precision unless fp32; auto: bf16 on a GPU that has it, else fp32 (a run records "
        "which). fp16 also scales the loss and needs a GPU.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Compute activations of transformer blocks again in the backward pass instead of keeping them: "
        "a tenth of the memory, about a quarter more time.",
    )
    sync_batch_norm: bool = Field(
        False, description="Batch statistics over the clips of all processes instead of each process's own; needs GPUs."
    )
    deterministic: bool = Field(
        False,
        description="The same bits in every run on the same GPU: only deterministic kernels, which are slower; an "
        "error if there is none. A CPU gives the same bits without it.",
    )
    compile: bool = Field(
        False,
        description="Train through torch.compile. The first step takes minutes, and losses differ by rounding and by "
        "other random numbers (dropout, ALT's noise); evaluation is not compiled.",
    )
    seed: int = Field(0, ge=0, description="Seed of weights, order, augmentation and validation part.")
    num_workers: int = Field(
        0,
        ge=0,
        title="workers",
        description="Processes that decode; 0: threads of the training process, which are faster.",
    )
    prefetch: int = Field(3, ge=1, description="Batches that wait ready.")
    read_threads: int = Field(
        0, ge=0, description="Threads that read and decode, with `num_workers` 0; 0: one per usable core."
    )
    decoder: Literal["cpu", "nvjpeg"] = Field(
        "cpu",
        description="What decodes the JPEGs of training clips; nvjpeg: the GPU, a batch at once (needs "
        "unialign[torchcodec]; never run, there was no GPU). Its pixels differ a little, so it makes another run.",
    )
    window_shards: int = Field(
        0, ge=0, description="Shuffle within so many shards at a time, for stores larger than memory; 0: all samples."
    )
    device: str = Field(
        "auto", description="Device: auto (a GPU if there is one), cpu, cuda, or one of several GPUs as cuda:1."
    )
    eval_every: int = Field(1, ge=1, description="Epochs between two evaluations on the val part.")
    checkpoint_every: int = Field(1, ge=1, description="Epochs between two checkpoints.")
    checkpoint_batches: int = Field(0, ge=0, description="Also a checkpoint every so many batches; 0: no.")
    checkpoint_minutes: float = Field(
        10.0, ge=0, description="Also within an epoch, when the last checkpoint is so old; 0: no."
    )
    keep: int = Field(
        2, ge=2, description="Numbered checkpoints that stay; at least 2 checkpoints must, for one may be damaged."
    )
    trackers: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="Trackers of experiments that get the numbers too: wandb, mlflow, trackio, or one of a plug-in. "
        "Where they keep or send them is set as usual (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR).",
    )
    log_every: int = Field(10, ge=1, description="Optimizer steps between two lines of the step log.")
    crop: Literal["area", "multiscale"] = Field(
        "area",
        description="Random crops: by area and ratio (`crop_scale`, `crop_ratio`), or MultiScaleCrop of TSN: sides of "
        "1, 0.875, 0.75 or 0.66 of the short side, in a corner or the center.",
    )
    crop_scale: Annotated[tuple[int | float, int | float], Field(strict=False)] = Field(
        (0.6, 1.0), description="Range of a random crop's share of the image's area, within 0 to 1."
    )
    crop_ratio: Annotated[tuple[int | float, int | float], Field(strict=False)] = Field(
        (0.75, 1.3333), description="Range of a random crop's width over its height."
    )
    flip: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability of a mirrored clip. Off, because fine-grained classes often differ in left and right "
        '("raise the left arm"); switch it on (0.5) only where a mirror does not change the class.',
    )
    colour: float = Field(0.2, ge=0, lt=1, title="color", description="Largest change of brightness and contrast.")
    colour_share: float = Field(
        1.0, ge=0, le=1, title="color share", description="Probability that a clip's color changes at all."
    )
    saturation: float = Field(0.0, ge=0, lt=1, description="Largest change of the saturation of such a clip.")
    grayscale: float = Field(0.0, ge=0, le=1, description="Probability of a gray clip.")
    hue: float = Field(
        0.0, ge=0, le=0.5, description="Largest turn of the hue of such a clip, as a share of the color circle."
    )
    drop_path: float | None = Field(
        None,
        ge=0,
        lt=1,
        title="drop path",
        description="Probability that a clip skips the last block of a transformer in training, falling to 0 at the "
        "first: MViT, Swin, VideoMAE and V-JEPA. Unset: the authors' (0.2 and 0.1; none for the other two).",
    )
    test_clips: int = Field(
        1, ge=1, description="Clips in time whose probabilities are averaged in evaluation, times `test_crops`."
    )
    test_crops: Literal[1, 3] = Field(1, description="Crops in space: the center, or three along the longer side.")
    twice_sample: bool = Field(
        False, description="Evaluate two clips in time, as TSM does: the middle and the start of each segment."
    )
    test_crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Side of a test crop as a share of the short side; 0.875 is the center 224 of images of 256.",
    )
    pose_test: Literal["first", "mean"] = Field(
        "first", description="View of the cached grid in evaluation, or the mean of those that are not mirrored."
    )

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _smaller_one_first(cls, value: tuple[float, float], field: ValidationInfo) -> tuple[float, float]:
        highest = 1.0 if field.field_name == "crop_scale" else math.inf
        if not 0 < value[0] <= value[1] <= highest:
            raise ValueError(f"{list(value)} is not two numbers, the smaller one first, above 0")
        return value

    @field_validator("trackers")
    @classmethod
    def _known_trackers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_trackers(value)
        return value

    @model_validator(mode="after")
    def _one_choice_of_clips(self) -> Self:
        if self.twice_sample and self.test_clips > 1:
            raise ValueError(f"twice_sample takes two clips itself; leave test_clips at 1, not {self.test_clips}")
        return self

    @model_validator(mode="after")
    def _momentum_of_nesterov(self) -> Self:
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("nesterov is a form of sgd with momentum; set it to false")
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs:g}; it must be below epochs ({self.epochs})")
        return self

    @property
    def test_places(self) -> tuple[float, ...]:
        """Where each clip of evaluation reads the segments of a sample, from 0 (start) to 1 (end).

        Source of (1/2, 0): the option twice_sample of mit-han-lab/temporal-shift-module.
        """
        if self.twice_sample:
            return 0.5, 0.0
        return tuple((clip + 0.5) / self.test_clips for clip in range(self.test_clips))

    def with_unset(self, values: Mapping[str, Any]) -> Self:
        """A copy with these values for fields that nobody set: neither file, flag nor program."""
        left = {name: value for name, value in values.items() if name not in self.model_fields_set}
        return self.replaced(**left) if left else self

    def recorded(self) -> dict[str, Any]:
        """The fields as plain values for the config.yaml of a run; those of `YOUNGEST` only if they are set."""
        return {name: value for name, value in self.plain().items() if YOUNGEST.get(name, ...) != value}

    def identity(self) -> dict[str, Any]:
        """The fields that decide what a run computes, as plain values: part of a run's key."""
        fields = {name: value for name, value in self.plain().items() if name not in NOT_IDENTITY}
        return {name: value for name, value in fields.items() if YOUNGER.get(name, ...) != value}


def settings_from(values: Mapping[str, Any], defaults: TrainSettings | None = None) -> TrainSettings:
    """Settings from names and plain values, the rest from `defaults`. Raises `UsageError` that names the key."""
    return checked(TrainSettings, {**dict(defaults or TrainSettings()), **values}, "train.settings")


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """The learning rate at a point of a run, in epochs from 0 (start) to `settings.epochs` (end).

    A function of the position, so a resumed run needs no scheduler state.
    """
    if progress < settings.warmup_epochs:
        # Never 0: the first step learns too.
        return settings.lr * max(progress / settings.warmup_epochs, 0.01)
    if settings.schedule == "step":
        return settings.lr * settings.step_factor ** (int(progress) // settings.step_every)
    share = (progress - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
