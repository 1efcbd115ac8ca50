"""Several extractors of videos as one, so that each clip is decoded once: what the worker of `extract all` runs.

An outcome holds those of all extractors, `parts` gives them back; each is what the extractor would give alone.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from unialign.stages.extraction.ahead import abreast
from unialign.stages.extraction.base import Extractor, Outcome, Source
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.extraction.shared_decoding import SharedClips


class VideoExtractor(Extractor, Protocol):
    """An extractor that reads whole clips, and can be given ones that others read too."""

    @property
    def decoder(self) -> str:
        """See `Video`; the same for all that read a clip together."""

    def run_on(self, sources: Sequence[Source], open_clip: Callable[[Source], SourceVideo]) -> Iterator[Outcome]:
        """The same as `run`, on clips that `open_clip` opens, each once and in order."""


@dataclass(frozen=True)
class Together:
    """Extractors that share their clips. It has no store of its own, so no key and no arrays."""

    extractors: tuple[VideoExtractor, ...]

    name = "together"

    @property
    def device(self) -> str | None:
        """Of the extractor that has one, for what is recorded of the hardware."""
        return next((str(found) for each in self.extractors if (found := getattr(each, "device", None))), None)

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        return self.extractors[0].digest(source)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order; each extractor works in a thread of its own.

        Outcomes wait in memory until all extractors have theirs: otherwise one could wait for clips that another has
        yet to read. So a run is to be of one shard or two.
        """
        if not sources:
            for extractor in self.extractors:
                yield from extractor.run(())
            return
        stopped = threading.Event()
        clips = SharedClips(len(self.extractors), stopped, self.extractors[0].decoder)
        several = [
            extractor.run_on(sources, partial(clips.open, place)) for place, extractor in enumerate(self.extractors)
        ]
        with closing(abreast(several, len(sources), stopped)) as rows:
            for outcomes in rows:
                yield _joined(outcomes)


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    arrays: dict[str, Any] = {}
    detail: dict[str, Any] = {"decoded": outcomes[0].detail.get("decoded", 0)}
    for place, each in enumerate(outcomes):
        arrays |= {f"{place}/{name}": array for name, array in each.arrays.items()}
        detail[str(place)] = {"status": each.status, "source": each.source, "detail": dict(each.detail)}
    return Outcome(outcomes[0].id, "ok", outcomes[0].source, arrays, detail, outcomes[0].spent)


def parts(outcome: Outcome, number: int) -> tuple[Outcome, ...]:
    """The outcomes of so many extractors that `Together` has joined."""
    found = []
    for place in range(number):
        told: Any = outcome.detail[str(place)]
        own = {name.partition("/")[2]: array for name, array in outcome.arrays.items() if name.startswith(f"{place}/")}
        found.append(Outcome(outcome.id, told["status"], told["source"], own, told["detail"]))
    return tuple(found)
