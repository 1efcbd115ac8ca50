"""What one extractor is to the rest of the program: a row of `extractors.EXTRACTORS`, or of a plug-in."""

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
    """

    extractor: Extractor
    sources: tuple[Source, ...]
    current: Callable[[Source], str] | None = None
    older: str = ""


class DerivedExtractor(Extractor, Protocol):
    """An extractor whose samples are made from those of another modality."""

    def features(self, reader: SampleReader, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order, made from what the reader has of it."""


@dataclass(frozen=True)
class ExtractorRow:
    """One extractor, which `unialign extract NAME` runs.

    modality: what it makes. Several extractors may make one: systems find stores by modality.
    title: one sentence, for the help of the command.
    prepare: (dataset, config, settings) -> the extractor with its sources. settings: an instance of `settings`.
        Raises `UsageError` for settings that do not fit, `MissingCache` for an input that was not extracted yet.
    settings: a pydantic model whose fields all have defaults. They are keys of the configuration, under
        `extract.<name>` with _ for each hyphen, and of a plug-in also flags of the command.
    shard_samples: samples in a shard of a new store. A shard is what a kill loses, so slow extractors get small ones.
    reads: kind of the files of a sample that it is made from ("video", "skeleton"), whose digests tell whether features
        are stale; "" where it is made from no files.
    current: in place of `reads`: (reader, dataset, config) -> digest by id of what samples are made from now.
    made_from: the modality of the cache that it is made from, whose store its key names in a field of that name.
    online: (config) -> the extractor for training without a cache, where it is made from another modality.
    counts: of the details in a sample's record, those that the summary adds up.
    told: (extraction, classes) -> what a user should know after it, as title and text.
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
    """A source for each sample: its file of that kind, or none, and of a video the part that it is."""
    return tuple(
        Source(sample.id, sample.files.get(kind), span=sample.span if kind == "video" else None)
        for sample in dataset.samples
    )
