"""Work ahead in threads: the same results in the same order, bounded, with heartbeats, and nothing left behind."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.extraction import heartbeat
from unialign.stages.extraction.ahead import MOST_DECODERS, decoders, in_order, streams, use_decoders


@given(
    delays=st.lists(st.sampled_from([0.0, 0.001, 0.003]), max_size=12),
    threads=st.integers(1, 4),
)
@settings(max_examples=25, deadline=None)
def test_results_come_in_order_whoever_is_the_fastest(delays: list[float], threads: int) -> None:
    def make(number: int) -> int:
        time.sleep(delays[number])
        return number

    def count(number: int) -> Iterator[int]:
        for _ in range(number):
            time.sleep(delays[number] / 5)
            yield number

    numbers = range(len(delays))
    assert list(in_order(make, numbers, threads)) == list(numbers)
    assert list(in_order(make, numbers, threads, lambda number: number % 2 == 0)) == list(numbers)
    found = [(number, list(stream)) for number, stream in streams(count, numbers, threads, room=2)]
    assert found == [(number, [number] * number) for number in numbers]
    assert threading.active_count() < 30


def test_light_items_are_made_by_the_thread_that_reads_and_fail_in_their_turn() -> None:
    def make(number: int) -> tuple[int, bool]:
        if number == 3:
            raise ValueError(number)
        time.sleep(0.005 * (number == 0))
        return number, threading.current_thread() is threading.main_thread()

    made = in_order(make, range(5), 2, lambda number: number > 0)
    assert [next(made) for _ in range(3)] == [(0, False), (1, True), (2, True)]
    with pytest.raises(ValueError, match="3"):
        next(made)


def test_what_waits_is_bounded() -> None:
    made = [0, 0, 0, 0]

    def endless(number: int) -> Iterator[int]:
        while True:
            made[number] += 1
            yield number

    several = streams(endless, range(4), threads=2, room=5)
    _, stream = next(several)
    assert [next(stream) for _ in range(3)] == [0, 0, 0]
    time.sleep(0.2)
    # Five in the queue, and one that waits for room; the third and fourth have not begun.
    assert made[0] <= 3 + 5 + 1
    assert 5 <= made[1] <= 6
    assert made[2:] == [0, 0]
    before = threading.active_count()
    several.close()
    assert threading.active_count() == before - 2


def test_an_exception_takes_the_place_of_its_result() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise TimeoutError("two")
        return number

    def count(number: int) -> Iterator[int]:
        yield make(number)

    made = in_order(make, range(5), 3)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(TimeoutError, match="two"):
        next(made)
    opened = streams(count, range(5), 3, room=2)
    assert [list(next(opened)[1]), list(next(opened)[1])] == [[0], [1]]
    _, third = next(opened)
    with pytest.raises(TimeoutError, match="two"):
        next(third)
    opened.close()


def test_beats_of_all_threads_are_signalled_by_the_one_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_listeners", [])
    monkeypatch.setattr(heartbeat, "_listening", 0)
    heard: list[int] = []
    heartbeat.listen(lambda: heard.append(threading.get_ident()))
    heartbeat.pass_on()
    heard.clear()

    def make(number: int) -> int:
        heartbeat.beat()
        time.sleep(0.25)
        heartbeat.beat()
        return number

    several = in_order(make, range(2), 2)
    next(several)
    # The first beats were heard while it waited.
    assert len(heard) >= 2
    list(several)
    heartbeat.pass_on()
    assert len(heard) == 4
    assert set(heard) == {threading.get_ident()}


def test_there_are_as_many_decoders_as_a_worker_is_told_or_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unialign.stages.extraction.ahead.usable_cores", lambda: 3)
    monkeypatch.setattr("unialign.stages.extraction.ahead._decoders", 0)
    assert decoders() == 3
    use_decoders(5)
    assert decoders() == 5
    use_decoders(0)
    monkeypatch.setattr("unialign.stages.extraction.ahead.usable_cores", lambda: 256)
    assert decoders() == MOST_DECODERS
