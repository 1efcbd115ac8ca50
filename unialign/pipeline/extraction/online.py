"""Training without the cache, for comparison: every modality is recomputed each time a sample is read.

Nothing is stored; the networks of stage one run inside the training loop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import spanned_digest
from unialign.errors import CorruptInput, UsageError
from unialign.pipeline.config import Config
from unialign.pipeline.extraction.extractors import get_row, prepare
from unialign.pipeline.extraction.source_digests import SourceDigests
from unialign.stages.datasets.base import Dataset
from unialign.stages.extraction.base import Extractor, Outcome, Source
from unialign.types import Json


@dataclass(frozen=True)
class OnlineModality:
    """Behaves like a `cache.reader.StoreReader`, by extracting.

    inputs: what each sample is made from. digests: of the inputs, by id; "" if there is nothing to read. extract:
    outcomes of inputs, in order.
    """

    extractor: Extractor
    inputs: Mapping[str, Source]
    digests: Mapping[str, str]
    extract: Callable[[Sequence[Source]], Sequence[Outcome]]

    @property
    def ids(self) -> tuple[str, ...]:
        """All samples; whether one can be read is only known once it is read."""
        return tuple(sorted(self.inputs))

    def source(self, sample: str) -> str:
        """Digest of what the sample is made from, as it was when training began."""
        return self.digests[sample]

    def sources(self) -> Mapping[str, str]:
        """The same for all samples, by id."""
        return self.digests

    def arrays(self) -> Sequence[ArraySpec]:
        """The specifications of the arrays of a sample."""
        return self.extractor.arrays()

    def array_attributes(self, name: str) -> Mapping[str, Json]:
        """Units, joint order and similar attributes of one array."""
        return next(spec for spec in self.arrays() if spec.name == name).attributes

    def read_one(self, sample: str) -> dict[str, np.ndarray]:
        """The arrays of one sample, extracted now. Raises `CorruptInput` for a sample that has no features."""
        (outcome,) = self.extract([self.inputs[sample]])
        if outcome.status != "ok":
            raise CorruptInput(
                f"sample {sample!r} cannot be used online: {outcome.status}; take it out of the dataset, or train "
                "with --cached, which leaves it out and says so.",
                outcome.status,
            )
        return dict(outcome.arrays)


def online_readers(needed: Sequence[str], dataset: Dataset, config: Config) -> dict[str, OnlineModality]:
    """An online source for each modality. Raises `UsageError` if the data root does not exist."""
    if not dataset.root.exists() or not dataset.samples or not any(sample.files for sample in dataset.samples):
        raise UsageError("--online reads the videos; give the data root with --root, UNIALIGN_DATA or `data:`.")
    return {modality: _online(modality, dataset, config) for modality in needed}


def _online(modality: str, dataset: Dataset, config: Config) -> OnlineModality:
    """A modality computed from the samples' files, or through the one that it is made from."""
    row = get_row(modality)
    if not row.made_from:
        prepared = prepare(modality, dataset, config)
        inputs = {source.id: source for source in prepared.sources}
        digests = _digests(modality, prepared.extractor, inputs, dataset, config)
        return OnlineModality(prepared.extractor, inputs, digests, lambda asked: list(prepared.extractor.run(asked)))
    if row.online is None:
        raise UsageError(f"{modality} cannot be made during training; extract it and train with --cached.")
    made_from, extractor = _online(row.made_from, dataset, config), row.online(config)
    return OnlineModality(
        extractor, made_from.inputs, made_from.digests, lambda asked: list(extractor.features(made_from, asked))
    )


def _digests(
    modality: str, extractor: Extractor, inputs: Mapping[str, Source], dataset: Dataset, config: Config
) -> dict[str, str]:
    """Digest of each input, "" if it cannot be read. Those of videos are cached: the files are large."""
    if modality == "frames" or (modality == "poses" and config.extract.poses.source == "video"):
        memory = SourceDigests(config.cache.resolve(), dataset.collection)
        found = {
            name: spanned_digest(memory.of(source.path), source.span) if source.path else ""
            for name, source in inputs.items()
        }
        memory.save()
        return found
    return {name: _digest(extractor, source) for name, source in inputs.items()}


def _digest(extractor: Extractor, source: Source) -> str:
    try:
        return extractor.digest(source)
    except OSError:
        return ""
