"""The rhythm of a signal: the size of its lowest frequencies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pydantic

import unialign as ua


class Settings(pydantic.BaseModel, extra="forbid", frozen=True):
    """`extract.lab_rhythm`."""

    bands: int = pydantic.Field(4, ge=1, le=64, description="Frequencies that are kept")
    scale: float = pydantic.Field(1.0, description="Factor of all sizes")
    centred: bool = pydantic.Field(True, description="Subtract the mean first")


@dataclass(frozen=True)
class Rhythm:
    """One array `rhythm` (bands,) per signal."""

    bands: int
    scale: float
    centred: bool

    name = "lab-rhythm"
    modality = "rhythm"

    def key(self) -> Mapping[str, Any]:
        return {
            "extractor": self.name,
            "revision": 1,
            "bands": self.bands,
            "scale": self.scale,
            "centred": self.centred,
        }

    def arrays(self) -> tuple[ua.ArraySpec, ...]:
        return (ua.ArraySpec("rhythm", "float32", (self.bands,), ("band",)),)

    def attributes(self) -> Mapping[str, Any]:
        return {"licence": "MIT"}

    def digest(self, source: ua.Source) -> str:
        return f"sha256:{sha256(source.path.read_bytes()).hexdigest()}" if source.path else ""

    def run(self, sources: Sequence[ua.Source]) -> Iterator[ua.Outcome]:
        for source in sources:
            digest = self.digest(source)
            try:
                values = np.array([float(line) for line in source.path.read_text().split()])  # type: ignore[union-attr]
            except ValueError as error:
                yield ua.Outcome(source.id, "unreadable", digest, detail={"why": str(error)})
                continue
            values = values - values.mean() if self.centred else values
            sizes = np.abs(np.fft.rfft(values, n=2 * self.bands)[1:])
            yield ua.Outcome(source.id, "ok", digest, {"rhythm": (self.scale * sizes).astype(np.float32)})


def prepare(dataset: ua.Dataset, config: object, settings: Settings) -> ua.PreparedExtraction:
    """The extractor with the signal of each sample."""
    sources = tuple(ua.Source(sample.id, sample.files.get("signal")) for sample in dataset.samples)
    return ua.PreparedExtraction(Rhythm(settings.bands, settings.scale, settings.centred), sources)


ROW = ua.ExtractorRow("rhythm", "The rhythm of signals.", prepare, Settings, shard_samples=8, reads="signal")
