"""The contract between an extractor (which produces one modality) and the rest of stage one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import spanned_digest
from unialign.stages.datasets.base import Span
from unialign.stages.frame_files import content_digest
from unialign.types import Json


@dataclass(frozen=True, slots=True)
class Source:
    """One sample to extract: its id and the path of its input on this machine (a file, or a folder of images; None for
    text).

    span: the part of a video that it is, see `Sample`; None for all of it.
    """

    id: str
    path: Path | None = None
    text: str = ""
    span: Span | None = None

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Millions are sent to workers; what a data class with slots does by itself takes ten times as long."""
        return Source, (self.id, self.path, self.text, self.span)


def source_digest(source: Source) -> str:
    """Digest of the file, or the folder of images, at a source's path and of its span; "" where there is none.

    See `Extractor.digest`. May raise `OSError`.
    """
    return spanned_digest(content_digest(source.path), source.span) if source.path is not None else ""


@dataclass(frozen=True)
class Outcome:
    """The result of extracting one sample.

    status: "ok" or a reason of `cache.records.STATUSES`.
    source: digest of the bytes that it was made from ("sha256:<hex>"), "" if there were none to read.
    arrays: one array per `ArraySpec`, without the sample axis; empty unless the status is "ok".
    detail: counts and reasons for the record. The same input gives the same detail: no paths, no times.
    spent: seconds by what they were spent on ("decoder", "network"), for progress; not stored.
    """

    id: str
    status: str
    source: str = ""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    detail: Mapping[str, Json] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict, compare=False)


class Extractor(Protocol):
    """Produces one modality. Implementations are frozen dataclasses of plain values, so they can be sent to workers.

    A network is loaded on the first `run` and kept for the process (one load per worker), never in the dataclass.
    """

    @property
    def modality(self) -> str:
        """The modality that it produces: "poses", "pose-features", "text", "frames", "tokens"."""

    @property
    def name(self) -> str:
        """Name of the method: the first part of a store's name."""

    def key(self) -> Mapping[str, Json]:
        """Everything that affects the bytes: "extractor" (the name), "revision", parameters, weights, input, libraries.

        Weights are given by their SHA-256, the input modality by the digest of its key. Never worker counts, devices or
        paths; a batch size only if the network's last digits depend on it.
        """

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays of the store."""

    def attributes(self) -> Mapping[str, Json]:
        """What a reader of the store should know besides the key: license of the weights, citation."""

    def digest(self, source: Source) -> str:
        """Digest of what a sample is made from, as in its `Outcome.source`; "" if there is nothing to read.

        Used for a sample that has no outcome. May raise `OSError`.
        """

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order. One bad sample never ends the others.

        With no sources it loads what it needs (network, input store): an error raised then is not the fault of a
        sample. The outcome of a sample does not depend on the others, down to the last bit: after a failure the rest is
        run again without the failing sample, and samples are run alone (`pipeline/extraction/supervisor.py`). For a
        sample that takes long, call `heartbeat.beat` at every step.
        """
