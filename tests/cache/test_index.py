"""Contract of a store's index: it says at once what the records say, and counts only while they are unchanged."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.test_store import build
from unialign.cache.index import (
    _blocks,
    _columns,
    forget_index,
    forget_shard,
    index_path,
    load_table,
    read_index,
    record_sizes,
    write_index,
)
from unialign.cache.reader import StoreReader
from unialign.cache.records import STATUSES, Entry, Record, ShardFile, record_path, write_record
from unialign.cache.store import Store
from unialign.cache.table import SampleTable, encoded, merged, table_of
from unialign.cache.verify import verify_store
from unialign.errors import DamagedStore

names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=12)
entries = st.builds(
    Entry,
    id=names,
    status=st.sampled_from(STATUSES),
    source=st.one_of(st.just(""), st.just("text"), st.integers(1, 2**200).map(lambda n: f"sha256:{n:064x}")),
    detail=st.one_of(st.just({}), st.dictionaries(names, st.integers(), max_size=2)),
)


def filled(entry: Entry) -> Entry:
    if entry.status != "ok":
        return entry
    return Entry(entry.id, "ok", entry.source, {"frame": len(entry.id)}, entry.detail, {"x": hash(entry.id) % 2**32})


def made(shard: int, listed: list[Entry]) -> Record:
    unique = {entry.id: filled(entry) for entry in listed}
    files = {"x": ShardFile(10 + shard, f"{shard + 1:064x}")} if any(e.status == "ok" for e in unique.values()) else {}
    return Record(shard, tuple(unique.values()), files)


def same(first: SampleTable, second: SampleTable) -> bool:
    left, right = dict(_columns(first)), dict(_columns(second))
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def columns_agree(table: SampleTable, records: list[Record]) -> None:
    latest = {entry.id: (entry, record.shard, slot) for record in records for slot, entry in enumerate(record.entries)}
    assert table.ids == tuple(sorted(latest, key=lambda name: name.encode()))
    for row, name in enumerate(table.ids):
        entry, shard, slot = latest[name]
        assert table.entry(row) == entry
        assert (table.shard[row], table.slot[row]) == (shard, slot)
        assert table.row(name) == row
    rows = np.arange(len(table))[::-1]
    assert list(table.sources_of(rows)) == [table.source_of(row) for row in rows.tolist()]
    asked = [*table.ids[::-1], "\x01 not there"]
    assert table.find(asked).tolist() == [*reversed(range(len(table))), -1]
    assert table.row("\x01 not there") == -1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(entries, min_size=1, max_size=5), max_size=5), st.integers(0, 5))
def test_a_table_says_of_every_sample_what_its_latest_record_says(shards: list[list[Entry]], cut: int) -> None:
    records = [made(number, listed) for number, listed in enumerate(shards)]
    sizes = [100 + number for number in range(len(records))]
    whole = table_of(records, sizes)
    columns_agree(whole, records)
    assert same(whole, merged(table_of(records[:cut], sizes[:cut]), table_of(records[cut:], sizes[cut:])))
    for record in records:
        assert whole.shards.file("x", record.shard) == record.files.get("x")
    assert whole.shards.file("x", 99) is None
    assert whole.shards.total_bytes == sum(file.bytes for record in records for file in record.files.values())


def test_an_id_with_a_nul_is_rejected() -> None:
    with pytest.raises(ValueError, match="NUL"):
        encoded(["a", "b\0c"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made_store = build(tmp_path, num_samples=11, bad=(2, 7))
    write_index(made_store)
    return made_store


def test_the_index_is_what_the_records_say_and_the_same_bytes_each_time(store: Store) -> None:
    data = index_path(store.path).read_bytes()
    known = read_index(store)
    index_path(store.path).unlink()
    assert known is not None
    assert same(known, load_table(store))
    write_index(store)
    assert index_path(store.path).read_bytes() == data
    assert verify_store(store.path) == []


@pytest.mark.parametrize("block", [1, 4, 5])
def test_records_that_are_read_in_blocks_say_the_same(
    store: Store, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = index_path(store.path).read_bytes()
    forget_index(store.path)
    monkeypatch.setattr("unialign.cache.index._BLOCK", block)
    assert len(list(_blocks(store, record_sizes(store.path)))) > 1
    write_index(store)
    assert index_path(store.path).read_bytes() == data


def test_with_an_index_no_record_is_opened(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StoreReader(store.path).table
    monkeypatch.setattr("unialign.cache.index.read_record", lambda path: pytest.fail(f"{path} was read"))
    assert same(StoreReader(store.path).table, whole)


def test_records_that_came_later_are_read_too(store: Store) -> None:
    later = Record(9, (Entry("clip002", "unreadable"), Entry("new", "no-person")), {})
    write_record(store.path, later)
    table = load_table(store)
    assert table.entry(table.row("clip002")).status == "unreadable"
    assert table.entry(table.row("new")).status == "no-person"
    assert len(table) == 12
    write_index(store)
    known = read_index(store)
    assert known is not None
    assert same(known, table)


@pytest.mark.parametrize("place", [0, 40, 300, -1])
def test_a_flipped_byte_in_the_index_is_found_and_the_records_count(store: Store, place: int) -> None:
    whole = load_table(store)
    data = bytearray(index_path(store.path).read_bytes())
    data[place] ^= 4
    index_path(store.path).write_bytes(data)
    assert read_index(store) is None
    assert same(load_table(store), whole)
    assert [damage.file for damage in verify_store(store.path)] == ["records/index.bin"]
    write_index(store)
    assert verify_store(store.path) == []


def test_an_index_of_another_store_or_format_does_not_count(store: Store, tmp_path: Path) -> None:
    other = build(tmp_path / "other", num_samples=3)
    write_index(other)
    renamed = store.path.with_name(store.path.name.replace(store.path.name[:4], "else"))
    store.path.rename(renamed)
    assert read_index(replace(store, path=renamed)) is None
    assert read_index(other) is not None


def test_an_index_that_says_other_things_than_the_records_is_found(store: Store) -> None:
    path = record_path(store.path, 1)
    body = path.read_text()
    changed = json.loads(body)
    first = changed["samples"][0]
    record = Record(
        1,
        tuple(
            Entry(**{**sample, "id": sample["id"][::-1]}) if sample == first else Entry(**sample)
            for sample in changed["samples"]
        ),
        {name: ShardFile(**file) for name, file in changed["files"].items()},
    )
    write_record(store.path, record)
    assert path.stat().st_size == len(body.encode())
    assert [damage.file for damage in verify_store(store.path)] == ["records/index.bin"]


def test_a_record_that_the_index_names_but_is_gone_is_rejected_and_named(store: Store) -> None:
    record_path(store.path, 1).unlink()
    with pytest.raises(DamagedStore, match=r"000001\.json is missing"):
        StoreReader(store.path)
    found = {(damage.shard, damage.file) for damage in verify_store(store.path)}
    assert (1, "records/000001.json") in found
    assert len(load_table(store)) < 11


def test_withdrawing_a_shard_takes_the_index_with_it(store: Store) -> None:
    forget_shard(store, 1)
    assert not index_path(store.path).exists()
    assert 1 not in record_sizes(store.path)
    assert len(StoreReader(store.path).table) < 11


def test_a_store_without_records_has_an_empty_table_and_no_index(tmp_path: Path) -> None:
    store = build(tmp_path, num_samples=0)
    table = load_table(store)
    write_index(store)
    assert (len(table), table.ids, table.find(["a"]).tolist(), table.find([]).tolist()) == (0, (), [-1], [])
    assert not index_path(store.path).exists()
