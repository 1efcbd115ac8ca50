"""Batches of fixed-shape arrays at the speed of memory: one gather per array, whatever the number of shards.

What is checked is what `StoreReader` checks: presence by the records, sizes at opening, and each shard's SHA-256 before
the first sample of it is given out by this process.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.errors import DamagedStore, UsageError
from unialign.cache.mapping import FileMapping
from unialign.cache.reader import StoreReader
from unialign.cache.shards import ABSENT, little_endian, read_index


@dataclass(frozen=True)
class _Rows:
    """One array: where the chunks of each sample begin, (samples, chunks), and all memory as overlapping rows."""

    spec: ArraySpec
    mapping: FileMapping
    offsets: np.ndarray
    rows: np.ndarray
    checked: np.ndarray


class BatchReader:
    """Samples of one store by place in a list of ids, many at a time.

    ids: which samples, in which order; all must be stored. names: which arrays, all by default; none may be ragged.
    Raises `MissingCache` for a sample that is not stored, `UsageError` for a ragged array.
    """

    def __init__(self, reader: StoreReader, ids: Sequence[str], names: Sequence[str] | None = None) -> None:
        places = [reader.place(name) for name in ids]
        self._reader = reader
        # The shards that are read, and for each sample its place among them.
        self._shards, self._place_of = np.unique([place.shard for place in places], return_inverse=True)
        slots = np.array([place.slot for place in places], dtype=np.int64)
        wanted = names or [spec.name for spec in reader.store.arrays]
        self._arrays = {name: self._open(reader.store.array(name), slots) for name in wanted}

    def __len__(self) -> int:
        """Samples in the list."""
        return len(self._place_of)

    def read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The samples at some places of the list, (len(positions), *shape) for each array, in fresh memory.

        Raises `DamagedStore` when a shard is not what was written; nothing of it is given out.
        """
        return {name: self._take(rows, positions) for name, rows in self._arrays.items()}

    def _take(self, rows: _Rows, positions: np.ndarray) -> np.ndarray:
        self._check(rows, positions)
        found = rows.rows[rows.offsets[positions].ravel()]  # (positions * chunks, bytes of a chunk)
        shape = (len(positions), *rows.spec.shape)
        return np.asarray(found.view(little_endian(rows.spec)).reshape(shape), dtype=rows.spec.dtype)

    def _check(self, rows: _Rows, positions: np.ndarray) -> None:
        if rows.checked.all():
            return
        for place in np.unique(self._place_of[positions]).tolist():
            if rows.checked[place]:
                continue
            shard = int(self._shards[place])
            expected = self._reader.records[shard].files[rows.spec.name]
            start = int(rows.mapping.starts[place])
            if hashlib.sha256(rows.mapping.memory[start : start + expected.bytes].data).hexdigest() != expected.sha256:
                raise DamagedStore(
                    f"{self._reader.store.shard_path(rows.spec.name, shard)} is not what was written; "
                    "run `unialign cache verify`, then `unialign extract --repair`."
                )
            rows.checked[place] = True

    def _open(self, spec: ArraySpec, slots: np.ndarray) -> _Rows:
        inner = spec.inner
        if spec.ragged or (inner and spec.shape[0] % inner[0]):
            raise UsageError(f"array {spec.name} has samples of different length; read it with StoreReader.read_one.")
        store = self._reader.store
        files = [self._reader.records[shard].files[spec.name] for shard in self._shards.tolist()]
        paths = [store.shard_path(spec.name, shard) for shard in self._shards.tolist()]
        mapping = FileMapping(paths, [file.bytes for file in files])
        offsets = np.empty((len(slots), spec.chunks_per_sample), dtype=np.int64)
        for place, (path, file) in enumerate(zip(paths, files, strict=True)):
            start = int(mapping.starts[place])
            data = mapping.memory[start : start + file.bytes].data
            index = read_index(spec, data, store.shard_samples, str(path))
            mine = self._place_of == place
            chunks = index[slots[mine], :, 0]
            if (chunks == ABSENT).any():
                raise DamagedStore(
                    f"{path}: a chunk that the record vouches for is absent; run `unialign cache verify`."
                )
            offsets[mine] = chunks.astype(np.int64) + start
        size = int(np.prod(inner, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
        # Every byte begins a row; only rows that begin at an offset are ever read.
        rows = np.lib.stride_tricks.as_strided(
            mapping.memory, (len(mapping.memory) - size + 1, size), (1, 1), writeable=False
        )
        return _Rows(spec, mapping, offsets, rows, np.zeros(len(paths), dtype=bool))
