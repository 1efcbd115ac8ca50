"""What extractors of features of cached features share: samples whose input is quarantined keep its status."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from unialign.cache.reader import Recorded
from unialign.stages.extraction.base import Outcome, Source

Reader = TypeVar("Reader", bound=Recorded)


def derived(
    sources: Sequence[Source],
    reader: Reader,
    modality: str,
    digest: Callable[[Reader, str], str],
    features: Callable[[Reader, Sequence[Source]], Iterator[Outcome]],
) -> Iterator[Outcome]:
    """One outcome per source, in order: what `features` makes of those that have an input.

    reader: the store of the input, of that modality. digest: (reader, id) -> digest of the input of a sample. Raises
    `MissingCache` for a sample that the store does not know.
    """
    held = {source.id for source in sources if reader.status(source.id) == "ok"}
    made = features(reader, [source for source in sources if source.id in held])
    for source in sources:
        if source.id in held:
            yield next(made)
        else:
            why = {"why": f"the {modality} of this sample are quarantined"}
            yield Outcome(source.id, reader.status(source.id), digest(reader, source.id), detail=why)
