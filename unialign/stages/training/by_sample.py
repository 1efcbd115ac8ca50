"""Batches whose samples each need some computation: images to decode, clips of keypoints to cut.

The inputs of a batch are read from the stores for the whole batch at once. Then threads compute its samples, each into
its row of reused memory, so that many cores work on the batch that the loop is waiting for.
"""

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Buffers
from unialign.cache.remote.fetching import FetchingReader
from unialign.stages.training.order import BatchIndices
from unialign.stages.training.prefetch import BufferPool, ahead
from unialign.stages.training.samples import Batch, Labelled
from unialign.stages.training.streamed import Spent, Streamed
from unialign.stages.training.windows import windowed

Read = TypeVar("Read")
Kind = tuple[np.dtype[Any], tuple[int, ...]]
# Jobs that a batch is cut into, for each thread. Handing one over takes 30 microseconds, a tenth of what it takes to
# cut a clip of poses; a batch in few pieces would leave threads idle at its end.
_JOBS = 4


@dataclass(frozen=True)
class Rows:
    """Format of a batch: type and shape of each array by name, (B, *shape)."""

    kinds: Mapping[str, Kind]

    def buffer_bytes(self, size: int) -> int:
        """Bytes of a batch of `size` samples."""
        return sum(self._bytes(size, *kind) for kind in self.kinds.values())

    def buffers(self, size: int, memory: np.ndarray) -> Buffers:
        """The arrays of a batch in this memory."""
        arrays, start = {}, 0
        for name, (dtype, shape) in self.kinds.items():
            count = int(np.prod((size, *shape), dtype=np.int64)) * dtype.itemsize
            arrays[name] = memory[start : start + count].view(dtype).reshape(size, *shape)
            start += self._bytes(size, dtype, shape)
        return Buffers(size, arrays, np.array([each.ctypes.data for each in arrays.values()], dtype=np.int64))

    @staticmethod
    def _bytes(size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
        return -(-int(np.prod((size, *shape), dtype=np.int64)) * dtype.itemsize // 64) * 64


class BySample(Streamed, Generic[Read]):
    """Map-style dataset over picks (epoch, index); `__getitems__` makes a whole batch.

    A subclass defines what it reads for a batch, how it makes a sample from that, and what it returns.
    """

    def __init__(self, samples: Labelled, rows: Rows) -> None:
        self.samples, self.rows = samples, rows
        self._labels = np.array(samples.labels, dtype=np.int64)
        self.spent = Spent()
        self._pool: BufferPool | None = None
        self.scratch = threading.local()

    def __getstate__(self) -> dict[str, object]:
        """Everything but the memory, which stays in its process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_pool", "scratch")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._pool, self.scratch = None, threading.local()

    @abstractmethod
    def read(self, picks: Sequence[tuple[int, int]]) -> Read:
        """What a batch needs from the stores, with all random draws made."""

    @abstractmethod
    def bytes_of(self, read: Read) -> int:
        """Its size in bytes."""

    @abstractmethod
    def make(self, read: Read, place: int, rows: Mapping[str, np.ndarray]) -> None:
        """Compute one sample of the batch into its place in the rows. Called by several threads at once."""

    @abstractmethod
    def finished(self, read: Read, batch: Batch) -> Batch:
        """The batch as it is returned. batch: a tensor for each of the rows, "indices" and "labels"."""

    def __getitems__(self, picks: Sequence[tuple[int, int]]) -> Batch:
        """The batch of these picks, see the class. Fresh memory."""
        read, rows = self.read(picks), self._fresh(len(picks))
        for place in range(len(picks)):
            self.make(read, place, rows.arrays)
        return self._batch(read, picks, rows.arrays)

    def batches(self, batches: Sequence[BatchIndices], *, threads: int, depth: int) -> Iterator[Batch]:
        """See `Streamed`."""
        # Copying from a memory map is a thousandth of the work; waiting for servers is spread over several threads.
        readers = threads if isinstance(self.reader, FetchingReader) else 1
        read = ahead(self._timed_read, batches, threads=readers, depth=depth + readers)
        return self._stream(read, batches, threads, depth)

    def windows(
        self, batches: Sequence[BatchIndices], window_of: np.ndarray, *, threads: int, depth: int
    ) -> Iterator[Batch]:
        """See `Streamed`."""
        made = windowed(self._timed_read, self.mapped, batches, window_of, threads)
        # `windowed` waits for the disk; the loop must not.
        read = ahead(lambda number: next(made), range(len(batches)), threads=1, depth=depth)
        try:
            yield from self._stream(read, batches, threads, depth)
        finally:
            made.close()

    def _timed_read(self, picks: BatchIndices) -> tuple[BatchIndices, Read, float]:
        began = time.thread_time()
        return picks, self.read(picks), time.thread_time() - began

    def _timed_make(self, read: Read, places: range, rows: Mapping[str, np.ndarray]) -> float:
        began = time.thread_time()
        for place in places:
            self.make(read, place, rows)
        return time.thread_time() - began

    def _stream(
        self,
        read: Generator[tuple[BatchIndices, Read, float]],
        batches: Sequence[BatchIndices],
        threads: int,
        depth: int,
    ) -> Generator[Batch]:
        size = max((len(batch) for batch in batches), default=0)
        if self._pool is None or self._pool.size != size:
            self._pool = BufferPool(self.rows, size, pinned=torch.cuda.is_available())
        makers = ThreadPoolExecutor(threads, thread_name_prefix="samples")
        making: deque[tuple[Read, float, Batch, list[Future[float]]]] = deque()
        try:
            for picks, each, seconds in read:
                with self._pool.lend() as buffers:
                    arrays = {name: array[: len(picks)] for name, array in buffers.arrays.items()}
                    some = max(1, -(-len(picks) // (_JOBS * threads)))
                    places = [range(len(picks))[first : first + some] for first in range(0, len(picks), some)]
                    jobs = [makers.submit(self._timed_make, each, part, arrays) for part in places]
                    making.append((each, seconds, self._tensors(picks, arrays), jobs))
                del buffers, arrays
                if len(making) > depth:
                    yield self._awaited(*making.popleft())
            while making:
                yield self._awaited(*making.popleft())
        finally:
            makers.shutdown(wait=True, cancel_futures=True)
            read.close()

    def _awaited(self, read: Read, seconds: float, batch: Batch, jobs: list[Future[float]]) -> Batch:
        seconds += sum(job.result() for job in jobs)
        # Other threads decompress compressed stores too, and their time is not known here.
        self.spent.add(seconds if isinstance(self.reader, BatchReader) else 0.0, self.bytes_of(read))
        return self.finished(read, batch)

    def _fresh(self, size: int) -> Buffers:
        return self.rows.buffers(size, np.empty(self.rows.buffer_bytes(size), dtype=np.uint8))

    def _batch(self, read: Read, picks: Sequence[tuple[int, int]], arrays: Mapping[str, np.ndarray]) -> Batch:
        return self.finished(read, self._tensors(picks, arrays))

    def _tensors(self, picks: Sequence[tuple[int, int]], arrays: Mapping[str, np.ndarray]) -> Batch:
        indices = indices_of(picks)
        batch: Batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        batch["indices"] = torch.from_numpy(indices)
        batch["labels"] = torch.from_numpy(self._labels[indices])
        return batch


def indices_of(picks: Sequence[tuple[int, int]]) -> np.ndarray:
    """(B,) int64 places in the list of samples."""
    return picks.indices if isinstance(picks, BatchIndices) else np.array([index for _, index in picks], dtype=np.int64)
