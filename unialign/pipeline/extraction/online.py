"""Training without the cache, for comparison: every modality is computed again each time that a sample is read.

Nothing is stored; the networks of stage one run inside the training loop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.errors import CorruptInput, UsageError
from unialign.pipeline.config import Config
from unialign.pipeline.extraction.extractors import get_row, prepare
from unialign.stages.datasets.base import Dataset
from unialign.stages.extraction.base import Extractor, Outcome, Source
from unialign.types import Json


@dataclass(frozen=True)
class OnlineModality:
    """Behaves like a `cache.reader.StoreReader`, by extracting. extract: outcomes of sources, in order."""

    extractor: Extractor
    sources: Mapping[str, Source]
    extract: Callable[[Sequence[Source]], Sequence[Outcome]]

    @property
    def ids(self) -> tuple[str, ...]:
        """All samples; whether one can be read only shows when it is."""
        return tuple(sorted(self.sources))

    def source(self, sample: str) -> str:
        """Nothing is recorded online."""
        return ""

    def arrays(self) -> Sequence[ArraySpec]:
        """What the arrays of a sample look like."""
        return self.extractor.arrays()

    def array_attributes(self, name: str) -> Mapping[str, Json]:
        """Units, joint order and the like of one array."""
        return next(spec for spec in self.arrays() if spec.name == name).attributes

    def read_one(self, sample: str) -> dict[str, np.ndarray]:
        """The arrays of one sample, extracted now. Raises `CorruptInput` for a sample that has no features."""
        (outcome,) = self.extract([self.sources[sample]])
        if outcome.status != "ok":
            raise CorruptInput(
                f"sample {sample!r} cannot be used online: {outcome.status}; take it out of the dataset, or train "
                "with --cached, which leaves it out and says so.",
                outcome.status,
            )
        return dict(outcome.arrays)


def online_readers(needed: Sequence[str], dataset: Dataset, config: Config) -> dict[str, OnlineModality]:
    """An online source for each modality. Raises `UsageError` where the data root is not there."""
    if not dataset.root.exists() or not dataset.samples or not any(sample.files for sample in dataset.samples):
        raise UsageError("--online reads the videos; give the data root with --root, UNIALIGN_DATA or `data:`.")
    return {modality: _online(modality, dataset, config) for modality in needed}


def _online(modality: str, dataset: Dataset, config: Config) -> OnlineModality:
    """A modality from the samples' files, or through the one that it is made from."""
    row = get_row(modality)
    if not row.made_from:
        prepared = prepare(modality, dataset, config)
        sources = {source.id: source for source in prepared.sources}
        return OnlineModality(prepared.extractor, sources, lambda asked: list(prepared.extractor.run(asked)))
    if row.online is None:
        raise UsageError(f"{modality} cannot be made during training; extract it and train with --cached.")
    made_from, extractor = _online(row.made_from, dataset, config), row.online(config)
    return OnlineModality(extractor, made_from.sources, lambda asked: list(extractor.features(made_from, asked)))
