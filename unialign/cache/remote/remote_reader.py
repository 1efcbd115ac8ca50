"""Reading a store at a URL (http, s3, gs and anything else that fsspec supports), with the checks of a local one.

The content is known from `records/index.bin`, since plain web servers do not list folders: the store as of its last
finished extraction. A shard cannot be compared with its SHA-256 without fetching all of it. Instead, the length of the
file, the checksum of its index and of every chunk, and the checksum that the record has for each sample are compared;
the last one detects chunks of another sample and shards of another store.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from unialign.cache.index import decode_index
from unialign.cache.reader import Recorded
from unialign.cache.remote.block_cache import BlockCache
from unialign.cache.remote.ranges import Range, RemoteFile, kept_share, read_ranges
from unialign.cache.remote.transport import Part, Remote, fetch
from unialign.cache.schema import METADATA_BYTES
from unialign.cache.shards import ABSENT, count_chunks, decode_sample, index_bytes, read_index
from unialign.cache.store import decode_store
from unialign.cache.table import SampleTable
from unialign.errors import DamagedStore, MissingCache

LIMIT = 20 << 30
# Of a remote index; a million samples take 150 MB.
INDEX_BYTES = 1 << 30
ADVICE = "upload the store again, or run `unialign cache verify` where it was made."

Found = TypeVar("Found")
_ABSENT = int(ABSENT)


@dataclass(frozen=True)
class RemoteShard:
    """One array's file of a shard. index: (slots, chunks, 2) of (offset, bytes), as `cache.shards.read_index` gives."""

    file: RemoteFile
    index: np.ndarray

    def ranges(self, slot: int, count: int) -> list[Range]:
        """Where the first `count` chunks of a slot lie. Raises `DamagedStore` when one of them is absent."""
        rows = self.index[slot, :count].tolist()
        if any(offset == _ABSENT for offset, _ in rows):
            raise DamagedStore(f"{self.file.where}: a chunk that the record covers is missing; {ADVICE}")
        return [Range(self.file, offset, offset + size) for offset, size in rows]


