"""The reader that joins all arrays that training needs, from local, remote or computed sources."""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Buffers, Column, Entries, Joined
from unialign.cache.reader import Recorded, StoreReader
from unialign.cache.remote.fetching import FetchingReader
from unialign.stages.sample_reader import SampleReader


class Maker(SampleReader, Protocol):
    """A source that computes the arrays of a sample on each access: extraction without a cache, for comparison."""

    def arrays(self) -> Sequence[ArraySpec]:
        """The specifications of the arrays."""


@dataclass(frozen=True)
class Wanted:
    """One array of one source, see `cache.batches.joined.Column`."""

    reader: SampleReader
    array: str
    window: int = 0


def reader_of(columns: Mapping[str, Wanted], ids: Sequence[str], by_entry: Collection[str] = ()) -> Joined:
    """The reader of these columns, joined by id: memory-mapped if all stores allow it, fetching otherwise.

    by_entry: see `Joined`. Raises `MissingCache` for a sample that is not in a store.
    """
    stored = {
        name: Column(wanted.reader, wanted.array, wanted.window)
        for name, wanted in columns.items()
        if isinstance(wanted.reader, Recorded)
    }
    if len(stored) < len(columns):
        return MadeSamples(columns, ids, by_entry)
    mapped = all(is_mapped(column.reader) for column in stored.values())
    return BatchReader(stored, ids, by_entry) if mapped else FetchingReader(stored, ids, by_entry)


def arrays_of(reader: SampleReader) -> Sequence[ArraySpec]:
    """The specifications of the arrays of a source."""
    return reader.store.arrays if isinstance(reader, Recorded) else cast(Maker, reader).arrays()


def is_mapped(reader: Recorded) -> bool:
    """Whether a store's bytes can be copied from memory directly: it is local and uncompressed."""
    return isinstance(reader, StoreReader) and reader.store.codec == "none"


@dataclass(frozen=True)
class _Made(Column):
    reader: Maker  # type: ignore[assignment]

    @property
    def spec(self) -> ArraySpec:
        return next(spec for spec in self.reader.arrays() if spec.name == self.array)


class MadeSamples(Joined):
    """Columns of which at least one is computed for each batch; stores next to it are read sample by sample.

    The arrays of a sample are computed together and each is returned once, so that a batch computes a sample once, and
    the next batch computes it again.
    """

    def __init__(self, columns: Mapping[str, Wanted], ids: Sequence[str], by_entry: Collection[str] = ()) -> None:
        self.asked_for = dict(columns)
        self.ids, self.by_entry, self.rows = tuple(ids), frozenset(by_entry), []
        self.columns = {name: _column(wanted) for name, wanted in columns.items()}
        self._lay_out([None] * len(self.columns))
        self._local = threading.local()

    def __reduce__(self) -> tuple[type["MadeSamples"], tuple[dict[str, Wanted], tuple[str, ...], frozenset[str]]]:  # type: ignore[override]
        """See `Joined`."""
        return type(self), (self.asked_for, self.ids, self.by_entry)

    def read(
        self, positions: np.ndarray, starts: np.ndarray | None = None, buffers: Buffers | None = None
    ) -> dict[str, np.ndarray]:
        """See `Joined.read`."""
        positions, starts, buffers = self.asked(positions, starts, buffers)
        arrays = {name: array[: len(positions)] for name, array in buffers.arrays.items()}
        for number, (name, column) in enumerate(self.columns.items()):
            if name in self.by_entry:
                continue
            values = {position: self._array(name, position) for position in dict.fromkeys(positions.tolist())}
            for row, (position, start) in enumerate(zip(positions.tolist(), starts[:, number].tolist(), strict=True)):
                value = values[position]
                if column.window:
                    value = np.take(value, np.arange(start, start + column.window), axis=0, mode="wrap")
                arrays[name][row] = value
        return arrays

    def entries(
        self,
        name: str,
        positions: np.ndarray,
        starts: np.ndarray | None = None,
        counts: np.ndarray | int | None = None,
    ) -> Entries:
        """See `Joined.entries`."""
        values = {place: np.atleast_1d(self._array(name, place)) for place in dict.fromkeys(positions.tolist())}
        lengths = np.array([len(values[position]) for position in positions.tolist()], dtype=np.int64)
        _, _, starts, found = self.asked_entries(name, positions, starts, counts, lengths)
        for place, (position, start) in enumerate(zip(positions.tolist(), starts.tolist(), strict=True)):
            part = found[place]
            part[:] = values[position][start : start + len(part)]
        return found

    def _array(self, name: str, position: int) -> np.ndarray:
        column = self.columns[name]
        held: dict[tuple[int, int], dict[str, np.ndarray]] = self._local.__dict__.setdefault("held", {})
        key = id(column.reader), position
        if column.array not in held.get(key, {}):
            wanted = {each.array for each in self.columns.values() if each.reader is column.reader}
            made = column.reader.read_one(self.ids[position])
            held[key] = {array: value for array, value in made.items() if array in wanted}
        value = held[key].pop(column.array)
        if not held[key]:
            del held[key]
        return value


def _column(wanted: Wanted) -> Column:
    if isinstance(wanted.reader, Recorded):
        return Column(wanted.reader, wanted.array, wanted.window)
    return _Made(cast(Maker, wanted.reader), wanted.array, wanted.window)
