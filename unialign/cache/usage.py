"""Disk usage of a cache: apparent size, and blocks on the disk."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unialign.cache.atomic import PREFIX
from unialign.cache.inventory import iterate_stores
from unialign.cache.mirrors import check_whole
from unialign.types import Json

# The unit of `st_blocks`, independent of the file system's block size.
_BLOCK = 512


@dataclass(frozen=True)
class Usage:
    """Number of files, their total length, and their total size in disk blocks."""

    files: int = 0
    bytes: int = 0
    on_disk: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.files + other.files, self.bytes + other.bytes, self.on_disk + other.on_disk)


@dataclass(frozen=True)
class StoreUsage:
    """One store. shards: number of records. arrays: shard files, by array.

    metadata: all other files of the store. temporaries: files of killed writers, and unfinished ones of live writers.
    """

    path: Path
    shards: int
    arrays: dict[str, Usage]
    records: Usage
    metadata: Usage
    temporaries: Usage

    @property
    def total(self) -> Usage:
        """All files of the store."""
        return sum(self.arrays.values(), self.records + self.metadata + self.temporaries)


@dataclass(frozen=True)
class CacheUsage:
    """A whole cache. other: lists of datasets, locks, digests. temporaries: those next to the stores."""

    stores: tuple[StoreUsage, ...]
    other: Usage
    temporaries: Usage

    @property
    def total(self) -> Usage:
        """All files under the root."""
        return sum((store.total for store in self.stores), self.other + self.temporaries)

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints; percentages are of the bytes on disk."""
        whole = self.total
        return {
            "stores": [
                {
                    "path": str(store.path),
                    "collection": store.path.parts[-3],
                    "modality": store.path.parts[-2],
                    "name": store.path.stem,
                    "shards": store.shards,
                    **store.total.__dict__,
                    "percent": round(100 * store.total.on_disk / max(1, whole.on_disk), 2),
                    "arrays": {name: dict(usage.__dict__) for name, usage in store.arrays.items()},
                    "records": dict(store.records.__dict__),
                    "metadata": dict(store.metadata.__dict__),
                    "temporaries": dict(store.temporaries.__dict__),
                }
                for store in self.stores
            ],
            "other": dict(self.other.__dict__),
            "temporaries": dict(self.temporaries.__dict__),
            **whole.__dict__,
        }


def cache_usage(cache: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> CacheUsage:
    """Usage of a cache, file by file; links are not followed below a store and count as themselves.

    progress: called with (stores measured, stores). Files that disappear meanwhile do not count.
    """
    check_whole(cache, "cache du")
    paths = [path for path in iterate_stores(cache) if not path.name.startswith(PREFIX)]
    stores = []
    for number, path in enumerate(paths):
        progress(number, len(paths))
        stores.append(store_usage(path))
    progress(len(paths), len(paths))
    other = temporaries = Usage()
    for parts, usage in _walk(cache, frozenset(map(str, paths))):
        if any(part.startswith(PREFIX) for part in parts):
            temporaries += usage
        else:
            other += usage
    return CacheUsage(tuple(stores), other, temporaries)


def store_usage(path: Path) -> StoreUsage:
    """Usage of one store. No file is opened, so a damaged store is measured like any other."""
    arrays: dict[str, Usage] = {}
    records = metadata = temporaries = Usage()
    shards = 0
    for parts, usage in _walk(path, frozenset()):
        if any(part.startswith(PREFIX) for part in parts):
            temporaries += usage
        elif parts[0] == "records" and parts[-1].endswith(".json"):
            records, shards = records + usage, shards + 1
        elif len(parts) > 2 and parts[1] == "c":
            arrays[parts[0]] = arrays.get(parts[0], Usage()) + usage
        else:
            metadata += usage
    return StoreUsage(path, shards, dict(sorted(arrays.items())), records, metadata, temporaries)


def _walk(root: Path, without: frozenset[str]) -> Iterator[tuple[tuple[str, ...], Usage]]:
    """Every file below a folder: its path components, and its size. `without`: folders to skip."""
    pending: list[tuple[str, tuple[str, ...]]] = [(str(root), ())]
    while pending:
        folder, parts = pending.pop()
        # Extractions may be writing into the cache: a file may have been renamed since it was listed.
        with suppress(FileNotFoundError), os.scandir(folder) as found:
            for entry in found:
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        if entry.path not in without:
                            pending.append((entry.path, (*parts, entry.name)))
                    else:
                        taken = entry.stat(follow_symlinks=False)
                        yield (*parts, entry.name), Usage(1, taken.st_size, taken.st_blocks * _BLOCK)
