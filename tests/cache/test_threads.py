"""Contract of work spread over threads: results in order, and nothing is left running behind an error."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cache.test_store import build
from unialign.cache import reader as reading
from unialign.cache.reader import StoreReader
from unialign.cache.threads import spread


@given(st.lists(st.integers(), max_size=40))
def test_results_come_in_the_order_of_the_items(items: list[int]) -> None:
    assert spread(lambda some: [item + 1 for item in some], items) == [item + 1 for item in items]


def test_behind_an_error_nothing_runs_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    done = []

    def work(items: list[int]) -> list[int]:
        if 0 in items:
            raise OSError("the first part fails at once")
        time.sleep(0.1)
        done.extend(items)
        return items

    with pytest.raises(OSError, match="first part"):
        spread(work, list(range(6)))  # type: ignore[arg-type]
    assert sorted(done) == [2, 3, 4, 5]


def test_threads_that_open_a_file_at_once_get_the_same_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, real = threading.Barrier(2), reading.read_index

    def met(*given: object) -> object:
        both.wait(10)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "read_index", met)
    reader = StoreReader(build(tmp_path).path)
    with ThreadPoolExecutor(2) as pool:
        one, other = (future.result() for future in [pool.submit(reader.shard, "feature", 0) for _ in range(2)])
    assert one is other is reader.shard("feature", 0)
