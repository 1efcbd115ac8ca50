"""The content of all records of a store, as columns: a million samples take 150 MB and no Python object each.

Rows are sorted by id. A sample in several shards has one row: that of the latest shard, which supersedes the others.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unialign.cache.records import STATUSES, Entry, Record, ShardFile
from unialign.cache.schema import NoteBody, reason
from unialign.errors import DamagedStore
from unialign.types import Json

OK = STATUSES.index("ok")
# The value in a column where a sample or a shard has none.
ABSENT = -1
_SHA = "sha256:"
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Texts:
    """Strings of any length, concatenated. ends: (N,) int64, the end of each; data: (bytes,) uint8."""

    ends: np.ndarray
    data: np.ndarray

    def __getitem__(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        return bytes(self.data[start : int(self.ends[row])]).decode()

    def take(self, rows: np.ndarray) -> "Texts":
        """The strings of these rows, in their order."""
        lengths = np.diff(self.ends, prepend=0)[rows]
        data, starts = self.data.data, self.ends[rows] - lengths
        parts = [data[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
        return Texts(np.cumsum(lengths), np.frombuffer(b"".join(parts), dtype=np.uint8))


def texts(values: Iterable[str]) -> Texts:
    """Those strings, concatenated."""
    encoded = [value.encode() for value in values]
    ends = np.cumsum([len(value) for value in encoded], dtype=np.int64)
    return Texts(ends.astype("<i8"), np.frombuffer(b"".join(encoded), dtype=np.uint8))


@dataclass(frozen=True)
class Shards:
    """The shards that have a record: their numbers, ascending, and for each array its file.

    samples: slots that each one fills. record_bytes: size of each record's file. bytes: by array, (S,) int64, -1 where
    the shard has none. sha256: by array, (S, 32) uint8.
    """

    numbers: np.ndarray
    samples: np.ndarray
    record_bytes: np.ndarray
    bytes: Mapping[str, np.ndarray]
    sha256: Mapping[str, np.ndarray]

    def file(self, name: str, shard: int) -> ShardFile | None:
        """Size and checksum of one array's file; None if no record covers one."""
        row = int(np.searchsorted(self.numbers, shard))
        if name not in self.bytes or row == len(self.numbers) or self.numbers[row] != shard:
            return None
        size = int(self.bytes[name][row])
        return None if size == ABSENT else ShardFile(size, self.sha256[name][row].tobytes().hex())

    @property
    def total_bytes(self) -> int:
        """Bytes of all shard files."""
        return int(sum(sizes[sizes != ABSENT].sum() for sizes in self.bytes.values()))


