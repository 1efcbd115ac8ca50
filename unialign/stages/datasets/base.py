"""What a dataset adapter yields: samples, class names, and splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from unialign.cache.errors import UsageError


@dataclass(frozen=True)
class Sample:
    """One labelled clip.

    id: stable within the collection, never a machine path.
    label: class index, from 0.
    files: the source files that exist for it, by kind: "video", "skeleton".
    attributes: what splits are made of, for example {"setup": 1, "camera": 2, "performer": 3}.
    """

    id: str
    label: int
    files: Mapping[str, Path]
    attributes: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Sample ids of one protocol; the parts never overlap. val: to choose a model by; empty where there is none."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    val: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A labelled view of a collection.

    classes: names in label order, as a person would say them ("drink water").
    samples: sorted by id, ids unique.
    protocols: name to a function of the samples that returns a `Split`; the first is the default.
    descriptions: per class (by label) any number of longer texts; empty when there are none.
    notes: what of the source is not used, or not as it stands there, a phrase each.
    """

    name: str
    collection: str
    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    protocols: Mapping[str, Callable[[Sequence[Sample]], Split]]
    descriptions: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()

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
        """Train, test and val ids of a protocol. Raises `UsageError` for a name that the dataset does not have."""
        name = protocol or self.default_protocol
        if name not in self.protocols:
            raise UsageError(f"dataset {self.name} has no protocol {name!r}; it has {', '.join(self.protocols)}.")
        return self.protocols[name](self.samples)
