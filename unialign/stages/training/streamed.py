"""Datasets whose batches come as a stream, prepared by threads of this process ahead of the loop."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset

from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Joined
from unialign.errors import UsageError
from unialign.stages.training.order import BatchIndices
from unialign.stages.training.samples import Batch


class Streamed(Dataset[Batch]):
    """A dataset over the samples of a reader that returns whole batches, one by one or as a stream."""

    reader: Joined

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
        """The batches in order, while threads read the shards of the next window, and done ones are released.

        window_of: (N,) the window of each sample; the batches follow the order of windows. Only the shards of the
        windows in use and of the next one are held. Raises `UsageError` for stores that are remote or compressed.
        """

    @property
    def shards(self) -> np.ndarray:
        """(N,) the shard of each sample, for orders that keep to few of them. Raises `UsageError`, see `windows`."""
        return self.mapped.shard_numbers()

    @property
    def mapped(self) -> BatchReader:
        """The reader, where it is one of mapped memory. Raises `UsageError`, see `windows`."""
        if not isinstance(self.reader, BatchReader):
            raise UsageError("train.settings.window_shards is for local, uncompressed stores; set it to 0.")
        return self.reader
