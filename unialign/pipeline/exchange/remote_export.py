"""A store copied to a folder behind a URL (object storage), where `train.stores` and `open_store` read it.

Shard files go first, then the record of their shard, and the index last: whoever reads meanwhile sees the store as of
the last index, and an interrupted copy goes on where it was. Records and metadata are put on the condition that nothing
is there yet, where the storage knows conditions (S3); so two writers cannot mix two stores. Larger files go in parts.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from unialign.cache.digests import file_digest
from unialign.cache.index import index_path, load_table
from unialign.cache.reader import StoreReader, check_sizes
from unialign.cache.records import list_records, read_record
from unialign.cache.remote.mirror import listed
from unialign.cache.remote.putting import Taken, is_s3, put
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.cache.remote.transport import Part, Remote, fetch
from unialign.cache.store import Store, open_store
from unialign.errors import CacheProblem, DamagedStore, UsageError

Progress = Callable[[int, int], None]

# Units of work that are sent at a time.
AT_ONCE = 8
ADVICE = "run `unialign cache verify` where it lies."


@dataclass(frozen=True)
class _Unit:
    """Files of which the last one says that the others are there. digests: SHA-256 of each, as far as it is known."""

    files: tuple[Path, ...]
    digests: Mapping[Path, str]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def export_remote(
    path: Path, url: str, progress: Progress = lambda done, total: None, *, overwrite: bool = False
) -> tuple[str, int]:
    """Copy the store at `path` below a URL, under its own name; returns the URL of the copy and the bytes sent.

    What is there already is not sent again. overwrite: replace what differs. progress: called with bytes done and all.
    Raises `DamagedStore` for a local file that is not what its record says, `UsageError` for a URL that takes no files
    or holds something else under this name, `CacheProblem` if the storage fails.
    """
    store = open_store(path)
    table = load_table(store, strict=True)
    check_sizes(store, table, ADVICE)
    if not index_path(path).is_file():
        raise UsageError(f"{path} has no index yet; let its extraction end, or repeat it, and export then.")
    # Object stores have no folders; elsewhere they are made as files need them.
    remote = Remote(f"{url.rstrip('/')}/{path.name}", {"auto_mkdir": True} if url.startswith("file:") else {})
    if remote.web:
        raise UsageError(f"{url}: a web server takes no files; give s3://, gs:// or another storage.")
    target = _Target(remote, path, overwrite=overwrite)
    units = list(_units(store))
    total, done, sent = sum(unit.bytes for unit in units) + index_path(path).stat().st_size, 0, 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for unit, more in zip(units, pool.map(target.put_unit, units), strict=True):
            done, sent = done + unit.bytes, sent + more
            progress(done, total)
    sent += target.put(index_path(path), replace=True)
    progress(total, total)
    if RemoteReader(remote.url).sources() != StoreReader(path).sources():
        raise CacheProblem(f"{remote.url} does not say what {path} says; another command wrote there. Repeat this one.")
    return remote.url, sent


def _units(store: Store) -> Iterator[_Unit]:
    """The metadata, then each shard with its record."""
    groups = [store.path / spec.name / "zarr.json" for spec in store.arrays]
    yield _Unit((*groups, store.path / "zarr.json"), {})
    for path in list_records(store.path):
        record = read_record(path)
        digests = {store.shard_path(name, record.shard): f"sha256:{file.sha256}" for name, file in record.files.items()}
        yield _Unit((*digests, path), digests)


class _Target:
    """The copy. known: sizes of the files that are there, by name."""

    def __init__(self, remote: Remote, store: Path, *, overwrite: bool) -> None:
        self.remote, self.store, self.overwrite = remote, store, overwrite
        self.conditions = is_s3(remote)
        self.known = {name: int(info.get("size") or 0) for name, info in listed(remote, must_exist=False).items()}

    def put_unit(self, unit: _Unit) -> int:
        """Send what is not there of a unit, its last file last; returns the bytes sent."""
        *first, last = unit.files
        if self._name(last) in self.known and not self._is_there(last) and not self.overwrite:
            raise self._other(self._name(last))
        if self._is_there(last) and all(self.known.get(self._name(path)) == path.stat().st_size for path in first):
            return 0
        for path, digest in unit.digests.items():
            if file_digest(path) != digest:
                raise DamagedStore(f"{path} is not what its record says; {ADVICE}")
        # Shards have no conditions: without their record nobody reads them.
        sent = sum(self.put(path, replace=path in unit.digests) for path in first)
        return sent + self.put(last)

    def put(self, path: Path, *, replace: bool = False) -> int:
        """Send a file; without `replace` only if nothing is there, or the same. Returns the bytes sent."""
        name, size = self._name(path), path.stat().st_size
        if not replace and self._is_there(path):
            return 0
        replace = replace or self.overwrite
        if name in self.known and not replace:
            raise self._other(name)
        try:
            put(self.remote, name, path, create=self.conditions and not replace)
        except Taken as error:
            raise self._other(name) from error
        return size

    def _name(self, path: Path) -> str:
        return path.relative_to(self.store).as_posix()

    def _is_there(self, path: Path) -> bool:
        """Whether a file of that size is there, with the same bytes; only for small files."""
        name = self._name(path)
        data = path.read_bytes()
        return self.known.get(name) == len(data) and fetch([Part(self.remote, name, limit=len(data))]) == [data]

    def _other(self, name: str) -> UsageError:
        return UsageError(
            f"{self.remote.url}/{name} is there and says something else: another extraction was copied to this place. "
            "Give another URL, or --overwrite."
        )
