"""Arrays of several stores joined by sample id: the structure of a batch, whatever the source of its bytes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.reader import Recorded
from unialign.cache.shards import chunk_bytes, little_endian
from unialign.errors import UsageError


@dataclass(frozen=True)
class Column:
    """One array of one store, as a part of each batch.

    window: entries of the first axis of a sample that a batch holds; needed where samples differ in length. 0: all.
    """

    reader: Recorded
    array: str
    window: int = 0

    @property
    def spec(self) -> ArraySpec:
        """The specification of the array."""
        return self.reader.store.array(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample in a batch."""
        return (self.window, *self.spec.shape[1:]) if self.window else self.spec.shape


def columns_of(reader: Recorded, names: Sequence[str] | None = None, *, window: int = 0) -> dict[str, Column]:
    """The arrays of one store under their own names, all by default.

    window: of those whose samples differ in length.
    """
    specs = [spec for spec in reader.store.arrays if names is None or spec.name in names]
    return {spec.name: Column(reader, spec.name, window if spec.ragged else 0) for spec in specs}


@dataclass(frozen=True)
class Buffers:
    """Memory for one batch of at most `size` samples. arrays: (size, *shape) by column. addresses: where they begin."""

    size: int
    arrays: Mapping[str, np.ndarray]
    addresses: np.ndarray


@dataclass(frozen=True)
class Entries:
    """Entries of several samples, concatenated. values: (total, *shape). bounds: (P + 1,) int64."""

    values: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        """Number of parts."""
        return len(self.bounds) - 1

    def __getitem__(self, place: int) -> np.ndarray:
        """One part, a view."""
        return self.values[self.bounds[place] : self.bounds[place + 1]]


@dataclass(frozen=True)
class _Entry:
    """An entry of a column: the column's number, type and shape of an entry, entries that a sample can have at most."""

    number: int
    kind: np.dtype[Any]
    shape: tuple[int, ...]
    most: int


