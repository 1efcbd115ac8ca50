"""Reading a store: only data that a record covers is returned, and never a fill value.

Shards are memory-mapped. A shard file's size is checked when the store is opened, its SHA-256 when this process first
accesses it.
"""

import contextlib
import hashlib
import os
import stat
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unialign.cache.index import load_table
from unialign.cache.lock import keep_for_reading
from unialign.cache.mapping import map_handle
from unialign.cache.mirrors import url_of
from unialign.cache.records import STATUSES, Entry, ShardFile
from unialign.cache.shards import read_index, read_sample
from unialign.cache.store import Store, open_store
from unialign.cache.table import OK, SampleTable
from unialign.errors import DamagedStore, MissingCache, UsageError
from unialign.types import Json

BLOCK = 4 << 20
_SCRATCH = threading.local()
ADVICE = "run `unialign cache verify`, then `unialign extract MODALITY --repair`."


@dataclass(frozen=True)
class Place:
    """The place of a sample: shard and slot."""

    shard: int
    slot: int


@dataclass(frozen=True)
class Shard:
    """One array's file of a shard, checked. data: (bytes,) uint8. index: (slots, chunks, 2) of (offset, bytes)."""

    data: np.ndarray
    index: np.ndarray


class Recorded(ABC):
    """The samples of one store as its records describe them, local or remote.

    where: the path or URL, for messages. table: the content of the records.
    """

    where: str
    store: Store
    table: SampleTable

    @property
    def attributes(self) -> Mapping[str, Json]:
        """What the extractor declares about the store, besides the key."""
        return self.store.attributes

    def array_attributes(self, name: str) -> Mapping[str, Json]:
        """Units, joint order and the like of one array."""
        return self.store.array(name).attributes

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the samples that have features, sorted."""
        held = self.table.ok
        if held.all():
            return self.table.ids
        return tuple(name for name, ok in zip(self.table.ids, held.tolist(), strict=True) if ok)

    def __len__(self) -> int:
        """Samples that have features."""
        return int(np.count_nonzero(self.table.ok))

    def __contains__(self, sample: object) -> bool:
        """Whether a sample has features."""
        row = self.table.row(sample) if isinstance(sample, str) else -1
        return row >= 0 and bool(self.table.ok[row])

    def __iter__(self) -> Iterator[str]:
        """The ids of the samples that have features, sorted."""
        return iter(self.ids)

    def __getitem__(self, sample: str) -> dict[str, np.ndarray]:
        """All arrays of one sample, see `read_one`. For many samples at once: `unialign.batches`."""
        if not isinstance(sample, str):
            raise UsageError(f"{self.where}: samples go by id, not by {sample!r}; take an id from `.ids`.")
        return self.read_one(sample)

    def __repr__(self) -> str:
        """Modality, samples, coverage, and one line per array with its axes and units."""
        held, known = len(self), len(self.table)
        lines = [f"<{self.store.modality} of {self.store.collection}: {held:,} of {known:,} samples, {self.where}>"]
        for spec in self.store.arrays:
            axes = ", ".join(
                f"{name} {'up to ' if spec.ragged and not place else ''}{size}"
                for place, (name, size) in enumerate(zip(spec.dims, spec.shape, strict=True))
            )
            units = spec.attributes.get("units")
            lines.append(f"  {spec.name}: {spec.dtype} ({axes}){f', {units}' if isinstance(units, str) else ''}")
        return "\n".join(lines)

    def sources(self) -> dict[str, str]:
        """Digest of what each sample that has features was made from, by id."""
        return dict(zip(self.ids, self.table.sources_of(np.flatnonzero(self.table.ok)), strict=True))

    def status(self, sample: str) -> str:
        """Status of a sample. Raises `MissingCache` for one that was never extracted."""
        row = self.table.row(sample)
        if row < 0:
            raise self._never(sample)
        return STATUSES[self.table.status[row]]

    def source(self, sample: str) -> str:
        """Digest of what a sample was made from."""
        return self.table.source_of(self._row(sample))

    def place(self, sample: str) -> Place:
        """Shard and slot of a sample that has features. Raises `MissingCache` for any other."""
        row = self._row(sample)
        return Place(int(self.table.shard[row]), int(self.table.slot[row]))

    def rows(self, samples: Sequence[str]) -> np.ndarray:
        """(len(samples),) rows of the table. Raises `MissingCache` naming the first sample without features."""
        rows = self.table.find(samples)
        held = (rows >= 0) & self.table.ok[rows] if len(self.table) else np.zeros(len(rows), dtype=bool)
        if not held.all():
            self._row(samples[int(np.argmin(held))])
        return rows

    def length(self, sample: str, axis: str) -> int:
        """Length of a sample along a ragged axis."""
        return int(self.table.lengths[axis][self._row(sample)])

    @abstractmethod
    def read_one(self, sample: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """The arrays of one sample, without the sample axis, ragged axes cut to their length.

        Raises `MissingCache` for a sample that is not stored, `DamagedStore` for a file that is not what was written.
        """

    def _never(self, sample: str) -> MissingCache:
        return MissingCache(f"{self.where}: sample {sample!r} was never extracted; run `unialign extract` again.")

    def _row(self, sample: str) -> int:
        row = self.table.row(sample)
        if row < 0:
            raise self._never(sample)
        if self.table.status[row] != OK:
            raise MissingCache(f"{self.where}: sample {sample!r} is quarantined as {STATUSES[self.table.status[row]]}.")
        return row

    def _entry(self, sample: str) -> Entry:
        return self.table.entry(self._row(sample))


class StoreReader(Recorded):
    """Random access to the samples of one store by id, as of the moment it was opened.

    Any number of processes may read one store at once, also while it grows; shards added later are not seen.
    """

    def __init__(self, path: Path, seen: tuple[Store, SampleTable] | None = None) -> None:
        """Open the store. Raises `MissingCache` if there is none and `DamagedStore` if a file is missing or truncated.

        seen: by a reader in another process, whose view is shared; then nothing is read until a sample is.
        """
        self.path = path
        self.where = str(path)
        folder = _folder(path)
        # `cache prune` does not remove the store as long as this reader exists.
        kept = keep_for_reading(path)
        if kept is not None:
            # Not at exit: the system closes it then.
            weakref.finalize(self, os.close, kept).atexit = False
        self.store, self.table = seen or _opened(path, folder)
        self._open: dict[tuple[str, int], Shard] = {}
        # Size, times and inode of the files whose SHA-256 was correct.
        self._checked: dict[tuple[str, int], tuple[int, int, int, int]] = {}

    def __reduce__(self) -> tuple[type["StoreReader"], tuple[Path, tuple[Store, SampleTable]]]:
        """Pickled as a path and the view of the samples; memory maps are not sent.

        If the records were read again there, they might differ: an extraction may have written meanwhile.
        """
        return StoreReader, (self.path, (self.store, self.table))

    def read_one(self, sample: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """See `Recorded.read_one`."""
        entry = self._entry(sample)
        place = self.place(sample)
        arrays = {}
        for name in names or [spec.name for spec in self.store.arrays]:
            spec = self.store.array(name)
            shard = self.shard(name, place.shard)
            length = entry.lengths[spec.dims[0]] if spec.ragged else None
            path, codec, checksum = self.store.shard_path(name, place.shard), self.store.codec, entry.checksums[name]
            rows = shard.index[place.slot]
            arrays[name] = read_sample(
                spec, shard.data.data, rows, length, codec=codec, checksum=checksum, name=str(path)
            )
        return arrays

    def shard(self, name: str, number: int, *, warm: bool = False) -> Shard:
        """One array's file of a shard; its SHA-256 is checked when this process first accesses it.

        warm: read the file even if that has been done, so that it is in memory.
        Raises `DamagedStore` if it is not what was written.
        """
        key = (name, number)
        if key not in self._open:
            path = self.store.shard_path(name, number)
            expected = self.table.shards.file(name, number)
            if expected is None:
                raise DamagedStore(f"{path}: no record covers this file.")
            try:
                data = self._checked_file(key, path, expected, warm=warm)
            except OSError as error:
                raise DamagedStore(f"{path} cannot be read ({error}); {ADVICE}") from error
            if len(data) != expected.bytes:
                raise DamagedStore(f"{path} is not what was written; {ADVICE}")
            index = read_index(self.store.array(name), data.data, self.store.shard_samples, str(path))
            # If two threads open a file at once, the first one is kept: addresses in it may already be in use.
            return self._open.setdefault(key, Shard(data, index))
        return self._open[key]

    def _checked_file(self, key: tuple[str, int], path: Path, expected: ShardFile, *, warm: bool) -> np.ndarray:
        # One handle for everything: the same name may refer to another file a moment later.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            stamp = _stamp(handle)
            if self._checked.get(key) != stamp:
                if stamp[0] != expected.bytes or _sha256(handle) != expected.sha256:
                    raise DamagedStore(f"{path} is not what was written; {ADVICE}")
                self._checked[key] = stamp
            elif warm:
                for _ in _blocks(handle):
                    pass
            return map_handle(handle, path)
        finally:
            os.close(handle)

    def announce(self, name: str, number: int) -> None:
        """Ask the system to start reading a shard file, without waiting for it."""
        self._advise(name, number, "POSIX_FADV_WILLNEED")

    def release(self, name: str, number: int) -> None:
        """Unmap a shard file, and release its pages in the page cache."""
        self._open.pop((name, number), None)
        self._advise(name, number, "POSIX_FADV_DONTNEED")

    def _advise(self, name: str, number: int, advice: str) -> None:
        with contextlib.suppress(OSError):
            handle = os.open(self.store.shard_path(name, number), os.O_RDONLY)
            try:
                advise(handle, advice)
            finally:
                os.close(handle)


def _opened(path: Path, folder: int) -> tuple[Store, SampleTable]:
    store = open_store(path)
    if url := url_of(path):
        raise UsageError(
            f"this needs the shards of {url} on a disk: bring the store into a local cache with `unialign cache import "
            f"{url} --cache FOLDER`, and give that cache."
        )
    table = load_table(store, strict=True)
    check_sizes(store, table)
    # Removing a store starts with a rename; what was read after it may be incomplete.
    if _folder(path) != folder:
        raise MissingCache(f"{path} was removed while it was opened.")
    return store, table


def _folder(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _stamp(handle: int) -> tuple[int, int, int, int]:
    # Including the change time (ctime): the modification time can be set, as copying programs do.
    found = os.fstat(handle)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def advise(handle: int, advice: str) -> None:
    """Tell the system how a file will be read, if it supports that."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(handle, 0, 0, getattr(os, advice))


