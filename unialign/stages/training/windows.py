"""Reading stores that are larger than memory, or cold: whole shards ahead of the loop, released when done."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from unialign.cache.batches.batch_reader import BatchReader
from unialign.stages.training.order import BatchIndices
from unialign.stages.training.prefetch import ahead

Made = TypeVar("Made")


def windowed(
    make: Callable[[BatchIndices], Made],
    reader: BatchReader,
    batches: Sequence[BatchIndices],
    window_of: np.ndarray,
    threads: int,
) -> Generator[Made]:
    """The batches in order; `threads` read the shards that the next window needs while the current one is used.

    make: a batch of samples whose shards are open. window_of: (N,) the window of each sample; the batches follow the
    order of windows. Open are the shards of the current window, of the next one, and of the previous one as long as a
    batch extends into it. A shard is closed after the last window that needs it.
    """
    needed = _needed(reader, batches, window_of)
    uses = Counter(file for files in needed.values() for file in files)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="shards")

    def open_window(window: int) -> int:
        # This keeps the disk busy with many files at once while their checksums are computed one after the other.
        for file in needed[window]:
            reader.announce_shard(*file)
        for done in [pool.submit(reader.open_shard, *file) for file in needed[window]]:
            done.result()
        return window

    opened = ahead(open_window, needed, threads=1, depth=1)
    in_use: deque[int] = deque()
    closing: list[Future[None]] = []
    try:
        for batch in batches:
            windows = window_of[batch.indices]
            while in_use and in_use[0] < windows.min():
                for file in needed[in_use.popleft()]:
                    uses[file] -= 1
                    if not uses[file]:
                        closing.append(pool.submit(reader.close_shard, *file))
            while not in_use or in_use[-1] < windows.max():
                # The budget holds only if these are released before the next window starts to be read.
                while closing:
                    closing.pop().result()
                in_use.append(next(opened))
            yield make(batch)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        opened.close()
        for file in uses:
            reader.close_shard(*file)


def _needed(
    reader: BatchReader, batches: Sequence[BatchIndices], window_of: np.ndarray
) -> dict[int, list[tuple[int, int]]]:
    """The shard files of each window that the batches touch, in the order of windows."""
    if not batches:
        return {}
    indices = np.concatenate([batch.indices for batch in batches])
    windows = window_of[indices]
    order = np.argsort(windows, kind="stable")
    numbers, starts = np.unique(windows[order], return_index=True)
    groups = np.split(indices[order], starts[1:])
    return {int(number): list(reader.shards_of(group)) for number, group in zip(numbers.tolist(), groups, strict=True)}