class Joined:
    """Samples by their place in a list of ids, joined over stores by id; `read` of the classes below gives them.

    columns: what a batch holds, by the name that it gets there. ids: which samples, in which order; every store must
    hold all of them. by_entry: names of the columns that `entries` gives, and `read` leaves out.
    rows: by column, the row of each sample in its store's table, (N,). lengths: (N, A) entries of each sample in each
    column. layout: (A, 4) int64 for each column its first inner chunk (all columns side by side), the entries of an
    inner chunk, the bytes of an entry, the entries in a batch (0: by entry). sample_bytes: of one sample in a batch.
    shortest: fewest entries of any sample in any column.

    Raises `MissingCache` for a sample that a store lacks, `UsageError` for an array whose samples differ in length and
    that has no window, and for a window of something that has no first axis.
    """

    def __init__(self, columns: Mapping[str, Column], ids: Sequence[str], by_entry: Collection[str] = ()) -> None:
        self.columns = dict(columns)
        self.ids = tuple(ids)
        self.by_entry = frozenset(by_entry)
        readers = {id(column.reader): column.reader for column in self.columns.values()}
        found = {key: reader.rows(self.ids) for key, reader in readers.items()}
        self.rows = [found[id(column.reader)] for column in self.columns.values()]
        self._lay_out(
            [
                column.reader.table.lengths[column.spec.dims[0]][rows] if column.spec.ragged else None
                for column, rows in zip(self.columns.values(), self.rows, strict=True)
            ]
        )

    def _lay_out(self, ragged: Sequence[np.ndarray | None]) -> None:
        """Set what follows from the columns. ragged: (N,) by column, entries of each sample where they differ."""
        lengths, layout, first = [], [], 0
        for (name, column), of_samples in zip(self.columns.items(), ragged, strict=True):
            spec, by_entry = column.spec, name in self.by_entry
            _check_column(name, column, by_entry)
            entries = spec.shape[0] if spec.shape else 1
            per_chunk = spec.inner[0] if spec.inner else 1
            lengths.append(np.full(len(self.ids), entries) if of_samples is None else of_samples)
            window = 0 if by_entry else column.window or entries
            layout.append((first, per_chunk, chunk_bytes(spec) // per_chunk, window))
            first += spec.chunks_per_sample
        self.lengths = np.ascontiguousarray(np.stack(lengths, axis=1), dtype=np.int64)
        self.shortest = int(self.lengths.min()) if self.lengths.size else 0
        self._entries = {
            name: _Entry(number, little_endian(column.spec), column.spec.shape[1:], (column.spec.shape or (1,))[0])
            for number, (name, column) in enumerate(self.columns.items())
        }
        self.layout = np.array(layout, dtype=np.int64)
        self.num_chunks = first
        self.sample_bytes = int((self.layout[:, 2] * self.layout[:, 3]).sum())

    def __reduce__(self) -> tuple[type["Joined"], tuple[dict[str, Column], tuple[str, ...], frozenset[str]]]:
        """Pickled as paths and ids; memory maps are not sent."""
        return type(self), (self.columns, self.ids, self.by_entry)

    def __len__(self) -> int:
        """Number of samples in the list."""
        return len(self.ids)

    def buffers(self, size: int, memory: np.ndarray | None = None) -> Buffers:
        """Memory for batches of at most `size` samples. memory: (bytes,) uint8 to use, of `buffer_bytes(size)`."""
        if memory is None:
            memory = np.empty(self.buffer_bytes(size), dtype=np.uint8)
        arrays, addresses, start = {}, [], 0
        for name, column in self.columns.items():
            if name in self.by_entry:
                addresses.append(0)
                continue
            kind, shape = little_endian(column.spec), (size, *column.shape)
            count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
            arrays[name] = memory[start : start + count].view(kind).reshape(shape)
            addresses.append(arrays[name].ctypes.data)
            start += _aligned(count)
        return Buffers(size, arrays, np.array(addresses, dtype=np.int64))

    def buffer_bytes(self, size: int) -> int:
        """Bytes that a batch of `size` samples takes, each array beginning at a multiple of 64."""
        return sum(_aligned(size * entry * count) for _, _, entry, count in self.layout.tolist())

    def read(
        self, positions: np.ndarray, starts: np.ndarray | None = None, buffers: Buffers | None = None
    ) -> dict[str, np.ndarray]:
        """The samples at some places of the list, (len(positions), *shape) by column.

        starts: (len(positions), columns) first entry of each window, below the sample's length; 0 by default. Behind
        the last entry of a sample comes its first one again, so a clip shorter than the window repeats.
        buffers: memory to use; the arrays returned are views of it. Fresh memory by default.
        Raises `DamagedStore` when something is not what was written; nothing of it is given out.
        """
        raise NotImplementedError

    def entries(
        self,
        name: str,
        positions: np.ndarray,
        starts: np.ndarray | None = None,
        counts: np.ndarray | int | None = None,
    ) -> Entries:
        """Entries of the first axis of one column, for each of the places of the list; a place may come several times.

        starts: (P,) first entry of each; 0 by default. counts: (P,) how many of each, or one number for all; by default
        all up to the sample's end.
        Raises `DamagedStore` when something is not what was written; nothing of it is given out.
        """
        raise NotImplementedError

    def asked_entries(
        self,
        name: str,
        positions: np.ndarray,
        starts: np.ndarray | None,
        counts: np.ndarray | int | None,
        lengths: np.ndarray | None = None,
    ) -> tuple[int, np.ndarray, np.ndarray, Entries]:
        """Number of the column, checked `positions` and `starts`, and memory for what `entries` shall give.

        lengths: (P,) entries of these samples, where those of the list are not known beforehand.
        Raises `IndexError` for what a sample does not have.
        """
        entry = self._entries[name]
        positions = self._places(positions)
        starts = np.zeros(len(positions), np.int64) if starts is None else np.ascontiguousarray(starts, dtype=np.int64)
        lengths = self.lengths[positions, entry.number] if lengths is None else lengths
        counts = lengths - starts if counts is None else np.broadcast_to(counts, positions.shape)
        # This order avoids overflow.
        if ((starts < 0) | (counts < 0) | (starts > lengths) | (counts > lengths - starts)).any():
            raise IndexError(f"{name}: entries must lie inside their sample")
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        values = np.empty((int(bounds[-1]), *entry.shape), entry.kind)
        return entry.number, positions, starts, Entries(values, bounds)

    def asked(
        self, positions: np.ndarray, starts: np.ndarray | None, buffers: Buffers | None, means: int = 1
    ) -> tuple[np.ndarray, np.ndarray, Buffers]:
        """The arguments of `read`, complete and checked: `IndexError`, `ValueError` for what makes no sense.

        means: windows that make one row of the batch.
        """
        positions = self._places(positions)
        if starts is None:
            starts = np.zeros((len(positions), len(self.columns)), dtype=np.int64)
        else:
            starts = np.ascontiguousarray(starts, dtype=np.int64)
            unsigned = starts.view(np.uint64)
            # Mostly no window starts behind the end of the shortest sample, which one look at all of them tells.
            near = len(starts) and unsigned.max() >= self.shortest
            if near and (unsigned >= self.lengths[positions].view(np.uint64)).any():
                raise IndexError("a window must start inside its sample")
        rows = len(positions) // means
        buffers = buffers or self.buffers(rows)
        if rows > buffers.size:
            raise ValueError(f"{rows} samples do not fit into memory for {buffers.size}")
        return positions, starts, buffers

    def _places(self, positions: np.ndarray) -> np.ndarray:
        positions = np.ascontiguousarray(positions, dtype=np.int64)
        # Interpreted as unsigned, a negative position is a huge one.
        if len(positions) and positions.view(np.uint64).max() >= len(self):
            raise IndexError(f"places must lie between 0 and {len(self) - 1}")
        return positions


def _check_column(name: str, column: Column, by_entry: bool) -> None:
    spec = column.spec
    if spec.ragged and not column.window and not by_entry:
        raise UsageError(f"{name}: the samples of array {spec.name} differ in length; give a window, or read_one.")
    if column.window < 0 or (column.window and not spec.shape):
        raise UsageError(f"{name}: array {spec.name} cannot be cut to a window of {column.window}.")


def _aligned(count: int) -> int:
    return -(-count // 64) * 64
