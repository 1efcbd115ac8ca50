"""Where the shards of a store go whose cache is in object storage, and who may send them.

Shard files go first, without a condition: without their record nobody reads them. Then the record, on the condition
that none is there: of two writers, one wins a shard, and the other stops. So that two do not even begin, a writer puts
an object that names it beside the stores, as `lock.py` does with links where a file system has no locks.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unialign.cache import atomic
from unialign.cache.index import index_path
from unialign.cache.lock import is_dead, lock_path, locked, this_process
from unialign.cache.mirrors import bucket_of
from unialign.cache.records import Record, list_records, record_path
from unialign.cache.remote.mirror import listed, pull, send, send_changed
from unialign.cache.remote.putting import Taken, called, put, told
from unialign.cache.remote.transport import Part, Remote, fetch
from unialign.cache.store import Store
from unialign.cache.table import ABSENT, SampleTable
from unialign.errors import DamagedStore, LockedStore, MissingCache, UsageError

# Bytes of what a writer says of itself.
OWNER_BYTES = 4096


@dataclass(frozen=True)
class Outbox:
    """Sends what is written in a mirror. lease: the name of the object that says that this process may."""

    mirror: Path
    lease: str

    @property
    def remote(self) -> Remote:
        """The cache in the storage."""
        return Remote(bucket_of(self.mirror))

    def begin(self, store: Path) -> None:
        """Bring the local side of a store to what is in the storage: a writer that was killed may have left more.

        Raises what `pull` raises.
        """
        name = self._name(store)
        files = {
            f"{name}/{file}": info
            for file, info in listed(Remote(f"{self.remote.url}/{name}"), must_exist=False).items()
        }
        if f"{name}/zarr.json" not in files:
            atomic.remove(store)
        for record in list_records(store):
            if self._name(record) not in files:
                atomic.remove(record)
        for array in store.glob("*/c"):
            atomic.remove(array)
        pull(self.mirror, self.remote, files, name)

    def send_metadata(self, store: Store) -> None:
        """Send what describes the store, which is there before any of its shards."""
        send_changed(self.mirror, [store.path / spec.name / "zarr.json" for spec in store.arrays])
        send(self.mirror, store.path / "zarr.json", create=True)

    def send_shard(self, store: Store, record: Record) -> None:
        """Send a shard and then its record, and delete its files here.

        Raises `LockedStore` if another process has taken the store over, `CacheProblem` if it has written this shard
        or the storage fails.
        """
        paths = [store.shard_path(name, record.shard) for name in record.files]
        for path in paths:
            put(self.remote, self._name(path), path)
        if not _exists(self.remote, self.lease):
            raise LockedStore(
                f"{self.remote.url}/{self.lease} was deleted while this process wrote {store.path.name}: another one "
                "may write it now. Shards that were sent are kept; repeat the command when nobody else writes it."
            )
        send(self.mirror, record_path(store.path, record.shard), create=True)
        for path in paths:
            atomic.remove(path)

    def send_index(self, store: Store) -> None:
        """Send the index of the records: from then on remote readers see the shards that it names."""
        if index_path(store.path).is_file():
            send_changed(self.mirror, [index_path(store.path)])

    def check_sizes(self, store: Store, table: SampleTable) -> None:
        """Raise `DamagedStore` for the first shard file that is missing in the storage, or has another size."""
        name = self._name(store.path)
        files = listed(Remote(f"{self.remote.url}/{name}"), must_exist=False)
        for array, sizes in table.shards.bytes.items():
            for shard, size in zip(table.shards.numbers.tolist(), sizes.tolist(), strict=True):
                file = store.shard_path(array, shard).relative_to(store.path).as_posix()
                there = int((files.get(file) or {}).get("size") or 0)
                if size != ABSENT and there != size:
                    raise DamagedStore(
                        f"{self.remote.url}/{name}/{file} has {there} bytes instead of {size}; delete the record of "
                        f"shard {shard} there (records/{shard:06d}.json) and records/index.bin, and repeat."
                    )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.mirror).as_posix()


@contextmanager
def leased(store: Path, mirror: Path) -> Iterator[Outbox]:
    """Be the one process that writes a store of the cache in object storage, while the block runs.

    A writer that was killed on this machine is known to be dead; one on another machine is not, and its object has to
    be deleted by hand. No clock is involved.
    Raises `LockedStore` while another process writes it, `UsageError` for a storage that puts files whatever is there.
    """
    remote, prefix = Remote(bucket_of(mirror)), f".locks/{lock_path(store, mirror).name}."
    me = json.dumps(this_process()).encode()
    known = _dead(remote, prefix, store)
    mine = f"{prefix}{max((int(name.removeprefix(prefix)) for name in known), default=-1) + 1:09d}"
    try:
        put(remote, mine, me, create=True)
    except Taken as error:
        raise _locked(remote, mine, store) from error
    try:
        _check_conditions(remote, mine, me)
        for name in _dead(remote, prefix, store, but=mine):
            _remove(remote, name)
        yield Outbox(mirror, mine)
    finally:
        _remove(remote, mine)


def _check_conditions(remote: Remote, name: str, data: bytes) -> None:
    """Raise `UsageError` if a file that is there is put again although it must not be."""
    try:
        put(remote, name, data, create=True)
    except Taken:
        return
    raise UsageError(
        f"{remote.url}: the storage overwrites files whatever the condition (If-None-Match), so two extractions could "
        "mix their shards there; extract into a local cache, and send the store with `cache export STORE URL`."
    )


def _dead(remote: Remote, prefix: str, store: Path, but: str = "") -> list[str]:
    """The names of what dead writers left. but: one to ignore. Raises `LockedStore` for a living writer."""
    found = []
    for name in listed(remote, ".locks/", must_exist=False):
        if name.startswith(prefix) and name.removeprefix(prefix).isdigit() and name != but:
            with suppress(MissingCache):
                owner = fetch([Part(remote, name, limit=OWNER_BYTES)])[0].decode(errors="replace")
                if not is_dead(owner):
                    raise _locked(remote, name, store, owner)
                found.append(name)
    return found


def _locked(remote: Remote, name: str, store: Path, owner: str = "") -> LockedStore:
    return locked(store, owner, f"{remote.url}/{name}")


def _exists(remote: Remote, name: str) -> bool:
    return told(remote, name) is not None


def _remove(remote: Remote, name: str) -> None:
    system, root = remote.system()
    with suppress(FileNotFoundError):
        called(remote, name, partial(system.rm_file, f"{root}/{name}"))
