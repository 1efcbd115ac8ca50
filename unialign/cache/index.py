"""One file with the content of all records of a store, so that a store of a million samples opens quickly.

It is built from the records and never trusted over them: it is used only while every record that it covers exists with
the same size, and its own SHA-256 is correct. Newer records are read one by one. Withdrawing a shard deletes the index
first.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from unialign.cache import atomic
from unialign.cache.bounded import check_inside, read_plain
from unialign.cache.checks import check_table
from unialign.cache.records import Record, read_record, record_path, shard_of
from unialign.cache.schema import IndexHead
from unialign.cache.store import Store
from unialign.cache.table import SampleTable, Shards, Texts, merged, table_of
from unialign.errors import DamagedStore
from unialign.types import Json

FORMAT = 1
NAME = "index.bin"
# A million samples take 150 MB.
INDEX_BYTES = 4 << 30
# Samples whose records are read before they become a table.
_BLOCK = 1 << 15
_ALIGN, _SHA_BYTES = 64, 32

# The type of each column, and its shape after the first axis; `names` are as wide as the longest id.
_COLUMNS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "status": ("|u1", ()),
    "shard": ("<i4", ()),
    "slot": ("<i4", ()),
    "source": ("|u1", (32,)),
    "notes.ends": ("<i8", ()),
    "notes.data": ("|u1", ()),
    "shards.numbers": ("<i4", ()),
    "shards.samples": ("<i4", ()),
    "shards.record_bytes": ("<i8", ()),
}
_FAMILIES: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "lengths": ("<i4", ()),
    "checksums": ("<i8", ()),
    "bytes": ("<i8", ()),
    "sha256": ("|u1", (32,)),
}
_OF_SHARDS = {"shards.numbers", "shards.samples", "shards.record_bytes", "bytes", "sha256"}
_ID_TYPE = re.compile(r"\|S[1-9][0-9]{0,4}")
_MAX_HEAD = 1 << 20


def index_path(store: Path) -> Path:
    """Path of the index of a store."""
    return store / "records" / NAME


def load_table(store: Store, *, strict: bool = False) -> SampleTable:
    """The content of all records of a store, checked against its arrays.

    Raises `DamagedStore` for a record that was changed or that does not fit the store.
    strict: also for a record that the index names but that was deleted by hand.
    """
    known = read_index(store)
    sizes = record_sizes(store.path)
    if known is None:
        return _read_records(store, sizes)
    if not _covers(known, sizes):
        lost = lost_records(known, sizes)
        # A writer that withdraws shards deletes the index before it deletes records.
        if strict and lost and index_path(store.path).exists():
            raise DamagedStore(f"{record_path(store.path, lost[0])} is missing; run `unialign cache verify`.")
        return _read_records(store, sizes)
    covered = set(known.shards.numbers.tolist())
    fresh = {shard: size for shard, size in sizes.items() if shard not in covered}
    return merged(known, _read_records(store, fresh)) if fresh else known


def write_index(store: Store) -> None:
    """Update the index from the records, if needed. Only the writer of a store calls this."""
    sizes = record_sizes(store.path)
    known = read_index(store)
    if known is None:
        forget_index(store.path)
    if sizes and not (known and _covers(known, sizes) and len(known.shards.numbers) == len(sizes)):
        path = index_path(store.path)
        check_inside(store.path, path)
        atomic.write_parts(path, _encoded(load_table(store), store.name))


def forget_index(store: Path) -> None:
    """Delete the index, before a record that it covers is deleted."""
    check_inside(store, index_path(store))
    atomic.remove(index_path(store))


def forget_shard(store: Store, shard: int) -> None:
    """Withdraw a shard: first the index and its record, so that no reader trusts the files, then the files."""
    forget_index(store.path)
    for path in (record_path(store.path, shard), *(store.path / spec.name / "c" / str(shard) for spec in store.arrays)):
        check_inside(store.path, path)
        atomic.remove(path)


def read_index(store: Store) -> SampleTable | None:
    """The table in the index; None if there is none, or it is not what was written."""
    try:
        return decode_index(read_plain(index_path(store.path), INDEX_BYTES), store)
    except OSError:
        # Nothing is lost: the records hold the same data.
        return None


def decode_index(data: bytes, store: Store) -> SampleTable | None:
    """The table in the bytes of an index; None if they are not what was written for this store."""
    if hashlib.sha256(memoryview(data)[:-_SHA_BYTES]).digest() != data[-_SHA_BYTES:]:
        return None
    try:
        table = _decoded(data, store.name)
        if table is not None:
            check_table(store, table)
    except (ValueError, KeyError):
        return None
    return table


def check_index(store: Store, records: Sequence[Record]) -> list[tuple[int | None, str, str]]:
    """What is wrong with the index: (shard, file, problem). records: those that can be read, in shard order."""
    name = f"records/{NAME}"
    if not os.path.lexists(index_path(store.path)):
        return []
    table, sizes = read_index(store), record_sizes(store.path)
    if table is None:
        return [(None, name, "the index of records was changed; the next extraction writes it anew")]
    found: list[tuple[int | None, str, str]] = [
        (shard, f"records/{record_path(store.path, shard).name}", "missing") for shard in lost_records(table, sizes)
    ]
    covered = set(table.shards.numbers.tolist())
    made = table_of(
        [record for record in records if record.shard in covered],
        [sizes[record.shard] for record in records if record.shard in covered],
    )
    if not found and covered <= {record.shard for record in records} and _encoded(made, "") != _encoded(table, ""):
        found.append((None, name, "the index says other things than the records; delete it, then extract again"))
    return found


def record_sizes(store: Path) -> dict[int, int]:
    """Size of each record's file by shard number, ascending; nothing is opened."""
    sizes: dict[int, int] = {}
    # A record that is being withdrawn or pruned may be gone.
    with suppress(FileNotFoundError), os.scandir(store / "records") as found:
        for each in found:
            shard = shard_of(each.name)
            if shard is not None:
                with suppress(FileNotFoundError):
                    sizes[shard] = each.stat(follow_symlinks=False).st_size
    return dict(sorted(sizes.items()))