@dataclass(frozen=True)
class SampleTable:
    """One row per sample, sorted by id.

    names: (N,) ids as UTF-8 bytes. status: (N,) uint8, indices into `records.STATUSES`. shard, slot: (N,) int32.
    source: (N, 32) uint8, the SHA-256 of what it was made from, zeros if there was nothing to read.
    lengths: by ragged axis, (N,) int32, -1 without features. checksums: by array, (N,) int64, -1 without features.
    notes: JSON of the other content of an entry: its detail, and a source that is not a SHA-256; "" if there is none.
    """

    names: np.ndarray
    status: np.ndarray
    shard: np.ndarray
    slot: np.ndarray
    source: np.ndarray
    lengths: Mapping[str, np.ndarray]
    checksums: Mapping[str, np.ndarray]
    notes: Texts
    shards: Shards

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of all samples, sorted."""
        return _decoded(self.names)

    @property
    def ok(self) -> np.ndarray:
        """(N,) bool: which samples have features."""
        return np.asarray(self.status == OK)

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """(len(ids),) int64: the row of each sample, -1 if no record names it."""
        found = np.full(len(ids), ABSENT, dtype=np.int64)
        # In blocks, since a million ids as strings would take 100 MB.
        for start in range(0, len(ids) if len(self) else 0, _BLOCK):
            wanted = encoded(ids[start : start + _BLOCK])
            rows = np.searchsorted(self.names, wanted)
            rows[rows == len(self)] = 0
            found[start : start + _BLOCK] = np.where(self.names[rows] == wanted, rows, ABSENT)
        return found

    def row(self, sample: str) -> int:
        """The row of one sample, -1 if no record names it."""
        name = sample.encode()
        row = int(np.searchsorted(self.names, np.bytes_(name)))
        return row if row < len(self) and self.names[row] == name else ABSENT

    def source_of(self, row: int) -> str:
        """Digest of what a sample was made from, "" when there was nothing to read. Raises as `entry` does."""
        digest = self.source[row]
        if digest.any():
            return _SHA + bytes(digest).hex()
        return self._note(row).source

    def _note(self, row: int) -> NoteBody:
        try:
            return NoteBody.model_validate_json(self.notes[row] or "{}")
        except ValueError as error:
            raise DamagedStore(
                f"records/index.bin: what it says of sample {bytes(self.names[row]).decode()!r} cannot be read "
                f"({reason(error)}); delete that file, then extract again."
            ) from error

    def sources_of(self, rows: np.ndarray) -> Iterator[str]:
        """The same for many samples, in the order of `rows`, in blocks."""
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            digests = self.source[block]
            known, spelled = digests.any(axis=1).tolist(), digests.tobytes().hex()
            for place, row in enumerate(block.tolist()):
                yield _SHA + spelled[64 * place : 64 * place + 64] if known[place] else self.source_of(row)

    def entry(self, row: int) -> Entry:
        """The record's entry of a sample. Raises `DamagedStore` if the index differs from it."""
        return Entry(
            id=bytes(self.names[row]).decode(),
            status=STATUSES[self.status[row]],
            source=self.source_of(row),
            lengths={axis: int(column[row]) for axis, column in self.lengths.items() if column[row] != ABSENT},
            detail=self._note(row).detail,
            checksums={name: int(column[row]) for name, column in self.checksums.items() if column[row] != ABSENT},
        )


def encoded(ids: Sequence[str]) -> np.ndarray:
    """Ids as an array of UTF-8 bytes; sorting it is sorting the ids. Raises `ValueError` for an id with a NUL."""
    joined = "\0".join(ids)
    if joined.count("\0") != len(ids) - 1:
        raise ValueError("an id holds a NUL character")
    return np.array(joined.encode().split(b"\0"))


def _decoded(names: np.ndarray) -> tuple[str, ...]:
    return tuple(b"\0".join(names.tolist()).decode().split("\0")) if len(names) else ()


def table_of(records: Sequence[Record], record_bytes: Sequence[int]) -> SampleTable:
    """The table of some records, given in shard order with the sizes of their files."""
    entries = [(entry, record.shard, slot) for record in records for slot, entry in enumerate(record.entries)]
    shas = [bytes.fromhex(entry.source[len(_SHA) :]) if _is_sha(entry.source) else bytes(32) for entry, _, _ in entries]
    axes = sorted({axis for entry, _, _ in entries for axis in entry.lengths})
    arrays = sorted({name for entry, _, _ in entries for name in entry.checksums})
    files = sorted({name for record in records for name in record.files})
    whole = SampleTable(
        names=encoded([entry.id for entry, _, _ in entries]) if entries else np.empty(0, dtype="S1"),
        status=np.array([STATUSES.index(entry.status) for entry, _, _ in entries], dtype=np.uint8),
        shard=np.array([shard for _, shard, _ in entries], dtype=np.int32),
        slot=np.array([slot for _, _, slot in entries], dtype=np.int32),
        source=np.frombuffer(b"".join(shas), dtype=np.uint8).reshape(-1, 32),
        lengths={axis: _column([e.lengths.get(axis, ABSENT) for e, _, _ in entries], np.int32) for axis in axes},
        checksums={name: _column([e.checksums.get(name, ABSENT) for e, _, _ in entries], np.int64) for name in arrays},
        notes=texts(_notes(entry) for entry, _, _ in entries),
        shards=Shards(
            numbers=np.array([record.shard for record in records], dtype=np.int32),
            samples=np.array([len(record.entries) for record in records], dtype=np.int32),
            record_bytes=np.array(record_bytes, dtype=np.int64),
            bytes={name: _column([_size(record, name) for record in records], np.int64) for name in files},
            sha256={name: _digests(records, name) for name in files},
        ),
    )
    return _latest(whole)


