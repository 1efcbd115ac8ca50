"""The settings of a skeleton encoder's training (ST-GCN++)."""

from pydantic import Field

from unialign.settings import Settings


class EncoderConfig(Settings, strict=True):
    """Size of the network, and what it sees of a sample. Joint layout and recipe follow from the store of poses."""

    width: int = Field(64, ge=6, description="Channels of the first blocks.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Before the classifier.")
    clip_len: int = Field(100, ge=4, description="Frames of a clip.")
    crop: float = Field(0.5, gt=0, le=1, description="Shortest random part of a sample in training.")