def lost_records(table: SampleTable, sizes: dict[int, int]) -> list[int]:
    """Shards in the table of an index whose record is gone."""
    return sorted(set(table.shards.numbers.tolist()) - sizes.keys())


def _covers(table: SampleTable, sizes: dict[int, int]) -> bool:
    covered = zip(table.shards.numbers.tolist(), table.shards.record_bytes.tolist(), strict=True)
    return all(sizes.get(shard) == size for shard, size in covered)


def _read_records(store: Store, sizes: dict[int, int]) -> SampleTable:
    table = _joined([*_blocks(store, sizes)])
    try:
        check_table(store, table)
    except ValueError as error:
        raise DamagedStore(f"{store.path / 'records'}: {error}; run `unialign extract MODALITY --repair`.") from error
    return table


def _blocks(store: Store, sizes: dict[int, int]) -> Iterator[SampleTable]:
    """The records as tables, in shard order: an entry takes ten times the memory of its row."""
    records: list[Record] = []
    block: list[int] = []
    samples = 0
    for shard, size in sizes.items():
        if samples >= _BLOCK:
            yield table_of(records, block)
            records, block, samples = [], [], 0
        records.append(read_record(record_path(store.path, shard)))
        block.append(size)
        samples += len(records[-1].entries)
    yield table_of(records, block)


def _joined(tables: list[SampleTable]) -> SampleTable:
    """Tables in shard order as one, by halves: each row is copied a few times, however many tables there are."""
    while len(tables) > 1:
        pairs = range(0, len(tables), 2)
        tables = [merged(*tables[place : place + 2]) if place + 1 < len(tables) else tables[place] for place in pairs]
    return tables[0]


def _columns(table: SampleTable) -> Iterator[tuple[str, np.ndarray]]:
    yield from (("names", table.names), ("status", table.status), ("shard", table.shard), ("slot", table.slot))
    yield from (("source", table.source), ("notes.ends", table.notes.ends), ("notes.data", table.notes.data))
    yield from ((f"lengths/{axis}", column) for axis, column in sorted(table.lengths.items()))
    yield from ((f"checksums/{name}", column) for name, column in sorted(table.checksums.items()))
    yield from (("shards.numbers", table.shards.numbers), ("shards.samples", table.shards.samples))
    yield "shards.record_bytes", table.shards.record_bytes
    yield from ((f"bytes/{name}", column) for name, column in sorted(table.shards.bytes.items()))
    yield from ((f"sha256/{name}", column) for name, column in sorted(table.shards.sha256.items()))


def _encoded(table: SampleTable, store: str) -> list[bytes]:
    """One line of JSON (the store's name, and each column's name, type, shape and offset), the columns, their
    SHA-256.
    """
    header: list[Json] = []
    parts: list[bytes] = []
    offset = 0
    for name, column in _columns(table):
        data = np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")).tobytes()
        header.append([name, column.dtype.newbyteorder("<").str, list(column.shape), offset])
        padded = data + bytes(-len(data) % _ALIGN)
        parts.append(padded)
        offset += len(padded)
    line = json.dumps({"format": FORMAT, "store": store, "columns": header}).encode()
    parts.insert(0, line + b" " * (-(len(line) + 1) % _ALIGN) + b"\n")
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return [*parts, checksum.digest()]


def _kind(name: str) -> tuple[str, tuple[int, ...]] | None:
    """Type and shape after the first axis of a column; None for an unknown column."""
    prefix, _, rest = name.partition("/")
    return _FAMILIES.get(prefix) if rest else _COLUMNS.get(name)


def _decoded(data: bytes, store: str) -> SampleTable | None:
    """The columns, each with its fixed type. Raises `ValueError` or `KeyError` for others."""
    end = data.index(b"\n", 0, _MAX_HEAD) + 1
    header = IndexHead.model_validate_json(data[:end])
    if header.store != store:
        return None
    columns: dict[str, np.ndarray] = {}
    for name, kind, shape, offset in header.columns:
        expected = _kind(name)
        ids = name == "names" and len(shape) == 1 and _ID_TYPE.fullmatch(kind)
        if not ids and expected != (kind, shape[1:]):
            raise ValueError(f"column {name} is of type {kind}")
        count = math.prod(shape)
        if end + offset + count * np.dtype(kind).itemsize > len(data) - _SHA_BYTES:
            raise ValueError(f"column {name} reaches beyond the end")
        columns[name] = np.frombuffer(data, dtype=kind, count=count, offset=end + offset).reshape(shape)
    rows, shards = len(columns["names"]), len(columns["shards.numbers"])
    for name, column in columns.items():
        wanted = shards if name.partition("/")[0] in _OF_SHARDS else rows
        if name != "notes.data" and len(column) != wanted:
            raise ValueError(f"column {name} has {len(column)} rows instead of {wanted}")

    def group(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): column for name, column in columns.items() if name.startswith(prefix)}

    return SampleTable(
        names=columns["names"],
        status=columns["status"],
        shard=columns["shard"],
        slot=columns["slot"],
        source=columns["source"],
        lengths=group("lengths/"),
        checksums=group("checksums/"),
        notes=Texts(columns["notes.ends"], columns["notes.data"]),
        shards=Shards(
            numbers=columns["shards.numbers"],
            samples=columns["shards.samples"],
            record_bytes=columns["shards.record_bytes"],
            bytes=group("bytes/"),
            sha256=group("sha256/"),
        ),
    )
