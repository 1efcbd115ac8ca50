"""The contract between an extractor (the code that makes one modality) and the rest of stage one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import file_digest
from unialign.types import Json


@dataclass(frozen=True, slots=True)
class Source:
    """One sample to extract: its id and where its input lies on this machine (a file; None for text)."""

    id: str
    path: Path | None = None
    text: str = ""


def source_digest(source: Source) -> str:
    """Digest of the file at a source's path, "" where there is none. May raise `OSError`; see `Extractor.digest`."""
    return file_digest(source.path) if source.path is not None and source.path.is_file() else ""


@dataclass(frozen=True)
class Outcome:
    """What became of one sample.

    status: "ok" or a reason of `cache.records.STATUSES`.
    source: digest of the bytes that it was made from ("sha256:<hex>"), "" when there were none to read.
    arrays: one array per `ArraySpec`, without the sample axis; empty unless the status is "ok".
    detail: counts and reasons for the record. The same input gives the same detail: no paths, no times.
    """

    id: str
    status: str
    source: str = ""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    detail: Mapping[str, Json] = field(default_factory=dict)


class Extractor(Protocol):
    """Makes one modality. Implementations are frozen dataclasses of plain values, so they travel to workers.

    A network is loaded at the first `run` and kept for the process (one load per worker), never in the dataclass.
    """

    @property
    def modality(self) -> str:
        """What it makes: "poses", "pose-features", "text", "frames"."""

    @property
    def name(self) -> str:
        """Name of the method, the first part of a store's name."""

    def key(self) -> Mapping[str, Json]:
        """Everything that decides the bytes: "extractor" (the name), "revision", parameters, weights, input, libraries.

        Weights by their SHA-256, the input modality by the digest of its key. Never worker counts, devices or paths;
        a batch size only where the network's last digits depend on it.
        """

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays of the store."""

    def attributes(self) -> Mapping[str, Json]:
        """What a reader of the store should know beside the key: licence of the weights, citation."""

    def digest(self, source: Source) -> str:
        """Digest of what a sample is made from, as its `Outcome.source` says it; "" when there is nothing to read.

        For a sample that no outcome came of. May raise `OSError`.
        """

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order. One bad sample never ends the rest.

        With no sources it loads what it needs (network, input store): what is raised then is the fault of no sample.
        The outcome of a sample does not depend on the others, to the last bit: after a failure the rest is run again
        without the guilty one, and samples are run alone (`pipeline/extraction/supervisor.py`).
        A sample that takes long calls `heartbeat.beat` at every step.
        """
