"""Contract of batches: the same numbers as one by one, and nothing from a shard that is not what was written."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.test_store import build, sample
from unialign.cache.arrays import ArraySpec
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Column, columns_of
from unialign.cache.keys import Key
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry, read_record, record_path, write_record
from unialign.cache.store import Store, create_store, grow_store, store_path, write_shard
from unialign.errors import DamagedStore, MissingCache, UsageError

FIXED = ["feature", "count"]


def made_store(folder: Path, values: np.ndarray, chunk: int) -> StoreReader:
    """A store of "feature", (N, *shape), with inner chunks of so many entries."""
    spec = ArraySpec("feature", values.dtype.name, values.shape[1:], ("view", "channel"), chunk=chunk)
    key = Key({"extractor": "fake", "revision": 3})
    made = Store(store_path(folder, "made", "poses", key), "made", "poses", key, (spec,), 4, {})
    store = create_store(made)
    grow_store(store, -(-len(values) // 4))
    for shard, first in enumerate(range(0, len(values), 4)):
        some = values[first : first + 4]
        entries = [Entry(f"{first + number:03d}", "ok") for number in range(len(some))]
        write_shard(store, shard, entries, [{"feature": each} for each in some])
    return StoreReader(store.path)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> StoreReader:
    return StoreReader(build(tmp_path_factory.mktemp("cache"), num_samples=11, bad=(2, 7)).path)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=20))
def test_a_batch_is_what_reading_one_by_one_gives(reader: StoreReader, positions: list[int]) -> None:
    batches = BatchReader(columns_of(reader, FIXED), reader.ids)
    assert len(batches) == 9
    found = batches.read(np.array(positions))
    for name in FIXED:
        expected = np.stack([reader.read_one(reader.ids[position])[name] for position in positions])
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_places_follow_the_given_list_not_the_store(reader: StoreReader) -> None:
    batches = BatchReader(columns_of(reader, ["count"]), ["clip009", "clip000"])
    assert batches.read(np.array([0, 1]))["count"].tolist() == [int(sample(9)["count"]), int(sample(0)["count"])]


def test_what_is_not_stored_or_ragged_is_rejected(reader: StoreReader) -> None:
    with pytest.raises(MissingCache, match="quarantined"):
        BatchReader(columns_of(reader, FIXED), ["clip002"])
    with pytest.raises(UsageError, match="read_one"):
        BatchReader(columns_of(reader, ["keypoints"]), reader.ids)
    with pytest.raises(IndexError):
        BatchReader(columns_of(reader, FIXED), reader.ids).read(np.array([9]))


def test_a_sample_whose_chunks_its_shard_does_not_hold_is_rejected(tmp_path: Path) -> None:
    store = build(tmp_path, bad=(1,))
    record = read_record(record_path(store.path, 0))
    other = record.entries[0]
    # A record that covers a sample which was never written, over shard files that are whole.
    false = replace(record.entries[1], status="ok", lengths=other.lengths, checksums=other.checksums)
    write_record(store.path, replace(record, entries=(other, false, *record.entries[2:])))
    opened = StoreReader(store.path)
    batches = BatchReader(columns_of(opened, FIXED), opened.ids)
    with pytest.raises(DamagedStore, match="is missing or cut"):
        batches.read(np.array([0]))


def test_a_flipped_byte_is_found_before_the_first_sample_of_its_shard_is_given(tmp_path: Path) -> None:
    store = build(tmp_path)
    path = store.shard_path("feature", 1)
    data = bytearray(path.read_bytes())
    data[3] ^= 16
    path.write_bytes(data)
    opened = StoreReader(store.path)
    batches = BatchReader(columns_of(opened, FIXED), opened.ids)
    batches.read(np.array([0, 1]))
    for _ in range(2):
        with pytest.raises(DamagedStore, match="not what was written"):
            batches.read(np.array([0, 5]))


def literal(value: np.ndarray, start: int, window: int) -> np.ndarray:
    """What a window of a sample holds, one entry after the other."""
    return np.stack([value[(start + step) % len(value)] for step in range(window)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 0.999)), min_size=1, max_size=12), st.integers(1, 70))
def test_a_window_of_a_ragged_sample_repeats_it_and_holds_nothing_else(
    reader: StoreReader, asked: list[tuple[int, float]], window: int
) -> None:
    batches = BatchReader(columns_of(reader, ["keypoints", "pictures", "feature"], window=window), reader.ids)
    positions = np.array([position for position, _ in asked])
    starts = (np.array([[share] for _, share in asked]) * batches.lengths[positions]).astype(np.int64)
    starts[:, 1] = 0
    found = batches.read(positions, starts)
    for row, position in enumerate(positions.tolist()):
        whole = reader.read_one(reader.ids[position])
        for column, name in enumerate(batches.columns):
            start = int(starts[row, column])
            expected = whole[name] if name == "feature" else literal(whole[name], start, window)
            np.testing.assert_array_equal(found[name][row], expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 1), st.floats(0, 1)), max_size=14))
def test_entries_are_those_of_the_samples_from_any_first_to_any_last(
    reader: StoreReader, asked: list[tuple[int, float, float]]
) -> None:
    names = ["keypoints", "pictures", "feature", "count"]
    batches = BatchReader(columns_of(reader, names), reader.ids, by_entry=names)
    assert not batches.read(np.arange(3))
    positions = np.array([position for position, _, _ in asked], dtype=np.int64)
    for number, name in enumerate(batches.columns):
        lengths = batches.lengths[positions, number]
        starts = (lengths * [start for _, start, _ in asked]).astype(np.int64)
        counts = ((lengths - starts) * [share for _, _, share in asked]).astype(np.int64)
        found, whole = batches.entries(name, positions, starts, counts), batches.entries(name, positions)
        assert len(found) == len(whole) == len(asked)
        for place, position in enumerate(positions.tolist()):
            expected = reader.read_one(reader.ids[position])[name]
            np.testing.assert_array_equal(whole[place].reshape(expected.shape), expected)
            part = np.atleast_1d(expected)[starts[place] : starts[place] + counts[place]]
            np.testing.assert_array_equal(found[place], part)
        for count in {0, 1, int((lengths - starts).min(initial=0))}:
            alike = batches.entries(name, positions, starts * (starts + count <= lengths), count)
            assert np.diff(alike.bounds).tolist() == [count] * len(asked)
            for place in range(len(asked)):
                first = starts[place] if starts[place] + count <= lengths[place] else 0
                np.testing.assert_array_equal(alike[place], whole[place][first : first + count])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.lists(st.integers(0, 6), max_size=9), st.integers(0, 2**32 - 1))
def test_means_of_entries_are_those_of_torch_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, count: int, width: int, positions: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    values = (generator.standard_normal((7, 5, width)) * 10.0 ** generator.integers(-3, 4, (7, 5, 1))).astype("float32")
    store = made_store(tmp_path_factory.mktemp("cache"), values, chunk=int(generator.choice([1, 2, 5])))
    batches = BatchReader({"feature": Column(store, "feature", 1)}, store.ids)
    rows = np.repeat(np.array(positions, dtype=np.int64), count)
    starts = generator.integers(0, 5, (len(rows), 1))
    expected = torch.from_numpy(values[rows, starts[:, 0]]).unflatten(0, (len(positions), count)).mean(dim=1)
    found = batches.read(rows, starts, means=count)["feature"]
    assert found.shape == (len(positions), 1, width)
    np.testing.assert_array_equal(found[:, 0], expected.numpy())


def test_only_few_single_entries_of_float32_are_averaged(reader: StoreReader) -> None:
    for name, window in (("feature", 1), ("feature", 2), ("keypoints", 1)):
        batches = BatchReader({name: Column(reader, name, window)}, reader.ids)
        assert batches.most_means == (4 if (name, window) == ("feature", 1) else 1)
        with pytest.raises(ValueError, match="10 windows cannot be averaged by 5"):
            batches.read(np.zeros(10, np.int64), means=5)
    with pytest.raises(ValueError, match="3 windows cannot be averaged by 2"):
        BatchReader({"feature": Column(reader, "feature", 1)}, reader.ids).read(np.zeros(3, np.int64), means=2)


def test_entries_that_a_sample_lacks_are_rejected(reader: StoreReader) -> None:
    batches = BatchReader(columns_of(reader, ["keypoints"]), reader.ids, by_entry=["keypoints"])
    length = int(batches.lengths[2, 0])
    for start, count in ((0, length + 1), (-1, 2), (length + 1, 0), (1, -1), (2, 2**63 - 1)):
        with pytest.raises(IndexError, match="keypoints: entries must lie inside their sample"):
            batches.entries("keypoints", np.array([2]), np.array([start]), np.array([count]))
        with pytest.raises(IndexError, match="keypoints: entries must lie inside their sample"):
            batches.entries("keypoints", np.array([2]), np.array([start]), count)
    for position in (-1, len(reader.ids)):
        with pytest.raises(IndexError, match="places must lie"):
            batches.entries("keypoints", np.array([position]))


def test_stores_that_hold_samples_in_other_orders_are_joined_by_id(tmp_path: Path) -> None:
    first, second = StoreReader(build(tmp_path / "a").path), StoreReader(build(tmp_path / "b", shard_samples=3).path)
    columns = {"one": Column(first, "count"), "two": Column(second, "count"), "more": Column(second, "feature")}
    ids = tuple(reversed(first.ids))
    found = BatchReader(columns, ids).read(np.arange(10))
    np.testing.assert_array_equal(found["one"], found["two"])
    assert found["one"].tolist() == [int(sample(int(name[4:]))["count"]) for name in ids]
    short = StoreReader(build(tmp_path / "c", num_samples=6).path)
    with pytest.raises(MissingCache, match="clip009"):
        BatchReader({**columns, "short": Column(short, "count")}, ids)


def test_large_batches_are_streamed_and_equal(reader: StoreReader, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = BatchReader(columns_of(reader, window=40), reader.ids)
    positions = np.arange(9)
    plain = batches.read(positions)
    monkeypatch.setattr("unialign.cache.batches.batch_reader.STREAM_BYTES", 0)
    for name, value in batches.read(positions).items():
        np.testing.assert_array_equal(value, plain[name])


def test_threads_may_read_at_once_and_get_what_one_gets(tmp_path: Path) -> None:
    opened = StoreReader(build(tmp_path, num_samples=60).path)
    expected = BatchReader(columns_of(opened, FIXED), opened.ids).read(np.arange(60))
    shared = BatchReader(columns_of(StoreReader(opened.path), FIXED), opened.ids)
    orders = [np.random.default_rng(seed).permutation(60) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for order, found in zip(orders, pool.map(shared.read, orders), strict=True):
            for name in FIXED:
                np.testing.assert_array_equal(found[name], expected[name][order])


def test_given_memory_is_used_and_too_little_is_rejected(reader: StoreReader) -> None:
    batches = BatchReader(columns_of(reader, FIXED), reader.ids)
    buffers = batches.buffers(4, np.zeros(batches.buffer_bytes(4), dtype=np.uint8))
    found = batches.read(np.array([3, 1]), buffers=buffers)
    assert all(np.shares_memory(found[name], buffers.arrays[name]) for name in FIXED)
    with pytest.raises(ValueError, match="do not fit"):
        batches.read(np.arange(5), buffers=buffers)


def test_a_window_outside_its_sample_is_rejected(reader: StoreReader) -> None:
    batches = BatchReader(columns_of(reader, ["keypoints"], window=4), reader.ids)
    for start in (-1, int(batches.lengths[0, 0])):
        with pytest.raises(IndexError, match="inside its sample"):
            batches.read(np.array([0]), np.array([[start]]))
    with pytest.raises(UsageError, match="cannot be cut"):
        BatchReader({"count": Column(reader, "count", window=3)}, reader.ids)


def test_it_travels_to_another_process_without_its_arrays(reader: StoreReader) -> None:
    batches = BatchReader(columns_of(reader, FIXED), reader.ids)
    data = pickle.dumps(batches)
    assert len(data) < 10_000
    copied = pickle.loads(data).read(np.array([4]))
    np.testing.assert_array_equal(copied["feature"], batches.read(np.array([4]))["feature"])


def test_a_closed_shard_is_unmapped_and_opened_again_when_it_is_needed(tmp_path: Path) -> None:
    opened = StoreReader(build(tmp_path).path)
    batches = BatchReader(columns_of(opened, ["feature"]), opened.ids)
    before = batches.read(np.arange(10))["feature"]
    files = list(batches.shards_of(np.arange(10)))
    assert files == [(0, 0), (0, 1), (0, 2)]
    for file in files:
        batches.close_shard(*file)
    mapped = Path("/proc/self/maps").read_text()
    assert str(opened.store.shard_path("feature", 0)) not in mapped
    for file in files:
        batches.open_shard(*file)
    np.testing.assert_array_equal(batches.read(np.arange(10))["feature"], before)


def test_a_file_that_was_replaced_after_its_check_is_checked_again(tmp_path: Path) -> None:
    opened = StoreReader(build(tmp_path).path)
    batches = BatchReader(columns_of(opened, ["feature"]), opened.ids)
    batches.read(np.arange(10))
    batches.close_shard(0, 1)
    path = opened.store.shard_path("feature", 1)
    changed = bytearray(path.read_bytes())
    changed[0] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DamagedStore, match="not what was written"):
        batches.open_shard(0, 1)


def test_a_compressed_store_has_no_memory_to_map(tmp_path: Path) -> None:
    opened = StoreReader(build(tmp_path, codec="zstd").path)
    with pytest.raises(UsageError, match="compressed"):
        BatchReader(columns_of(opened, FIXED), opened.ids)
