"""A linear classifier of rhythms, trained on what the lab's extractor has stored."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import columns_of
from unialign.pipeline.systems.base import System
from unialign.pipeline.training.preparation import PreparedRun, Request, prepared
from unialign.stages.training.cached import CachedArrays
from unialign_lab.system_row import RhythmConfig


class Linear(nn.Module):
    """Rhythms (B, bands) to logits (B, classes)."""

    def __init__(self, bands: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.BatchNorm1d(bands), nn.Dropout(dropout), nn.Linear(bands, num_classes))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.network(batch["rhythm"])}

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Nothing is learned beside the gradient."""


def prepare(request: Request) -> PreparedRun:
    """Batches straight from the store."""
    sides, columns = request.sides(), columns_of(request.readers["rhythm"])  # type: ignore[arg-type]
    sources = sides.sources(
        lambda samples, learns: CachedArrays(BatchReader(columns, samples.ids), samples.labels, train=learns)
    )
    (bands,) = columns["rhythm"].shape
    return prepared(request, sides, sources, {"bands": bands, "num_classes": len(request.dataset.classes)})


def build(config: RhythmConfig, **parts: Any) -> Linear:
    """The network of a configuration."""
    return Linear(**parts, dropout=config.dropout)


LINEAR = System(
    config=RhythmConfig,
    stores=lambda config: ("rhythm",),
    prepare=prepare,
    build=build,
    losses=lambda model, outputs, labels: {"classes": nn.functional.cross_entropy(outputs["logits"], labels)},
)