def merged(first: SampleTable, second: SampleTable) -> SampleTable:
    """Both tables as one; `second` supersedes. The shards of `second` are later ones or other ones."""
    parts = (first, second)
    counts = [len(part) for part in parts]
    order = np.argsort(np.concatenate([part.shards.numbers for part in parts]), kind="stable")
    num_shards = [len(part.shards.numbers) for part in parts]
    files = sorted({name for part in parts for name in part.shards.bytes})
    blank = [np.zeros((num, 32), dtype=np.uint8) for num in num_shards]
    notes = [part.notes for part in parts]
    whole = SampleTable(
        names=np.concatenate([part.names for part in parts]),
        status=np.concatenate([part.status for part in parts]),
        shard=np.concatenate([part.shard for part in parts]),
        slot=np.concatenate([part.slot for part in parts]),
        source=np.concatenate([part.source for part in parts]),
        lengths=_stacked([part.lengths for part in parts], counts, np.int32),
        checksums=_stacked([part.checksums for part in parts], counts, np.int64),
        notes=Texts(
            np.concatenate([notes[0].ends, notes[1].ends + notes[0].data.size]),
            np.concatenate([notes[0].data, notes[1].data]),
        ),
        shards=Shards(
            numbers=np.concatenate([part.shards.numbers for part in parts])[order],
            samples=np.concatenate([part.shards.samples for part in parts])[order],
            record_bytes=np.concatenate([part.shards.record_bytes for part in parts])[order],
            bytes={
                name: column[order]
                for name, column in _stacked([part.shards.bytes for part in parts], num_shards, np.int64).items()
            },
            sha256={
                name: np.concatenate(
                    [part.shards.sha256.get(name, none) for part, none in zip(parts, blank, strict=True)]
                )[order]
                for name in files
            },
        ),
    )
    return _latest(whole)


def _latest(table: SampleTable) -> SampleTable:
    """Sorted by id, and of several rows of one sample only that of the latest shard."""
    order = np.lexsort((table.slot, table.shard, table.names))
    names = table.names[order]
    last = np.append(names[1:] != names[:-1], True) if len(names) else np.empty(0, dtype=bool)
    rows = order[last]
    if np.array_equal(rows, np.arange(len(table))):
        return table
    return SampleTable(
        names=table.names[rows],
        status=table.status[rows],
        shard=table.shard[rows],
        slot=table.slot[rows],
        source=table.source[rows],
        lengths={axis: column[rows] for axis, column in table.lengths.items()},
        checksums={name: column[rows] for name, column in table.checksums.items()},
        notes=table.notes.take(rows),
        shards=table.shards,
    )


def _is_sha(source: str) -> bool:
    digest = source.removeprefix(_SHA)
    return (
        source.startswith(_SHA)
        and len(digest) == 64
        and set(digest) <= set("0123456789abcdef")
        and set(digest) != {"0"}
    )


def _notes(entry: Entry) -> str:
    notes: dict[str, Json] = {"detail": dict(entry.detail)} if entry.detail else {}
    if entry.source and not _is_sha(entry.source):
        notes["source"] = entry.source
    return json.dumps(notes, sort_keys=True, separators=(",", ":"), ensure_ascii=False) if notes else ""


def _column(values: Sequence[int], kind: type) -> np.ndarray:
    return np.array(values, dtype=kind)


def _size(record: Record, name: str) -> int:
    return record.files[name].bytes if name in record.files else ABSENT


def _digests(records: Sequence[Record], name: str) -> np.ndarray:
    found = [bytes.fromhex(record.files[name].sha256) if name in record.files else bytes(32) for record in records]
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, 32)


def _stacked(columns: Sequence[Mapping[str, np.ndarray]], counts: Sequence[int], kind: type) -> dict[str, np.ndarray]:
    names = sorted({name for each in columns for name in each})
    return {
        name: np.concatenate(
            [
                each[name] if name in each else np.full(count, ABSENT, dtype=kind)
                for each, count in zip(columns, counts, strict=True)
            ]
        )
        for name in names
    }
