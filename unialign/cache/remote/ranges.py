"""Ranges of remote shard files, from the disk cache or the network: neighbors are fetched as one, runs in parallel.

The result is not verified here: readers compare the checksums of chunks and samples.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from unialign.cache.remote.block_cache import BlockCache
from unialign.cache.remote.transport import Part, Remote, fetch
from unialign.cache.threads import pool
from unialign.errors import DamagedStore, MissingCache, UsageError

# Ranges of one file with a smaller gap between them are fetched as one, up to the size of a run.
GAP, RUN = 64 << 10, 4 << 20
# Number of runs that are fetched before the first of them is used.
IN_FLIGHT = 64 << 20


@dataclass(frozen=True, eq=False)
class RemoteFile:
    """A file as its record describes it. path: below the remote folder. cache: None if no blocks are kept."""

    remote: Remote
    path: str
    size: int
    sha256: str
    cache: BlockCache | None

    @property
    def where(self) -> str:
        """Its URL."""
        return f"{self.remote.url}/{self.path}"

    def key(self, number: int, block: int) -> str:
        """The name of a block by its content, which the record's checksum stands for."""
        return hashlib.sha256(f"{self.sha256} {block} {number}".encode()).hexdigest()


class Range(NamedTuple):
    """Bytes start to stop of a file."""

    file: RemoteFile
    start: int
    stop: int


@dataclass
class _Run:
    """What one request fetches. members: places of the wanted ranges inside. blocks: to be kept, number to key."""

    file: RemoteFile
    start: int
    stop: int
    members: list[int] = field(default_factory=list)
    blocks: dict[int, str] = field(default_factory=dict)


def read_ranges(wanted: Sequence[Range], *, share: float = 1.0, fresh: bool = False) -> list[bytes]:
    """The bytes of those ranges.

    share: of all blocks, how many the disk cache is to keep (`kept_share`); the others are fetched by exact ranges.
    fresh: fetch anew what the disk cache holds.
    Raises `DamagedStore` for a file that is missing, or shorter or longer than its record says; `CacheProblem` when the
    server cannot be reached; `UsageError` for one that ignores ranges.
    """
    found: list[bytes] = [b""] * len(wanted)

    def cut(run: _Run, data: bytes) -> None:
        for place in run.members:
            found[place] = data[wanted[place].start - run.start : wanted[place].stop - run.start]

    lacking = []
    for run in _touching(wanted):
        keys = _kept_keys(run, share)
        held = None if fresh or not keys else _held(run, keys)
        if held is not None:
            cut(run, held)
        else:
            lacking.append(_widened(run, keys))
    for group in _groups(_joined(lacking)):
        for run, data in zip(group, _fetched(group), strict=True):
            cut(run, data)
            _keep(run, data)
    return found


def kept_share(total: int, caches: Iterable[BlockCache | None]) -> float:
    """The fraction of the blocks of files of `total` bytes that a disk cache can hold.

    Epochs in random order access everything exactly once: a cache that is too small and stores everything would evict
    most blocks before they are used again. Instead, a fixed part of them is kept.
    """
    limits = [cache.limit for cache in caches if cache is not None]
    return min(1.0, 0.8 * min(limits) / max(total, 1)) if limits else 0.0


def _touching(wanted: Sequence[Range]) -> list[_Run]:
    """The ranges in their order, those that go on where the last one ends as one: the chunks of a sample mostly do."""
    runs: list[_Run] = []
    for place, (file, start, stop) in enumerate(wanted):
        if runs and runs[-1].file is file and runs[-1].stop == start:
            runs[-1].stop = stop
            runs[-1].members.append(place)
        else:
            runs.append(_Run(file, start, stop, [place]))
    return runs


def _kept_keys(run: _Run, share: float) -> dict[int, str]:
    """The blocks that a run lies in, number to key; none if not all of them are to be kept."""
    cache = run.file.cache
    if cache is None:
        return {}
    numbers = range(run.start // cache.block, (run.stop - 1) // cache.block + 1)
    keys = {number: run.file.key(number, cache.block) for number in numbers}
    return keys if all(cache.admits(key, share) for key in keys.values()) else {}


def _held(run: _Run, keys: dict[int, str]) -> bytes | None:
    cache = run.file.cache
    assert cache is not None
    parts = []
    for number, key in keys.items():
        first = number * cache.block
        part = cache.read(key, max(run.start - first, 0), min(run.stop - first, cache.block))
        if part is None:
            return None
        parts.append(part)
    return b"".join(parts)


def _widened(run: _Run, keys: dict[int, str]) -> _Run:
    """The run with the whole of the blocks that are to be kept."""
    if not keys or run.file.cache is None:
        return run
    block = run.file.cache.block
    return _Run(run.file, min(keys) * block, min((max(keys) + 1) * block, run.file.size), run.members, keys)


def _joined(runs: list[_Run]) -> list[_Run]:
    """Neighbors as one. Ranges that overlap always are, so that each lies in one run."""
    joined: list[_Run] = []
    for run in sorted(runs, key=lambda run: (run.file.where, run.start)):
        last = joined[-1] if joined else None
        if last and last.file is run.file and _near(last, run):
            last.stop = max(last.stop, run.stop)
            last.members += run.members
            last.blocks |= run.blocks
        else:
            joined.append(run)
    return joined


def _near(last: _Run, run: _Run) -> bool:
    return run.start < last.stop or (run.start - last.stop <= GAP and run.stop - last.start <= RUN)


def _groups(runs: list[_Run]) -> Iterator[list[_Run]]:
    group: list[_Run] = []
    size = 0
    for run in runs:
        if group and size + run.stop - run.start > IN_FLIGHT:
            yield group
            group, size = [], 0
        group.append(run)
        size += run.stop - run.start
    if group:
        yield group


def _fetched(runs: list[_Run]) -> list[bytes]:
    """The bytes of each run. At the end of a file one byte more is asked for, which shows whether it is longer."""
    parts = [Part(run.file.remote, run.file.path, run.start, run.stop + (run.stop == run.file.size)) for run in runs]
    try:
        found = fetch(parts)
    except MissingCache as error:
        raise DamagedStore(f"{str(error)[:-1]}, but the index of the store names it; upload it again.") from None
    for part, run, data in zip(parts, runs, found, strict=True):
        asked = run.stop + (run.stop == run.file.size) - run.start
        if len(data) > asked:
            raise UsageError(
                f"{part.where}: the server ignores ranges and sends whole files; serve the store by another one."
            )
        if len(data) != run.stop - run.start:
            raise DamagedStore(
                f"{part.where} is not {run.file.size} bytes long, as its record says; upload the store again."
            )
    return found


def _keep(run: _Run, data: bytes) -> None:
    cache = run.file.cache
    if cache is None:
        return
    firsts = {number: number * cache.block - run.start for number in run.blocks}
    blocks = [(key, data[firsts[number] : firsts[number] + cache.block]) for number, key in run.blocks.items()]
    # Each write waits for the disk; in parallel they wait only once.
    list(pool().map(lambda block: cache.write(*block), blocks))
