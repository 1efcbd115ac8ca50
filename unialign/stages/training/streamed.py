"""Datasets whose batches come as a stream, prepared by threads of this process ahead of the loop."""

import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import Dataset

from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Joined
from unialign.errors import UsageError
from unialign.stages.training.order import BatchIndices
from unialign.stages.training.samples import Batch


@dataclass
class Spent:
    """What one pass has cost so far.

    seconds: processor time of all threads; 0 for compressed and remote stores. bytes: copied out of stores.
    """

    seconds: float = 0.0
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __reduce__(self) -> tuple[type["Spent"], tuple[()]]:
        """Another process starts counting from zero."""
        return Spent, ()

    def add(self, seconds: float, size: int) -> None:
        """Add to the counts; any thread may call it."""
        with self.lock:
            self.seconds += seconds
            self.bytes += size


class Streamed(Dataset[Batch]):
    """A dataset over the samples of a reader that returns whole batches, one by one or as a stream.

    spent: by the current stream; a caller may replace it for each pass.
    """

    reader: Joined
    spent: Spent

    def __len__(self) -> int:
        return len(self.reader)

    @abstractmethod
    def __getitems__(self, picks: Sequence[tuple[int, int]]) -> Batch:
        """The batch of these picks."""

    @abstractmethod
    def batches(self, batches: Sequence[BatchIndices], *, threads: int, depth: int) -> Iterator[Batch]:
        """The batches in order, prepared by threads, up to `depth` of them ahead of the loop."""

    @abstractmethod
    def windows(
        self, batches: Sequence[BatchIndices], window_of: np.ndarray, *, threads: int, depth: int
    ) -> Iterator[Batch]:
        """The batches in order, while threads read the shards of the next window, and finished ones are released.

        window_of: (N,) the window of each sample; the batches follow the order of windows. Only the shards of the
        current windows and of the next one are held. Raises `UsageError` for stores that are remote or compressed.
        """

    def use(self, device: torch.device | None) -> None:
        """The device that batches are for, before the first of them; for those that are made there."""

    @property
    def shards(self) -> np.ndarray:
        """(N,) the shard of each sample, for orders that access few at a time. Raises `UsageError`, see `windows`."""
        return self.mapped.shard_numbers()

    @property
    def mapped(self) -> BatchReader:
        """The reader, if it is memory-mapped. Raises `UsageError`, see `windows`."""
        if not isinstance(self.reader, BatchReader):
            raise UsageError("train.settings.window_shards is for local, uncompressed stores; set it to 0.")
        return self.reader
