"""Reading stores that are larger than memory, or cold: whole shards ahead of the loop, and done ones let go of."""

from collections import Counter
from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from unialign.cache.batches import BatchReader
from unialign.stages.training.order import Picks
from unialign.stages.training.prefetch import ahead

Made = TypeVar("Made", covariant=True)


class Maker(Protocol[Made]):
    """Makes a batch of samples whose shards are open."""

    def __getitems__(self, picks: Picks, /) -> Made:
        """The batch of these picks."""


def windowed(
    maker: Maker[Made], reader: BatchReader, batches: Sequence[Picks], window_of: np.ndarray, threads: int
) -> Generator[Made]:
    """The batches in order; `threads` read the shards that the next window needs while this one is used.

    window_of: (N,) the window of each sample; the batches follow the order of windows. At most the shards of two
    windows are open, and a shard is closed behind the last window that needs it.
    """
    needed = _needed(reader, batches, window_of)
    uses = Counter(file for files in needed.values() for file in files)
    # A shard that two windows share is opened by the first.
    todo = [file for files in needed.values() for file in files]
    largest = max((len(files) for files in needed.values()), default=0)
    opened = ahead(lambda file: reader.open_shard(*file), todo, threads=threads, depth=largest)
    open_windows: list[int] = []
    counts = {window: len(files) for window, files in needed.items()}
    try:
        for batch in batches:
            windows = np.unique(window_of[batch.indices]).tolist()
            while open_windows and open_windows[0] < windows[0]:
                for file in needed[open_windows.pop(0)]:
                    uses[file] -= 1
                    if not uses[file]:
                        reader.close_shard(*file)
            for window in windows:
                if window not in open_windows:
                    for _ in range(counts[window]):
                        next(opened)
                    open_windows.append(window)
            yield maker.__getitems__(batch)
    finally:
        opened.close()
        for file in {file for files in needed.values() for file in files}:
            reader.close_shard(*file)


def _needed(reader: BatchReader, batches: Sequence[Picks], window_of: np.ndarray) -> dict[int, list[tuple[int, int]]]:
    """The shard files of each window that the batches touch, in the order of windows."""
    if not batches:
        return {}
    indices = np.concatenate([batch.indices for batch in batches])
    windows = window_of[indices]
    order = np.argsort(windows, kind="stable")
    numbers, starts = np.unique(windows[order], return_index=True)
    groups = np.split(indices[order], starts[1:])
    return {int(number): list(reader.shards_of(group)) for number, group in zip(numbers.tolist(), groups, strict=True)}