def _sha256(handle: int) -> str:
    checksum = hashlib.sha256()
    for block in _blocks(handle):
        checksum.update(block)
    return checksum.hexdigest()


def _blocks(handle: int) -> Iterator[memoryview]:
    """The content of a file in large blocks, each overwritten by the next. New memory per block would cost page
    faults.
    """
    if not hasattr(_SCRATCH, "memory"):
        _SCRATCH.memory = memoryview(bytearray(BLOCK))
    advise(handle, "POSIX_FADV_SEQUENTIAL")
    with open(handle, "rb", buffering=0, closefd=False) as file:
        while size := file.readinto(_SCRATCH.memory):
            yield _SCRATCH.memory[:size]


def check_sizes(store: Store, table: SampleTable, advice: str = ADVICE) -> None:
    """Raise `DamagedStore` for the first shard file that is missing, truncated, or not a regular file; nothing is
    read.
    """
    for name, sizes in table.shards.bytes.items():
        # As strings: a million samples have tens of thousands of files, and creating a Path costs more than the check.
        tail = "/0" * len(store.array(name).shape)
        for shard, size in zip(table.shards.numbers.tolist(), sizes.tolist(), strict=True):
            if size < 0:
                continue
            path = f"{store.path}/{name}/c/{shard}{tail}"
            try:
                found = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise DamagedStore(f"{path} is missing; {advice}") from error
            if not stat.S_ISREG(found.st_mode):
                raise DamagedStore(f"{path} is missing; {advice}")
            if found.st_size != size:
                raise DamagedStore(f"{path} has {found.st_size} bytes instead of {size}; {advice}")
