"""Batches at memory speed, from local uncompressed stores: one compiled gather, whatever the number of shards.

The checks are those of `StoreReader`: presence by the records, sizes at opening, and each shard's SHA-256 before this
process returns the first sample of it.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unialign.cache.batches.joined import Buffers, Column, Entries, Joined
from unialign.cache.codecs import CRC_BYTES
from unialign.cache.reader import Recorded, Shard, StoreReader
from unialign.cache.shards import ABSENT, chunk_bytes
from unialign.cache.threads import spread
from unialign.errors import DamagedStore, UsageError

# Larger batches are written past the CPU caches. Smaller ones are likely read again while they are still cached.
STREAM_BYTES = 4 << 20


@dataclass
class _Part:
    """A column at work. shards: (S,) numbers. place: (N,) which of them holds a sample, slot: (N,) where in it.

    order, bounds: the samples of shard k are `order[bounds[k] : bounds[k + 1]]`. opened: (S,) bool.
    first: its first column of chunks. lengths: (N,) entries of each sample.
    """

    column: Column
    reader: StoreReader
    shards: np.ndarray
    place: np.ndarray
    slot: np.ndarray
    order: np.ndarray
    bounds: np.ndarray
    opened: np.ndarray
    first: int
    lengths: np.ndarray

    def samples(self, place: int) -> np.ndarray:
        """Positions in the list of ids of the samples in a shard."""
        return self.order[self.bounds[place] : self.bounds[place + 1]]


class BatchReader(Joined):
    """See `Joined`. May be used by several threads at once.

    Raises `UsageError` for a store that is compressed or remote.
    """

    def __init__(self, columns: Mapping[str, Column], ids: Sequence[str], by_entry: Collection[str] = ()) -> None:
        super().__init__(columns, ids, by_entry)
        self._parts = [
            _part(column, _mapped(column.reader), rows, int(self.layout[place, 0]), self.lengths[:, place])
            for place, (column, rows) in enumerate(zip(self.columns.values(), self.rows, strict=True))
        ]
        self._chunks = np.zeros((len(self.ids), self.num_chunks), dtype=np.int64)
        self._ready = np.zeros(len(self.ids), dtype=bool)
        self._all_ready = False
        self._lock = threading.Lock()

    def read(
        self,
        positions: np.ndarray,
        starts: np.ndarray | None = None,
        buffers: Buffers | None = None,
        means: int = 1,
    ) -> dict[str, np.ndarray]:
        """See `Joined.read`.

        means: give the mean of so many windows that follow each other instead, (len(positions) // means, *shape); at
        most `most_means`.
        """
        # Imports a compiler, which a command that only finds a finished run does not need.
        from unialign.cache.batches.gather import copy_windows, mean_entries

        positions, starts, buffers = self.prepared(positions, starts, buffers, means)
        if means > 1:
            mean_entries(positions, self._chunks, self.layout, starts, buffers.addresses, means)
        else:
            copy_windows(positions, *self.places, starts, buffers.addresses, self.streams(len(positions)))
        return {name: array[: len(positions) // means] for name, array in buffers.arrays.items()}

    def entries(
        self,
        name: str,
        positions: np.ndarray,
        starts: np.ndarray | None = None,
        counts: np.ndarray | int | None = None,
    ) -> Entries:
        """See `Joined.entries`."""
        from unialign.cache.batches.gather import copy_entries

        if isinstance(counts, int) and starts is not None and (alike := self._alike(name, positions, starts, counts)):
            return alike
        number, positions, starts, found = self.asked_entries(name, positions, starts, counts)
        if not self._all_ready:
            self._open(positions)
        first, per_chunk, size, _ = self.layout[number].tolist()
        address = found.values.ctypes.data
        copy_entries(positions, self._chunks, first, per_chunk, size, starts, found.bounds, address)
        return found

    def _alike(self, name: str, positions: np.ndarray, starts: np.ndarray, count: int) -> Entries | None:
        """`count` entries of each sample; None if something is wrong with them, or not open yet."""
        from unialign.cache.batches.gather import copy_alike

        entry = self._entries[name]
        if not 1 <= count <= entry.most or not 0 < len(positions) == len(starts):
            return None
        total = len(positions) * count
        found = Entries(np.empty((total, *entry.shape), entry.kind), np.arange(0, total + 1, count))
        rows, first = (np.ascontiguousarray(each, dtype=np.int64) for each in (positions, starts))
        places = self._chunks, self.lengths, self.layout, entry.number
        return found if copy_alike(rows, *places, first, found.bounds, found.values.ctypes.data) else None

    def prepared(
        self, positions: np.ndarray, starts: np.ndarray | None, buffers: Buffers | None, means: int = 1
    ) -> tuple[np.ndarray, np.ndarray, Buffers]:
        """The arguments of `read`, completed and checked; all shards that they need are checked and open."""
        if not 1 <= means <= self.most_means or len(positions) % means:
            raise ValueError(f"{len(positions)} windows cannot be averaged by {means}; see `most_means`")
        positions, starts, buffers = self.asked(positions, starts, buffers, means)
        if not self._all_ready:
            self._open(positions)
        return positions, starts, buffers

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The locations of the samples: `chunks`, `lengths` and `columns` of `gather.copy_windows`."""
        return self._chunks, self.lengths, self.layout

    @property
    def most_means(self) -> int:
        """Windows that `read` can average: 4 if they are single entries of float32, else 1.

        Their sum does not depend on who adds; that of more does, since libraries then have orders of their own.
        """
        entries = (column.window == 1 and column.spec.dtype == "float32" for column in self.columns.values())
        return 4 if all(entries) and not self.by_entry else 1

    def streams(self, size: int) -> bool:
        """Whether batches of this many samples are written past the CPU caches."""
        return size * self.sample_bytes > STREAM_BYTES

    def shards_of(self, positions: np.ndarray) -> Iterator[tuple[int, int]]:
        """The shard files that some samples need, as (column, index among the column's shards)."""
        for number, part in enumerate(self._parts):
            yield from ((number, place) for place in np.unique(part.place[positions]).tolist())

    def shard_numbers(self, column: int = 0) -> np.ndarray:
        """(N,) the shard of each sample in one column's store."""
        part = self._parts[column]
        return np.asarray(part.shards[part.place])

    def announce_shard(self, column: int, place: int) -> None:
        """Ask the system to start reading a shard file, without waiting for it."""
        part = self._parts[column]
        part.reader.announce(part.column.array, int(part.shards[place]))

    def open_shard(self, column: int, place: int) -> None:
        """Check a shard file and map it, unless that has been done; reading it then needs no disk access.

        Raises `DamagedStore` if it is not what was written.
        """
        part = self._parts[column]
        part.reader.shard(part.column.array, int(part.shards[place]), warm=True)
        with self._lock:
            if not part.opened[place]:
                self._note(part, place)

    def close_shard(self, column: int, place: int) -> None:
        """Release a shard file and its pages in the page cache; none of its samples may be being read."""
        part = self._parts[column]
        with self._lock:
            mine = part.samples(place)
            self._ready[mine] = False
            self._all_ready = False
            part.opened[place] = False
            self._chunks[mine, part.first : part.first + part.column.spec.chunks_per_sample] = 0
        part.reader.release(part.column.array, int(part.shards[place]))

    def _open(self, positions: np.ndarray) -> None:
        wanted = positions[~self._ready[positions]]
        if not len(wanted):
            return
        with self._lock:
            files = [
                (part, place)
                for part in self._parts
                for place in np.unique(part.place[wanted]).tolist()
                if not part.opened[place]
            ]
            # Checksums are computed in parallel; a file that was opened here is not opened again by `_note`.
            spread(lambda some: [_shard(*file) for file in some], files)
            for part, place in files:
                self._note(part, place)
            self._ready[wanted] = True
            self._all_ready = bool(self._ready.all())

    def _note(self, part: _Part, place: int) -> None:
        """Record the addresses of the chunks of a shard's samples."""
        reader, spec = part.reader, part.column.spec
        shard = _shard(part, place)
        mine = part.samples(place)
        chunks = shard.index[part.slot[mine]]  # (samples, chunks, 2)
        per_chunk = spec.inner[0] if spec.inner else 1
        needed = np.arange(spec.chunks_per_sample) < -(-part.lengths[mine, None] // per_chunk)
        absent = (chunks[..., 0] == ABSENT)[needed].any()
        if absent or (chunks[..., 1] != chunk_bytes(spec) + CRC_BYTES)[needed].any():
            path = reader.store.shard_path(spec.name, int(part.shards[place]))
            raise DamagedStore(
                f"{path}: a chunk that the record covers is missing or cut; run `unialign cache verify`."
            )
        found = np.where(needed, chunks[..., 0].astype(np.int64) + shard.data.ctypes.data, 0)
        self._chunks[mine, part.first : part.first + spec.chunks_per_sample] = found
        part.opened[place] = True


def _shard(part: _Part, place: int) -> Shard:
    return part.reader.shard(part.column.array, int(part.shards[place]))


def _mapped(reader: Recorded) -> StoreReader:
    if not isinstance(reader, StoreReader) or reader.store.codec != "none":
        raise UsageError(f"{reader.where} is compressed or remote; it has no memory to map.")
    return reader


def _part(column: Column, reader: StoreReader, rows: np.ndarray, first: int, lengths: np.ndarray) -> _Part:
    table = reader.table
    shards, place = np.unique(table.shard[rows], return_inverse=True)
    order = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[order], np.arange(len(shards) + 1))
    opened = np.zeros(len(shards), dtype=bool)
    return _Part(column, reader, shards, place, table.slot[rows], order, bounds, opened, first, lengths)
