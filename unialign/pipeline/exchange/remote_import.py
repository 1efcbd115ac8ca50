"""A store behind a URL brought into a local cache, byte for byte: the way back from `remote_export.py`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unialign.cache import atomic
from unialign.cache.index import index_path
from unialign.cache.lock import store_lock
from unialign.cache.mirrors import check_whole
from unialign.cache.reader import StoreReader
from unialign.cache.records import Record, decode_record, record_path
from unialign.cache.remote.remote_reader import INDEX_BYTES, RemoteReader
from unialign.cache.remote.transport import Part, Remote, fetch
from unialign.cache.schema import METADATA_BYTES, RECORD_BYTES
from unialign.cache.store import store_path
from unialign.errors import DamagedStore, UsageError

Progress = Callable[[int, int], None]

# Bytes of one request, and requests at a time.
BLOCK, AT_ONCE = 8 << 20, 4
ADVICE = "the copy behind the URL is damaged, or changed meanwhile; repeat, or send it again from where it was made."


@dataclass(frozen=True)
class ImportedStore:
    """Where a store came to lie, and the bytes that were fetched: 0 if all of it was there."""

    path: Path
    bytes: int


def import_remote(url: str, cache: Path, progress: Progress = lambda done, total: None) -> ImportedStore:
    """Fetch the store at a URL into a cache. Shards that are there already are not fetched again.

    progress: called with bytes done and all. Raises `UsageError` if another store is there under its name,
    `DamagedStore` for a file that is not what its record says, `LockedStore` while another process writes the store,
    and what `RemoteReader` raises.
    """
    check_whole(cache, "cache import")
    reader = RemoteReader(url)
    store, remote = reader.store, reader.remote
    path = store_path(cache, store.collection, store.modality, store.key)
    total, done, fetched = reader.table.shards.total_bytes, 0, 0
    with store_lock(path, cache):
        atomic.sweep_beside(path)
        _copy_metadata(remote, [*(f"{spec.name}/zarr.json" for spec in store.arrays), "zarr.json"], path)
        atomic.sweep(path)
        for shard in reader.table.shards.numbers.tolist():
            name = f"records/{shard:06d}.json"
            data = fetch([Part(remote, name, limit=RECORD_BYTES)])[0]
            record = decode_record(data, f"{remote.url}/{name}")
            if not _is_there(path, shard, data):
                fetched += _copy_shard(remote, path, record, data, reader)
            done += sum(file.bytes for file in record.files.values())
            progress(done, total)
        atomic.write_file(index_path(path), fetch([Part(remote, "records/index.bin", limit=INDEX_BYTES)])[0])
    if StoreReader(path).sources() != reader.sources():
        raise DamagedStore(f"{remote.url}: {ADVICE}")
    return ImportedStore(path, fetched)


def _copy_metadata(remote: Remote, names: list[str], path: Path) -> None:
    for name, data in zip(names, fetch([Part(remote, name, limit=METADATA_BYTES) for name in names]), strict=True):
        place = path / name
        if name == "zarr.json" and place.is_file() and place.read_bytes() != data:
            raise UsageError(f"{path} is another store than {remote.url}; give another --cache.")
        if not place.is_file() or place.read_bytes() != data:
            atomic.write_file(place, data)


def _is_there(path: Path, shard: int, data: bytes) -> bool:
    """Whether a shard was fetched before. Raises `UsageError` if another one is there under its number."""
    place = record_path(path, shard)
    if not place.is_file():
        return False
    if place.read_bytes() != data:
        raise UsageError(f"{path} has another shard {shard} than the copy behind the URL; give another --cache.")
    return True


def _copy_shard(remote: Remote, path: Path, record: Record, data: bytes, reader: RemoteReader) -> int:
    """Fetch the files of a shard, then put its record beside them; returns their bytes."""
    for name, file in record.files.items():
        relative = reader.store.shard_path(name, record.shard).relative_to(reader.store.path)
        place = path / relative
        if atomic.write_parts(place, _blocks(remote, relative.as_posix(), file.bytes)) != (file.bytes, file.sha256):
            atomic.remove(place)
            raise DamagedStore(f"{remote.url}/{relative} is not what its record says: {ADVICE}")
    atomic.write_file(record_path(path, record.shard), data)
    return sum(file.bytes for file in record.files.values())


def _blocks(remote: Remote, name: str, size: int) -> Iterator[bytes]:
    parts = [Part(remote, name, start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]
    for first in range(0, len(parts), AT_ONCE):
        yield from fetch(parts[first : first + AT_ONCE])
