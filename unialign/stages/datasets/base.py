"""What a dataset adapter yields: samples, class names, and splits."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from unialign.errors import UsageError
from unialign.stages.datasets.described_splits import described_split, lists_of
from unialign.stages.datasets.samples import Sample as Sample
from unialign.stages.datasets.samples import Span as Span
from unialign.stages.datasets.samples import Split as Split
from unialign.stages.datasets.skeleton_formats import SkeletonFormat


@dataclass(frozen=True)
class Dataset:
    """A labeled view of a collection.

    classes: names in label order, as a person would say them ("drink water").
    samples: sorted by id; ids are unique.
    protocols: maps a name to a function of the samples that returns a `Split`; the first is the default.
    descriptions: per class (by label) any number of longer descriptions; empty if there are none.
    notes: what is not used from the source, or not as it is there, one phrase each.
    published: the data are the same wherever they are stored. Otherwise the collection's name belongs to one root, and
    two roots are two collections, see `pipeline/collection.py`.
    skeleton_format: how the "skeleton" files are read; or, for formats with extractors of their own, a key of
    `SKELETON_FORMATS` in `pipeline/extraction/extractors.py`.
    mirror: whether a mirrored clip keeps its class; training rejects flips if it does not.
    listed: per protocol, the part of every clip in the official lists, whether the clip is present or not.
    """

    name: str
    collection: str
    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    protocols: Mapping[str, Callable[[Sequence[Sample]], Split]]
    descriptions: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    published: bool = False
    skeleton_format: str | SkeletonFormat = "ntu"
    mirror: bool = True
    listed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [sample.id for sample in self.samples]
        if ids != sorted(ids):
            raise ValueError(f"samples of {self.name} are not sorted by id")
        for first, second in pairwise(ids):
            if first == second:
                raise UsageError(f"{self.root}: two files give the same sample id {first!r}; rename or remove one.")

    @property
    def default_protocol(self) -> str:
        """Name of the first protocol."""
        return next(iter(self.protocols))

    def split(self, protocol: str | None = None) -> Split:
        """Train, test and val ids of a protocol, see `rule`; also raises `UsageError` for a test of a single class."""
        found = self.rule(protocol)(self.samples)
        if len(found.candidates) == 1:
            refuse_single_class(f"protocol {protocol} of {self.name}", self.classes[found.candidates[0]])
        return found

    def rule(self, protocol: str | None = None) -> Callable[[Sequence[Sample]], Split]:
        """The protocol of that name, or one described by its name.

        "subject=anna,ben": test on these, train on all others; the word before the = is an attribute of the samples
        other than split. Classes that are unseen in training: see `described_splits`. Raises `UsageError` for a name,
        attribute, value or class that the dataset does not have, and if no samples would be left to train on.
        """
        name = protocol or self.default_protocol
        if name in self.protocols:
            return self.protocols[name]
        described = described_split(name, self.name, self.classes, self.protocols)
        if described is not None:
            return described
        attribute, sign, values = name.partition("=")
        known = sorted({each for sample in self.samples for each in sample.attributes if each != "split"})
        if not sign or attribute not in known:
            tested = f", or {known[0]}=... to say which are tested ({', '.join(known)})" if known else ""
            lists = [each for each in lists_of(self.name) if each not in self.protocols]
            unseen = f"; with unseen classes: {', '.join([*lists, 'half-1, ..., unseen=FILE'])}"
            raise UsageError(
                f"dataset {self.name} has no protocol {name!r}; it has {', '.join(self.protocols)}{tested}{unseen}."
            )
        found = {str(sample.attributes.get(attribute)) for sample in self.samples}
        wanted = frozenset(value.strip() for value in values.split(","))
        if not wanted <= found or wanted == found:
            which = f"no {attribute} {min(wanted - found)!r}" if wanted - found else f"no {attribute} left to train on"
            raise UsageError(f"protocol {name}: {self.name} has {which}; it has {', '.join(sorted(found))}.")
        return partial(_tested, attribute, wanted)


def check_classes(dataset: Dataset) -> None:
    """Raise `UsageError` for a dataset of one class, which can be extracted and not be learned."""
    if len({sample.label for sample in dataset.samples}) == 1:
        raise UsageError(
            f"{dataset.root}: all clips are of one class ({dataset.classes[dataset.samples[0].label]}), so there is "
            "nothing to tell apart; label clips of two classes or more."
        )


def refuse_single_class(what: str, name: str) -> NoReturn:
    """Raise `UsageError`: among one class every answer is right, so 100 % would say nothing."""
    raise UsageError(
        f"{what} tests on a single class ({name}), of which every answer is right; leave two or more unseen, or test "
        "on all classes with a generalised protocol."
    )


def _tested(attribute: str, values: Container[str], samples: Sequence[Sample]) -> Split:
    tested = {sample.id for sample in samples if str(sample.attributes.get(attribute)) in values}
    train, test = (tuple(each.id for each in samples if (each.id in tested) == side) for side in (False, True))
    return Split(train, test)
