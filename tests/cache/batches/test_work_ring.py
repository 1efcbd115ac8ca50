"""Contract of batches in the making: each is what `read` gives, whoever gathers it, and nothing is gathered unasked."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.test_store import build
from unialign.cache.batches import work_ring
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import columns_of
from unialign.cache.batches.work_ring import Gathering
from unialign.cache.reader import StoreReader
from unialign.errors import DamagedStore

NUM, WINDOW, SIZE = 23, 9, 4


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> BatchReader:
    store = StoreReader(build(tmp_path_factory.mktemp("cache"), num_samples=NUM).path)
    return BatchReader(columns_of(store, window=WINDOW), store.ids)


def crops(reader: BatchReader, positions: np.ndarray, seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).integers(0, reader.lengths[positions]))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, NUM - 1), max_size=SIZE), max_size=30),
    st.integers(0, 3),
    st.integers(1, 6),
    st.sampled_from([1, 2, 3, 7]),
)
def test_batches_of_any_size_depth_and_parts_with_any_number_of_threads_are_what_read_gives(
    reader: BatchReader, batches: list[list[int]], threads: int, depth: int, parts: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_ring, "_PART", SIZE * reader.sample_bytes // parts)
        work = Gathering(reader, SIZE, depth)
    helpers = [threading.Thread(target=work.work) for _ in range(threads)]
    for helper in helpers:
        helper.start()
    asked = [(np.array(batch, dtype=np.int64), reader.buffers(SIZE)) for batch in batches]
    starts = [crops(reader, positions, number) for number, (positions, _) in enumerate(asked)]
    for number in range(len(asked) + depth):
        if number >= depth and number - depth < len(asked):
            work.fetch()
            positions, buffers = asked[number - depth]
            expected = reader.read(positions, starts[number - depth])
            for name, values in expected.items():
                np.testing.assert_array_equal(buffers.arrays[name][: len(positions)], values)
        if number < len(asked):
            work.offer(asked[number][0], starts[number], asked[number][1])
    work.close(threads)
    for helper in helpers:
        helper.join(timeout=20)
        assert not helper.is_alive()


def test_a_loop_alone_gathers_what_it_waits_for_and_no_more(reader: BatchReader) -> None:
    work, buffers = Gathering(reader, SIZE, 3), [reader.buffers(SIZE) for _ in range(3)]
    for number, each in enumerate(buffers):
        each.arrays["count"][...] = -1
        work.offer(np.arange(4) + number, None, each)
    work.fetch()
    assert [each.arrays["count"].tolist() != [-1] * SIZE for each in buffers] == [True, False, False]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_gather_ahead_of_a_loop_that_is_busy_also_after_they_slept(reader: BatchReader, threads: int) -> None:
    work, buffers = Gathering(reader, SIZE, 3), [reader.buffers(SIZE) for _ in range(3)]
    helpers = [threading.Thread(target=work.work) for _ in range(threads)]
    for helper in helpers:
        helper.start()
    expected = reader.read(np.arange(4))["count"].tolist()
    for pause in (0.0, 0.05, 0.0, 0.05):
        time.sleep(pause)
        for each in buffers:
            each.arrays["count"][...] = -1
            work.offer(np.arange(4), None, each)
        until = time.monotonic() + 20
        while any((each.arrays["count"] == -1).any() for each in buffers) and time.monotonic() < until:
            time.sleep(0.001)
        assert [each.arrays["count"].tolist() for each in buffers] == [expected] * 3
        for _ in buffers:
            work.fetch()
    work.close(threads)
    for helper in helpers:
        helper.join(timeout=20)
        assert not helper.is_alive()


def test_what_is_closed_is_gathered_by_nobody(reader: BatchReader) -> None:
    work, buffers = Gathering(reader, SIZE, 2), reader.buffers(SIZE)
    buffers.arrays["count"][...] = -1
    work.offer(np.arange(4), None, buffers)
    work.close(1)
    work.work()
    assert (buffers.arrays["count"] == -1).all()


def test_more_than_the_depth_and_more_than_was_offered_is_rejected(reader: BatchReader) -> None:
    work = Gathering(reader, SIZE, 1)
    with pytest.raises(ValueError, match="no batch"):
        work.fetch()
    work.offer(np.arange(4), None, reader.buffers(SIZE))
    with pytest.raises(ValueError, match="1 batches"):
        work.offer(np.arange(4), None, reader.buffers(SIZE))
    work.fetch()
    with pytest.raises(ValueError, match="fit"):
        work.offer(np.arange(SIZE + 1), None, reader.buffers(SIZE))
    with pytest.raises(ValueError, match=f"do not fit into a batch of {SIZE}"):
        work.offer(np.arange(SIZE + 1), None, reader.buffers(SIZE + 1))
    with pytest.raises(IndexError):
        work.offer(np.array([NUM]), None, reader.buffers(SIZE))
    with pytest.raises(IndexError):
        work.offer(np.array([-1]), None, reader.buffers(SIZE))


def test_a_damaged_shard_is_named_when_its_samples_are_offered(tmp_path: Path) -> None:
    store = build(tmp_path, num_samples=NUM)
    path = store.shard_path("feature", 1)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    opened = StoreReader(store.path)
    damaged = BatchReader(columns_of(opened, window=WINDOW), opened.ids)
    work = Gathering(damaged, SIZE, 2)
    work.offer(np.arange(4), None, damaged.buffers(SIZE))
    with pytest.raises(DamagedStore, match=path.name):
        work.offer(np.arange(4, 8), None, damaged.buffers(SIZE))
    work.fetch()
