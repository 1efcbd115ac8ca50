"""The interface of an extractor to the rest of the program: a row of `extractors.EXTRACTORS`, or of a plug-in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from unialign.cache.reader import Recorded
from unialign.pipeline.config import Config
from unialign.pipeline.extraction.extract import Extraction
from unialign.stages.datasets.base import Dataset
from unialign.stages.extraction.base import Extractor, Outcome, Source
from unialign.stages.sample_reader import SampleReader


@dataclass(frozen=True)
class PreparedExtraction:
    """An extraction that is ready to run.

    current: digest of what a source is made from now; None: that of the file at its path. older: see `make_plan`.
    note: what to tell whoever runs it.
    """

    extractor: Extractor
    sources: tuple[Source, ...]
    current: Callable[[Source], str] | None = None
    older: str = ""
    note: str = ""


class DerivedExtractor(Extractor, Protocol):
    """An extractor whose samples are made from those of another modality."""

    def features(self, reader: SampleReader, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order, made from the source's data in the reader."""


@dataclass(frozen=True)
class ExtractorRow:
    """One extractor, which `unialign extract NAME` runs.

    modality: what it makes. Several extractors may make the same one: systems find stores by modality.
    title: one sentence, for the help of the command.
    prepare: (dataset, config, settings) -> the extractor with its sources. settings: an instance of `settings`. Raises
        `UsageError` for settings that do not fit, `MissingCache` for an input that has not been extracted yet.
    settings: a pydantic model whose fields all have defaults. They are configuration keys, under `extract.<name>` with
        _ for each hyphen, and for a plug-in also flags of the command.
    shard_samples: samples per shard of a new store. A kill loses one shard, so slow extractors get small ones.
    reads: kind of the sample files that it is made from ("video", "skeleton"), whose digests tell whether features are
        stale; "" if it is not made from files.
    current: instead of `reads`: (reader, dataset, config) -> digest by id of what samples are made from now.
    made_from: the modality of the cache that it is made from, whose store its key names in a field of that name.
    online: (config) -> the extractor for training without a cache, if it is made from another modality.
    counts: the details in a sample's record that the summary adds up.
    told: (extraction, classes) -> what a user should know afterwards, as title and text.
    """

    modality: str
    title: str
    prepare: Callable[[Dataset, Config, Any], PreparedExtraction]
    settings: type[BaseModel]
    shard_samples: int = 32
    reads: str = ""
    current: Callable[[Recorded, Dataset, Config], Mapping[str, str]] | None = None
    made_from: str = ""
    online: Callable[[Config], DerivedExtractor] | None = None
    counts: tuple[str, ...] = ()
    told: Callable[[Extraction, Sequence[str]], Mapping[str, str]] | None = None


def files(dataset: Dataset, kind: str) -> tuple[Source, ...]:
    """A source for each sample: its file of that kind, or none, and for a video the part that the sample covers."""
    return tuple(
        Source(sample.id, sample.files.get(kind), span=sample.span if kind == "video" else None)
        for sample in dataset.samples
    )
