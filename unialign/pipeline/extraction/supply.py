"""Work to do, taken a few pieces at a time: units of one store, or bundles of units of several (`bundles.py`)."""

import time
from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import Protocol, TypeVar

# What a worker is given at once: pieces of so many seconds together, and of at most so many samples.
GROUP_SECONDS = 10.0
GROUP_SAMPLES = 4096


class Work(Sized, Protocol):
    """A piece of work. Its length is its number of samples."""

    @property
    def name(self) -> str:
        """What tells it from the other pieces of its extraction."""


Piece = TypeVar("Piece", bound=Work)


class Supply(Protocol[Piece]):
    """Gives out work; of what several processes share, each piece to one of them (`joining.py: Claimed`)."""

    def take(self, most: int) -> list[Piece]:
        """The next pieces, up to so many; none when all is done.

        It may wait for other processes only while it has nothing to give. So nobody who takes several at once holds
        some of them unbegun while it waits for those of others, which might wait for these.
        """


class Pile(Supply[Piece]):
    """Work that nobody else takes from, in its order."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._rest = iter(pieces)

    def take(self, most: int) -> list[Piece]:
        """See `Supply`."""
        return list(islice(self._rest, most))


def groups(supply: Supply[Piece]) -> Iterator[list[Piece]]:
    """All work: one piece at first, then as many at a time as take about `GROUP_SECONDS`, up to `GROUP_SAMPLES`.

    The next ones are taken when those before them are worked on.
    """
    number = 1
    while group := supply.take(number):
        started = time.monotonic()
        yield group
        took, samples = time.monotonic() - started, sum(len(piece) for piece in group)
        if took < GROUP_SECONDS / 2 and 2 * samples <= GROUP_SAMPLES:
            number *= 2
        elif took > GROUP_SECONDS:
            number = max(1, number // 2)
