"""The settings of skeleton encoders: the published recipe of ST-GCN++, and ours in body space."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from unialign.settings import Settings


class EncoderConfig(Settings, strict=True):
    """Size of the network, and what it sees of a sample. Joint layout and recipe follow from the store of poses."""

    width: int = Field(64, ge=6, description="Channels of the first blocks.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Before the classifier.")
    clip_len: int = Field(100, ge=4, description="Frames of a clip.")
    crop: float = Field(0.5, gt=0, le=1, description="Shortest random part of a sample in training.")


class SkeletonConfig(Settings, strict=True):
    """An encoder in body space that fits small data: network, streams, augmentation, loss.

    Joint layout and number of coordinates follow from the store of poses.
    """

    before: ClassVar[Mapping[str, Any]] = {"motion_dropout": 0.0}

    network: Literal["stgcn++", "ctr-gcn"] = Field("stgcn++", description="Graph network of each stream.")
    streams: Annotated[tuple[Literal["joint", "bone", "motion"], ...], Field(strict=False, min_length=1)] = Field(
        ("joint", "bone", "motion"), description="What is made of the joints."
    )
    fusion: Literal["early", "late"] = Field(
        "early",
        description="early: one network reads all streams; late: one network per stream, and their log-probabilities "
        "are averaged.",
    )
    width: int = Field(16, ge=6, description="Channels of the first blocks.")
    blocks: Literal[6, 10] = Field(6, description="Blocks of a network; 10 as published.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Behind each block's temporal convolutions.")
    head_dropout: float = Field(0.3, ge=0, lt=1, description="Before the classifier.")
    clip_len: int = Field(32, ge=4, description="Frames of a clip, read between the frames of the sample.")
    crop: float = Field(0.6, gt=0, le=1, description="Shortest random part of a sample, which also changes its speed.")
    tilt: float = Field(15.0, ge=0, le=180, description="Largest random rotation in the image plane, in degrees.")
    turn: float = Field(30.0, ge=0, le=180, description="Largest random turn about the vertical, 3-D only, in degrees.")
    scale: float = Field(0.2, ge=0, lt=1, description="Largest random change of each coordinate's size.")
    shear: float = Field(0.15, ge=0, lt=1, description="Largest random share of one coordinate in another.")
    jitter: float = Field(0.02, ge=0, description="Largest standard deviation of noise, in units of the body.")
    joint_dropout: float = Field(0.05, ge=0, lt=1, description="Probability that a joint is missing in a clip.")
    frame_dropout: float = Field(0.05, ge=0, lt=1, description="Probability that a frame repeats the one before.")
    motion_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Probability that a network of several streams does not see the motion of a training clip; null: "
        "0.5 with fewer than 100 of them, else 0.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        description="Parameter of the Beta distribution that two samples are mixed by in half the clips; 0: no.",
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Share of the target that all classes have.")
    average: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay per step of the moving average of the weights, which is evaluated; 0: none.",
    )
