"""Which clips a page shows with frames, since it cannot hold all of them.

Legend: N test clips, L classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from unialign.types import Json

# Pairs of classes shown side by side.
MOST_PAIRS = 10


@dataclass(frozen=True)
class Pair:
    """Clips of class `true` that were taken for class `predicted`: how many, and their share of the class.

    wrong: the one with the surest wrong answer. right: the clip of `predicted` with the surest right answer, None
    without any.
    """

    true: int
    predicted: int
    samples: int
    share: float
    wrong: int
    right: int | None


def confused_clips(
    labels: NDArray[np.int64], guesses: NDArray[np.int64], sure: NDArray[np.floating], usable: NDArray[np.bool_]
) -> list[Pair]:
    """The most frequent errors (true, predicted), each with two clips; those of `usable` (N,) are preferred."""
    wrong = np.flatnonzero(labels != guesses)
    if not len(wrong):
        return []
    pairs, first, counts = np.unique(
        np.stack([labels[wrong], guesses[wrong]]), axis=1, return_inverse=True, return_counts=True
    )
    first = first.reshape(-1)
    sizes = np.bincount(labels)
    order = sorted(
        range(len(counts)), key=lambda at: (-counts[at], -counts[at] / sizes[pairs[0, at]], *pairs[:, at].tolist())
    )
    found = []
    for at in order[:MOST_PAIRS]:
        true, predicted = map(int, pairs[:, at])
        examples = _surest(wrong[first == at], sure, usable)
        rightly = _surest(np.flatnonzero((labels == predicted) & (guesses == predicted)), sure, usable)
        found.append(
            Pair(
                true,
                predicted,
                int(counts[at]),
                float(counts[at] / sizes[true]),
                examples[0],
                rightly[0] if rightly else None,
            )
        )
    return found


def _surest(places: NDArray[np.int64], sure: NDArray[np.floating], usable: NDArray[np.bool_]) -> list[int]:
    """The places, usable ones first, then by how sure the answer is, then in order."""
    return sorted(places.tolist(), key=lambda place: (not usable[place], -sure[place], place))


def worth_showing(
    labels: NDArray[np.int64], guesses: NDArray[np.int64], sure: NDArray[np.floating], pairs: Sequence[Pair]
) -> Iterator[int]:
    """All clips, the most telling first, each once: of the confused pairs, then two wrong ones for each right one.

    Wrong ones go around the classes, the surest of each first; right ones too, the least sure first.
    """
    seen: set[int] = set()
    for pair in pairs:
        for place in (pair.wrong, pair.right):
            if place is not None and place not in seen:
                seen.add(place)
                yield place
    wrong = _around(labels, np.flatnonzero(labels != guesses), -sure, seen)
    right = _around(labels, np.flatnonzero(labels == guesses), sure, seen)
    for first, second, third in zip_longest(wrong[0::2], wrong[1::2], right[: -(-len(wrong) // 2)]):
        yield from (place for place in (first, second, third) if place is not None)
    yield from right[-(-len(wrong) // 2) :]


def _around(
    labels: NDArray[np.int64], places: NDArray[np.int64], rank: NDArray[np.floating], seen: set[int]
) -> list[int]:
    """The places that were not seen: the first of each class by rank, then the second of each, and so on."""
    by_class: dict[int, list[int]] = {}
    for place in sorted(places.tolist(), key=lambda place: (rank[place], place)):
        if place not in seen:
            by_class.setdefault(int(labels[place]), []).append(place)
    rounds = zip_longest(*(by_class[label] for label in sorted(by_class)))
    return [place for each in rounds for place in each if place is not None]


def around_classes(labels: NDArray[np.int64], places: NDArray[np.int64]) -> list[int]:
    """The places in the order of the first of each class, the second of each, and so on."""
    return _around(labels, places, np.zeros(len(labels)), set())


def pairs_content(pairs: Sequence[Pair], place_of: dict[int, int]) -> list[Json]:
    """The `pairs` of a page. place_of: clip to its place among those shown."""
    return [
        {
            "true": pair.true,
            "predicted": pair.predicted,
            "samples": pair.samples,
            "share": pair.share,
            "wrong": place_of.get(pair.wrong),
            "right": None if pair.right is None else place_of.get(pair.right),
        }
        for pair in pairs
    ]
