"""A store restored from an HDF5 file written by `hdf5_export`: the same bytes, or nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np

from unialign.cache import atomic
from unialign.cache.checks import check_record
from unialign.cache.codecs import codec_versions
from unialign.cache.index import write_index
from unialign.cache.lock import store_lock
from unialign.cache.mirrors import check_whole
from unialign.cache.records import Record, list_records, read_record, record_path
from unialign.cache.repair import restore_metadata
from unialign.cache.schema import MAX_SHARD
from unialign.cache.shards import little_endian
from unialign.cache.store import Store, decode_store, grow_store, open_store, store_path, write_shard
from unialign.cache.verify import verify_store
from unialign.errors import CorruptInput, DamagedStore, UsageError
from unialign.pipeline.exchange.hdf5_export import (
    FORMAT,
    VERSION,
    Progress,
    head_digest,
    metadata_of,
    plain,
    row_lengths,
)

# An incomplete store is next to the finished one, under a name that is never listed as a store.
STAGING = ".import"
# What h5py, numpy and JSON raise on files that are not exports, or on values of another type than those in one.
_MALFORMED = (
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Imported:
    """reused: the store already existed, byte for byte."""

    store: Store
    reused: bool


@dataclass(frozen=True)
class _Head:
    """What a file says about its store. texts: the record of each shard, as a dataset."""

    metadata: bytes
    path: Path
    shards: list[int]
    texts: h5py.Dataset
    num_shards: int
    index: bool


def import_hdf5(source: Path, cache: Path, progress: Progress = lambda done, total: None) -> Imported:
    """Restore the store that a file holds, under its own name in the cache; it becomes visible when it is complete.

    Every shard is written again and must have the SHA-256 that its record states. progress: called with (shards
    written, shards). Memory: the samples of one shard.
    An existing store is left alone if it is the same byte for byte, and replaced if it is empty.
    Raises `UsageError` if there is another one, `CorruptInput` for a file that is not an export or is damaged,
    `DamagedStore` if data differs from what was exported, and `LockedStore` while another process writes the store.
    """
    if not source.is_file():
        raise UsageError(f"{source} is not a file; give one that `unialign cache export` wrote.")
    check_whole(cache, "cache import")
    with _reading(source):
        file = h5py.File(source, "r")
    with file:
        head = _read_head(source, file, cache)
        with store_lock(head.path, cache):
            if _is_there(source, head):
                return Imported(open_store(head.path), reused=True)
            for abandoned in head.path.parent.glob(f"{atomic.PREFIX}*-{head.path.stem}{STAGING}"):
                atomic.remove(abandoned)
            staging = atomic.temporary_name(head.path.with_suffix(STAGING))
            try:
                _fill(source, file, head, staging, progress)
                atomic.remove(head.path)
                atomic.replace(staging, head.path)
            finally:
                atomic.remove(staging)
            if head.index:
                write_index(open_store(head.path))
    return Imported(open_store(head.path), reused=False)


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Turn the errors of h5py, JSON and the records about a damaged file into one sentence."""
    try:
        yield
    except DamagedStore as error:
        raise CorruptInput(
            f"{source}: its metadata or one of its records is none that this version of unialign reads; "
            "export the store again."
        ) from error
    except _MALFORMED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CorruptInput(f"{source}: is no export of a store, or is damaged ({reason}).") from error


def _read_head(source: Path, file: h5py.File, cache: Path) -> _Head:
    with _reading(source):
        if file.attrs.get("format") != FORMAT or file.attrs["version"] != VERSION:
            raise ValueError(f"its format is not {FORMAT!r}, version {VERSION}")
        if head_digest(file) != file.attrs["digest"]:
            raise ValueError("its metadata or records do not match its own digest")
        metadata, numbers = metadata_of(file), plain(file, "records/shard")[:]
        store = decode_store(cache, metadata, str(source))
        shards: list[int] = numbers.tolist()
        if numbers.dtype.kind != "i" or shards != sorted({*shards}) or min(shards, default=0) < 0:
            raise ValueError("the numbers of its shards are none")
        num_shards = int(file.attrs["num_shards"])
        if not max(shards, default=-1) < num_shards <= MAX_SHARD + 1:
            raise ValueError(f"it has {len(shards)} shards and room for {num_shards}")
        return _Head(
            metadata=metadata,
            path=store_path(cache, store.collection, store.modality, store.key),
            shards=shards,
            texts=plain(file, "records/text"),
            num_shards=num_shards,
            index=bool(file.attrs["index"]),
        )


