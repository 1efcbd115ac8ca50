"""Contract of batches: the same numbers as one by one, and nothing from a shard that is not what was written."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.test_store import build, sample
from unialign.cache.batches import BatchReader
from unialign.cache.errors import DamagedStore, MissingCache, UsageError
from unialign.cache.joined import columns_of
from unialign.cache.reader import StoreReader

FIXED = ["feature", "count"]


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


def test_what_is_not_stored_or_ragged_is_refused(reader: StoreReader) -> None:
    with pytest.raises(MissingCache, match="quarantined"):
        BatchReader(columns_of(reader, FIXED), ["clip002"])
    with pytest.raises(UsageError, match="read_one"):
        BatchReader(columns_of(reader, ["keypoints"]), reader.ids)
    with pytest.raises(IndexError):
        BatchReader(columns_of(reader, FIXED), reader.ids).read(np.array([9]))


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