class RemoteReader(Recorded):
    """Random access to the samples of a remote store by id, as of its last extraction when it was opened.

    url: of the store's folder. cache: a folder on a local disk for blocks of it, of at most `limit` bytes; readers of
        other stores and processes may use the same one. options: arguments of fsspec's file system, such as
        credentials.
    May be used by several threads at once; it is pickled as a URL, its options and its view.
    """

    def __init__(
        self,
        url: str,
        cache: Path | None = None,
        limit: int = LIMIT,
        options: Mapping[str, Any] | None = None,
        table: SampleTable | None = None,
    ) -> None:
        """Open the store. table: of a reader in another process, to see what that one sees.

        Raises `MissingCache` if there is none or its records have no index, `DamagedStore` if either was changed,
        `CacheProblem` if the server cannot be reached, `UsageError` for a scheme that fsspec cannot serve here.
        """
        self.remote = Remote(url, options)
        self.url = self.where = self.remote.url
        self.path = PurePosixPath(PurePosixPath(self.url).name)
        self.cache = BlockCache(cache, limit) if cache else None
        self.store = decode_store(
            Path(self.path), self._whole("zarr.json", METADATA_BYTES, "it is not a store."), f"{url}/zarr.json"
        )
        self.table = self._read_table() if table is None else table
        self.share = kept_share(self.table.shards.total_bytes, [self.cache])
        self._open: dict[tuple[str, int], RemoteShard] = {}

    def __reduce__(self) -> tuple[Callable[..., "RemoteReader"], tuple[Any, ...]]:
        """Pickled as a URL, its options, and the view of the samples."""
        cache, limit = (self.cache.folder, self.cache.limit) if self.cache else (None, LIMIT)
        return RemoteReader, (self.url, cache, limit, self.remote.options, self.table)

    def _read_table(self) -> SampleTable:
        index = self._whole(
            "records/index.bin",
            INDEX_BYTES,
            "a remote store is read by the index of its records: run any extraction on the store where it was made, "
            "then upload it again.",
        )
        table = decode_index(index, self.store)
        if table is None:
            raise DamagedStore(
                f"{self.url}/records/index.bin is not what an extraction wrote for a store of this name; {ADVICE}"
            )
        return table

    def read_one(self, sample: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """See `Recorded.read_one`; all arrays are fetched at once."""
        entry, place = self._entry(sample), self.place(sample)
        names = list(names or [spec.name for spec in self.store.arrays])
        specs = [self.store.array(name) for name in names]
        lengths = [entry.lengths[spec.dims[0]] if spec.ragged else None for spec in specs]
        counts = [count_chunks(spec, length) for spec, length in zip(specs, lengths, strict=True)]

        def read(fresh: bool) -> dict[str, np.ndarray]:
            shards = open_shards([(self, name, place.shard) for name in names], share=self.share, fresh=fresh)
            ranges = [shard.ranges(place.slot, count) for shard, count in zip(shards, counts, strict=True)]
            stored = iter(read_ranges([each for array in ranges for each in array], share=self.share, fresh=fresh))
            return {
                spec.name: decode_sample(
                    spec,
                    [next(stored) for _ in range(count)],
                    length,
                    codec=self.store.codec,
                    checksum=entry.checksums[spec.name],
                    name=shard.file.where,
                )
                for spec, count, length, shard in zip(specs, counts, lengths, shards, strict=True)
            }

        return once_more(read)

    def held(self, name: str, number: int) -> RemoteShard | None:
        """The shard of an array if it is open."""
        return self._open.get((name, number))

    def hold(self, name: str, number: int, shard: RemoteShard) -> RemoteShard:
        """Note an open shard."""
        self._open[name, number] = shard
        return shard

    def file(self, name: str, number: int) -> RemoteFile:
        """The file of an array in a shard. Raises `DamagedStore` if no record covers one."""
        path = self.store.shard_path(name, number).relative_to(self.store.path).as_posix()
        expected = self.table.shards.file(name, number)
        if expected is None:
            raise DamagedStore(f"{self.url}/{path}: no record covers this file.")
        return RemoteFile(self.remote, path, expected.bytes, expected.sha256, self.cache)

    def _whole(self, path: str, limit: int, otherwise: str) -> bytes:
        try:
            return fetch([Part(self.remote, path, limit=limit)])[0]
        except MissingCache as error:
            raise MissingCache(f"{str(error)[:-1]}; {otherwise}") from None


def open_shards(
    wanted: Sequence[tuple[RemoteReader, str, int]], *, share: float, fresh: bool = False
) -> list[RemoteShard]:
    """Shards by reader, array and number; the indexes of those that are not open are fetched all at once.

    share, fresh: see `read_ranges`. Raises `DamagedStore` for a file of another length, or whose index was changed.
    """
    lacking = {
        (id(reader), name, number): (reader, name, number)
        for reader, name, number in wanted
        if fresh or reader.held(name, number) is None
    }
    files = [reader.file(name, number) for reader, name, number in lacking.values()]
    ends = [index_bytes(reader.store.array(name), reader.store.shard_samples) for reader, name, _ in lacking.values()]
    ranges = [Range(file, max(file.size - end, 0), file.size) for file, end in zip(files, ends, strict=True)]
    tails = read_ranges(ranges, share=share, fresh=fresh)
    for (reader, name, number), each, tail in zip(lacking.values(), ranges, tails, strict=True):
        spec, file = reader.store.array(name), each.file
        index = read_index(spec, memoryview(tail), reader.store.shard_samples, file.where, before=each.start)
        reader.hold(name, number, RemoteShard(file, index))
    return [shard for reader, name, number in wanted if (shard := reader.held(name, number))]


def once_more(read: Callable[[bool], Found]) -> Found:
    """The result of `read(False)`, or else of `read(True)`, which bypasses the disk cache, in case that is damaged."""
    try:
        return read(False)
    except DamagedStore:
        return read(True)
