"""Batches from stores that cannot be mapped: compressed ones, and remote ones of any codec, in any combination.

All chunks of a batch are fetched at once (`cache.remote.ranges`), then decompressed by several threads, directly into
the rows of the batch if a chunk is entirely inside its window.

Checks. Local shards: the SHA-256 of the file, once per process, so that a window needs only the chunks that it
overlaps. Remote shards: all chunks of each sample are fetched, whatever the window, and compared with the checksum that
the record has for this sample; their own checksums alone would accept another sample's chunks. A sample is small, and a
request costs more than the chunks outside the window.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.batches.joined import Buffers, Column, Entries, Joined
from unialign.cache.codecs import CODECS, CRC_BYTES, chunk_payload, decode_into, sample_checksum
from unialign.cache.reader import Recorded, Shard, StoreReader
from unialign.cache.remote.ranges import kept_share, read_ranges
from unialign.cache.remote.remote_reader import ADVICE as REMOTE_ADVICE
from unialign.cache.remote.remote_reader import RemoteReader, once_more, open_shards
from unialign.cache.shards import ABSENT, REMEDY
from unialign.cache.threads import spread
from unialign.errors import DamagedStore

_ABSENT = int(ABSENT)


@dataclass(frozen=True)
class _Source:
    """A column at work. One of local and remote is there.

    shards, slots, checksums, lengths: (N,) of each sample. per_chunk: entries of an inner chunk; entry: bytes of one.
    opened: local shards by number.
    """

    spec: ArraySpec
    codec: str
    local: StoreReader | None
    remote: RemoteReader | None
    shards: np.ndarray
    slots: np.ndarray
    checksums: np.ndarray
    lengths: np.ndarray
    per_chunk: int
    entry: int
    opened: dict[int, Shard] = field(default_factory=dict)

    def where(self, position: int) -> str:
        """The file that holds a sample, for messages."""
        number = int(self.shards[position])
        if self.remote:
            return self.remote.file(self.spec.name, number).where
        assert self.local is not None
        return str(self.local.store.shard_path(self.spec.name, number))

    def count(self, position: int) -> int:
        """Chunks that a sample has."""
        return -(-int(self.lengths[position]) // self.per_chunk)


class _Job(NamedTuple):
    """One array of one sample: where its entries from `start` on go, and its chunks as they were stored if remote.

    row: bytes; as many entries are wanted as fit in there.
    """

    source: _Source
    position: int
    start: int
    row: np.ndarray
    stored: list[bytes]


class FetchingReader(Joined):
    """See `Joined`. May be used by several threads at once, and after a fork."""

    def __init__(self, columns: Mapping[str, Column], ids: Sequence[str], by_entry: Collection[str] = ()) -> None:
        super().__init__(columns, ids, by_entry)
        self._sources = [
            _source(column.reader, column.spec, rows, self.lengths[:, place], self.layout[place].tolist())
            for place, (column, rows) in enumerate(zip(self.columns.values(), self.rows, strict=True))
        ]
        remote = [source for source in self._sources if source.remote]
        sizes = [source.remote.table.shards.bytes.get(source.spec.name) for source in remote if source.remote]
        total = sum(int(size[size > 0].sum()) for size in sizes if size is not None)
        self._share = kept_share(total, [source.remote.cache for source in remote if source.remote])
        self._lock = threading.Lock()

    def read(
        self, positions: np.ndarray, starts: np.ndarray | None = None, buffers: Buffers | None = None
    ) -> dict[str, np.ndarray]:
        """See `Joined.read`. Raises `CacheProblem` when a server cannot be reached."""
        positions, starts, buffers = self.asked(positions, starts, buffers)
        arrays = {name: array[: len(positions)] for name, array in buffers.arrays.items()}
        if not len(positions):
            return arrays
        jobs: list[_Job] = []
        for name, source, first in zip(self.columns, self._sources, starts.T, strict=True):
            if name not in self.by_entry:
                rows = arrays[name].reshape(len(positions), -1).view(np.uint8)
                places = zip(positions.tolist(), first.tolist(), rows, strict=True)
                jobs += [_Job(source, *place, []) for place in places]
        self._fill(jobs)
        return arrays

    def entries(
        self,
        name: str,
        positions: np.ndarray,
        starts: np.ndarray | None = None,
        counts: np.ndarray | int | None = None,
    ) -> Entries:
        """See `Joined.entries`. A sample that is asked for several times is fetched and unpacked once."""
        number, positions, starts, found = self.asked_entries(name, positions, starts, counts)
        source, row = self._sources[number], found.values.reshape(-1).view(np.uint8)
        ends, bounds = starts + np.diff(found.bounds), found.bounds * source.entry
        places, which, many = np.unique(positions, return_inverse=True, return_counts=True)
        first = np.full(len(places), np.iinfo(np.int64).max)
        last = np.zeros(len(places), np.int64)
        np.minimum.at(first, which, starts)
        np.maximum.at(last, which, ends)
        # What is wanted of a sample as one stretch goes where it belongs, several stretches by way of one that has all.
        spans = [np.empty((stop - start) * source.entry, np.uint8) for start, stop in zip(first, last, strict=True)]
        for place in np.flatnonzero(many[which] == 1).tolist():
            spans[which[place]] = row[bounds[place] : bounds[place + 1]]
        self._fill(
            [_Job(source, *job, []) for job in zip(places.tolist(), first.tolist(), spans, strict=True) if len(job[2])]
        )
        for place in np.flatnonzero(many[which] > 1).tolist():
            begin = (starts[place] - first[which[place]]) * source.entry
            part = row[bounds[place] : bounds[place + 1]]
            part[:] = spans[which[place]][begin : begin + len(part)]
        return found

    def _fill(self, wanted: Sequence[_Job]) -> None:
        """Fill the rows of some jobs."""
        local = [job for job in wanted if not job.source.remote]
        remote = [job for job in wanted if job.source.remote]
        self._open(local)
        jobs = local + once_more(lambda fresh: self._fetched(remote, fresh=fresh))
        failed = spread(_unpack_all, jobs)
        broken = [job for job, _ in failed if job.source.remote]
        if len(broken) == len(failed):
            # The damage may be in the disk cache.
            failed = spread(_unpack_all, self._fetched(broken, fresh=True))
        if failed:
            job, problem = failed[0]
            advice = REMOTE_ADVICE if job.source.remote else REMEDY
            raise DamagedStore(f"{job.source.where(job.position)}: {problem}; {advice}")

    def _open(self, jobs: Sequence[_Job]) -> None:
        """Check and map the local shards that are not open yet."""
        with self._lock:
            wanted = {
                (id(job.source), number): (job.source, number)
                for job in jobs
                if (number := int(job.source.shards[job.position])) not in job.source.opened
            }
            spread(_open_local, list(wanted.values()))

    def _fetched(self, jobs: Sequence[_Job], *, fresh: bool) -> list[_Job]:
        """The same jobs with their chunks."""
        if not jobs:
            return []
        wanted = [
            (job.source.remote, job.source.spec.name, int(job.source.shards[job.position]))
            for job in jobs
            if job.source.remote
        ]
        shards = open_shards(wanted, share=self._share, fresh=fresh)
        ranges = [
            shard.ranges(int(job.source.slots[job.position]), job.source.count(job.position))
            for job, shard in zip(jobs, shards, strict=True)
        ]
        stored = iter(read_ranges([each for sample in ranges for each in sample], share=self._share, fresh=fresh))
        return [job._replace(stored=[next(stored) for _ in sample]) for job, sample in zip(jobs, ranges, strict=True)]


def _source(reader: Recorded, spec: ArraySpec, rows: np.ndarray, lengths: np.ndarray, layout: list[int]) -> _Source:
    table = reader.table
    _, per_chunk, entry, _ = layout
    return _Source(
        spec,
        reader.store.codec,
        reader if isinstance(reader, StoreReader) else None,
        reader if isinstance(reader, RemoteReader) else None,
        table.shard[rows],
        table.slot[rows],
        table.checksums[spec.name][rows],
        lengths,
        per_chunk,
        entry,
    )


def _open_local(wanted: Sequence[tuple[_Source, int]]) -> list[None]:
    for source, number in wanted:
        assert source.local is not None
        source.opened[number] = source.local.shard(source.spec.name, number)
    return []


def _unpack_all(jobs: Sequence[_Job]) -> list[tuple[_Job, str]]:
    """Fill the rows of some jobs; returns those whose chunks are not what was written, and why."""
    failed = []
    for job in jobs:
        try:
            _unpack(job, _remote_payloads(job) if job.source.remote else _local_payloads(job))
        except (ValueError, RuntimeError) as error:
            failed.append((job, str(error)))
    return failed


def _remote_payloads(job: _Job) -> Sequence[bytes | memoryview]:
    payloads = [chunk_payload(job.source.codec, chunk) for chunk in job.stored]
    if sample_checksum(payloads) != job.source.checksums[job.position]:
        raise ValueError("the chunks of a sample are not those in its record")
    return payloads


def _local_payloads(job: _Job) -> Sequence[bytes | memoryview]:
    source = job.source
    shard = source.opened[int(source.shards[job.position])]
    trailer = CRC_BYTES if CODECS[source.codec].crc else 0
    rows = shard.index[source.slots[job.position], : source.count(job.position)].tolist()
    if any(offset == _ABSENT for offset, _ in rows):
        raise ValueError("a chunk that the record covers is missing")
    return [shard.data.data[offset : offset + size - trailer] for offset, size in rows]


def _unpack(job: _Job, payloads: Sequence[bytes | memoryview]) -> None:
    """Unpack the chunks that the window touches, each one once; behind the last entry comes the first one again."""
    source = job.source
    per_chunk, entry, length = source.per_chunk, source.entry, int(source.lengths[job.position])
    window = len(job.row) // entry
    unpacked: dict[int, np.ndarray] = {}
    at, done = job.start, 0
    while done < window:
        number, within = divmod(at, per_chunk)
        run = min(per_chunk - within, length - at, window - done)
        target = job.row[done * entry : (done + run) * entry]
        if number not in unpacked:
            whole = run == per_chunk
            chunk = target if whole else np.empty(per_chunk * entry, dtype=np.uint8)
            decode_into(source.codec, payloads[number], chunk)
            unpacked[number] = chunk
        else:
            whole = False
        if not whole:
            target[:] = unpacked[number][within * entry : (within + run) * entry]
        done += run
        at = 0 if at + run == length else at + run
