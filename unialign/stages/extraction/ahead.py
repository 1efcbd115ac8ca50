"""Samples that are worked on ahead of time, in threads: clips are decoded while a network computes.

Results come in the order of the samples, so neither they nor their order depend on the number of threads or on which
one is the fastest. What waits is bounded. The thread that takes the results passes heartbeats on while it waits; an
exception reaches it in place of the result.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from unialign.cache.cores import usable_cores
from unialign.stages.extraction.heartbeat import pass_on

T = TypeVar("T")
R = TypeVar("R")

# Seconds between two looks at what other threads have done.
TICK = 0.1


# Threads that decode at most, unless a worker is told another number: each holds frames.
MOST_DECODERS = 16
_decoders = 0


def use_decoders(number: int) -> None:
    """Decode in so many threads from now on; 0: as many as there are cores."""
    global _decoders
    _decoders = number


def decoders() -> int:
    """Threads that decode clips or make images of them. No bit depends on their number, unlike those of a network."""
    return _decoders or min(MOST_DECODERS, usable_cores())


def in_order(
    make: Callable[[T], R], items: Iterable[T], threads: int, is_light: Callable[[T], bool] = lambda item: False
) -> Generator[R]:
    """`make` of each item, in order; `threads` are made at a time, and as many results wait at most.

    is_light: whether an item is made at once, in this thread, since handing it over would take as long.
    """
    if threads == 1:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(_made(make, item) if is_light(item) else pool.submit(make, item))
            while waiting and (len(waiting) > threads or waiting[0].done()):
                yield result_of(waiting.popleft())
        while waiting:
            yield result_of(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _made(make: Callable[[T], R], item: T) -> "Future[R]":
    future: Future[R] = Future()
    try:
        future.set_result(make(item))
    except Exception as error:  # noqa: BLE001 - raised where the result is taken, in its turn
        future.set_exception(error)
    return future


def result_of(future: "Future[R]") -> R:
    """The result of another thread."""
    while True:
        pass_on()
        try:
            return future.result(timeout=TICK)
        except TimeoutError:
            if future.done():  # raised by the work itself
                raise


@dataclass(frozen=True)
class _End:
    """The end of a stream. error: what ended it early."""

    error: BaseException | None = None


def streams(
    open_stream: Callable[[T], Iterator[R]], items: Iterable[T], threads: int, room: int
) -> Generator[tuple[T, Iterator[R]]]:
    """Each item with its stream, in order. `threads` streams at a time run ahead, `room` entries each at most.

    A stream has to be read to its end before the next item is taken.
    """
    stopped = threading.Event()
    pool = ThreadPoolExecutor(threads)
    ahead: deque[tuple[T, queue.Queue[R | _End]]] = deque()
    try:
        for item in items:
            entries: queue.Queue[R | _End] = queue.Queue(room)
            pool.submit(_run_ahead, open_stream, item, entries, stopped)
            ahead.append((item, entries))
            # One more than are decoded at a time, so that no thread waits for the one that reads.
            if len(ahead) > threads:
                first, entries = ahead.popleft()
                yield first, _taken(entries)
        while ahead:
            first, entries = ahead.popleft()
            yield first, _taken(entries)
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def abreast(several: Sequence[Iterator[R]], number: int, stopped: threading.Event) -> Generator[tuple[R, ...]]:
    """The entries of streams side by side; each stream has `number` of them, and runs in a thread of its own.

    stopped: is set at the end, however it comes, so that streams that wait for one another end too. What one of them
    raises is raised here.
    """
    pool = ThreadPoolExecutor(len(several))
    ahead: list[queue.Queue[R]] = [queue.Queue() for _ in several]
    errors: list[BaseException] = []

    def run(stream: Iterator[R], entries: queue.Queue[R]) -> None:
        try:
            for entry in stream:
                if stopped.is_set():
                    return
                entries.put(entry)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
            stopped.set()

    try:
        for stream, entries in zip(several, ahead, strict=True):
            pool.submit(run, stream, entries)
        for _ in range(number):
            yield tuple([_waited_for(entries, errors) for entries in ahead])
    finally:
        stopped.set()
        pool.shutdown()


def _waited_for(entries: "queue.Queue[R]", errors: Sequence[BaseException]) -> R:
    while not errors:
        pass_on()
        with suppress(queue.Empty):
            return entries.get(timeout=TICK)
    raise errors[0]


def _run_ahead(
    open_stream: Callable[[T], Iterator[R]], item: T, entries: "queue.Queue[R | _End]", stopped: threading.Event
) -> None:
    end = _End()
    try:
        for entry in open_stream(item):
            if not _put(entries, entry, stopped):
                return
    except BaseException as error:  # noqa: BLE001 - raised again where the stream is read
        end = _End(error)
    _put(entries, end, stopped)


def _put(entries: "queue.Queue[R | _End]", entry: R | _End, stopped: threading.Event) -> bool:
    """Whether the entry was put; not after the end of the whole."""
    while not stopped.is_set():
        try:
            entries.put(entry, timeout=TICK)
        except queue.Full:
            continue
        return True
    return False


def _taken(entries: "queue.Queue[R | _End]") -> Iterator[R]:
    while True:
        pass_on()
        try:
            entry = entries.get(timeout=TICK)
        except queue.Empty:
            continue
        if isinstance(entry, _End):
            if entry.error is not None:
                raise entry.error
            return
        yield entry


def timed(entries: Iterator[R], spent: dict[str, float], name: str) -> Iterator[R]:
    """The same entries; the seconds of waiting for them are added to spent[name]."""
    while True:
        started = time.monotonic()
        entry = next(entries, None)
        spent[name] = spent.get(name, 0.0) + time.monotonic() - started
        if entry is None:
            return
        yield entry
