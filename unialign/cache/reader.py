"""Reading a store: nothing is served that no record vouches for, and never a fill value.

Shards are memory-mapped. A shard file's size is checked when the store is opened, its SHA-256 the first time that this
process touches it.
"""

import hashlib
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unialign.cache.arrays import Json
from unialign.cache.errors import DamagedStore, MissingCache
from unialign.cache.records import Entry, Record
from unialign.cache.shards import read_index, read_sample
from unialign.cache.store import open_store, read_records


@dataclass(frozen=True)
class Place:
    """Where a sample lies: shard and slot."""

    shard: int
    slot: int


@dataclass(frozen=True)
class _Shard:
    data: memoryview
    index: np.ndarray


class StoreReader:
    """Random access to the samples of one store by id, as of the moment it was opened.

    Any number of processes may read one store at once, also while it grows; shards added later are not seen.
    """

    def __init__(self, path: Path) -> None:
        """Open the store. Raises `MissingCache` if there is none and `DamagedStore` if a file is missing or cut."""
        self.path = path
        self.store = open_store(path)
        self.records: dict[int, Record] = {record.shard: record for record in read_records(self.store)}
        self.entries: dict[str, Entry] = {}
        self._places: dict[str, Place] = {}
        for record in self.records.values():
            self._check_sizes(record)
            for slot, entry in enumerate(record.entries):
                # A later shard supersedes an earlier one: a sample whose source changed, or that was tried again.
                self.entries[entry.id] = entry
                self._places[entry.id] = Place(record.shard, slot)
        self._open: dict[tuple[str, int], _Shard] = {}

    def __reduce__(self) -> tuple[type["StoreReader"], tuple[Path]]:
        """Travel to another process as a path; memory maps stay here."""
        return StoreReader, (self.path,)

    @property
    def attributes(self) -> Mapping[str, Json]:
        """What the extractor says of the store beside the key."""
        return self.store.attributes

    def array_attributes(self, name: str) -> Mapping[str, Json]:
        """Units, joint order and the like of one array."""
        return self.store.array(name).attributes

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the samples that have features, sorted."""
        return tuple(sorted(name for name, entry in self.entries.items() if entry.status == "ok"))

    def status(self, sample: str) -> str:
        """Status of a sample. Raises `MissingCache` for one that was never extracted."""
        entry = self.entries.get(sample)
        if entry is None:
            raise MissingCache(f"{self.path}: sample {sample!r} was never extracted; run `unialign extract` again.")
        return entry.status

    def source(self, sample: str) -> str:
        """Digest of what a sample was made from."""
        return self._entry(sample).source

    def place(self, sample: str) -> Place:
        """Shard and slot of a sample that has features. Raises `MissingCache` for any other."""
        self._entry(sample)
        return self._places[sample]

    def length(self, sample: str, axis: str) -> int:
        """Entries of a sample along a ragged axis."""
        return self._entry(sample).lengths[axis]

    def read_one(self, sample: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """The arrays of one sample, without the sample axis, ragged axes cut to their length.

        Raises `MissingCache` for a sample that is not stored, `DamagedStore` for a file that is not what was written.
        """
        entry, place = self._entry(sample), self._places[sample]
        arrays = {}
        for name in names or [spec.name for spec in self.store.arrays]:
            spec = self.store.array(name)
            shard = self._shard(name, place.shard)
            length = entry.lengths[spec.dims[0]] if spec.ragged else None
            arrays[name] = read_sample(spec, shard.data, shard.index[place.slot], length)
        return arrays

    def _entry(self, sample: str) -> Entry:
        status = self.status(sample)
        if status != "ok":
            raise MissingCache(f"{self.path}: sample {sample!r} is quarantined as {status}.")
        return self.entries[sample]

    def _check_sizes(self, record: Record) -> None:
        for name, file in record.files.items():
            path = self.store.shard_path(name, record.shard)
            if not path.is_file() or path.is_symlink():
                raise DamagedStore(f"{path} is missing; run `unialign cache verify`, then `unialign extract --repair`.")
            if path.stat().st_size != file.bytes:
                raise DamagedStore(
                    f"{path} has {path.stat().st_size} bytes instead of {file.bytes}; "
                    "run `unialign cache verify`, then `unialign extract --repair`."
                )

    def _shard(self, name: str, number: int) -> _Shard:
        key = (name, number)
        if key not in self._open:
            path = self.store.shard_path(name, number)
            expected = self.records[number].files.get(name)
            if expected is None:
                raise DamagedStore(f"{path}: no record vouches for this file.")
            data = self._map(path)
            if len(data) != expected.bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
                raise DamagedStore(
                    f"{path} is not what was written; run `unialign cache verify`, then `unialign extract --repair`."
                )
            index = read_index(self.store.array(name), data, self.store.shard_samples, str(path))
            self._open[key] = _Shard(data, index)
        return self._open[key]

    @staticmethod
    def _map(path: Path) -> memoryview:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
