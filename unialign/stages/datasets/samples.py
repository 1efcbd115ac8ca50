"""A labeled clip, and which clips a protocol trains and tests on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

# Seconds as exact fractions, so that 2.5 and 2.50 are the same time and a frame at the very start is never lost.
Span = tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Sample:
    """One labeled clip.

    id: stable within the collection, never a machine path.
    label: class index, from 0.
    files: the source files that exist for it, by kind: "video", "skeleton".
    attributes: what splits are based on, for example {"setup": 1, "camera": 2, "performer": 3}.
    digest: of its part of a file that holds many samples, "sha256:<hex>"; "" if it has files of its own.
    span: the sample's part of its video, (start, end) in seconds from the first frame; None for the whole video.
    """

    id: str
    label: int
    files: Mapping[str, Path]
    attributes: Mapping[str, int | str] = field(default_factory=dict)
    digest: str = ""
    span: Span | None = None


@dataclass(frozen=True)
class Split:
    """Sample ids of one protocol; the parts never overlap. val: for model selection; empty if there is none.

    candidates: the classes, by label, among which a model that knows others too chooses in the test; empty: all.
    unseen: the classes that a zero-shot protocol keeps from training; empty for any other.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    val: tuple[str, ...] = ()
    candidates: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()


SplitRule = Callable[[Sequence[Sample]], Split]