def _is_there(source: Path, head: _Head) -> bool:
    """Whether the store that the file holds is already in the cache. Raises `UsageError` for another one."""
    if not head.path.exists():
        return False
    found = list_records(head.path)
    if not found:
        return False
    way_out = "move it away, or import into another --cache"
    with _reading(source):
        same = (
            (head.path / "zarr.json").read_bytes() == head.metadata
            and found == [record_path(head.path, shard) for shard in head.shards]
            and all(path.read_bytes() == head.texts[place] for place, path in enumerate(found))
        )
    if not same:
        raise UsageError(f"{head.path} holds other samples of the same key than {source}; {way_out}.")
    for damage in verify_store(head.path):
        raise UsageError(
            f"{head.path} holds the samples of {source}, but {damage.file} is not right ({damage.problem}); {way_out}."
        )
    return True


def _fill(source: Path, file: h5py.File, head: _Head, staging: Path, progress: Progress) -> None:
    atomic.write_file(staging / "zarr.json", head.metadata)
    with _reading(source):
        store = open_store(staging)
    row = 0
    progress(0, len(head.shards))
    for place, shard in enumerate(head.shards):
        with _reading(source):
            text = bytes(head.texts[place])
        atomic.write_file(record_path(staging, shard), text)
        with _reading(source):
            record = read_record(record_path(staging, shard))
            check_record(store, record)
            values = _read_shard(file, store, record, row)
        _write(source, store, record, values)
        # As it was exported: the store just written still has the name of the staging folder.
        atomic.write_file(record_path(staging, shard), text)
        row += sum(entry.status == "ok" for entry in record.entries)
        progress(place + 1, len(head.shards))
    restore_metadata(store)
    grow_store(store, head.num_shards)


def _read_shard(file: h5py.File, store: Store, record: Record, row: int) -> list[dict[str, np.ndarray]]:
    """The values of each slot of a shard, empty where the sample has none; `row` is the shard's first row."""
    held = [slot for slot, entry in enumerate(record.entries) if entry.status == "ok"]
    values: list[dict[str, np.ndarray]] = [{} for _ in record.entries]
    for spec in store.arrays:
        data = plain(file, f"arrays/{spec.name}")
        if data.dtype != little_endian(spec):
            raise ValueError(f"array {spec.name} is of {data.dtype} instead of {spec.dtype}")
        offsets = np.arange(row, row + len(held) + 1)
        if spec.ragged:
            offsets = plain(file, f"offsets/{spec.name}")[row : row + len(held) + 1]
            if np.diff(offsets).tolist() != row_lengths(spec, record):
                raise ValueError(f"the offsets of array {spec.name} are not those of the records")
        block = data[int(offsets[0]) : int(offsets[-1])] if held else data[:0]
        for number, slot in enumerate(held):
            start, end = (offsets[number : number + 2] - offsets[0]).tolist()
            values[slot][spec.name] = np.asarray(block[start:end] if spec.ragged else block[number])
    return values


def _write(source: Path, store: Store, record: Record, values: list[dict[str, np.ndarray]]) -> None:
    try:
        written = write_shard(store, record.shard, record.entries, values)
    except ValueError as error:
        raise CorruptInput(f"{source}: shard {record.shard} is not what its record says ({error}).") from error
    for name in sorted(written.files.keys() | record.files.keys()):
        if written.files.get(name) != record.files.get(name):
            _refuse(source, store, f"array {name} of shard {record.shard}")


def _refuse(source: Path, store: Store, what: str) -> NoReturn:
    body = json.loads((store.path / "zarr.json").read_bytes())["attributes"]["unialign"]
    for library, version in codec_versions(store.codec).items():
        if body.get(library) != version:
            raise UsageError(
                f"{source}: {what} was compressed by {library} {body.get(library)}, and {version}, which is installed "
                f"here, gives other bytes; install {library} {body.get(library)} for the import."
            )
    raise DamagedStore(f"{source}: {what} is not what was exported (SHA-256 differs); export the store again.")
