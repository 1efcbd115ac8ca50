"""What the configuration knows of the lab's system; it imports no torch."""

from pydantic import Field

from unialign.pipeline.systems.registry import SystemRow
from unialign.settings import Settings


class RhythmConfig(Settings, strict=True):
    """`train.lab_linear`."""

    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the bands that are left out in training.")


ROW = SystemRow(RhythmConfig, "unialign_lab.system:LINEAR")
