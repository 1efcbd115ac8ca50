"""Cached arrays as a dataset: batches of tensors straight from the stores, at the speed of memory.

Works under a stock `torch.utils.data.DataLoader` with any number of workers (fork, spawn, forkserver), and faster under
`loader.Loader`, whose threads fill memory that is used again.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from unialign.cache.batches import BatchReader
from unialign.cache.errors import UsageError
from unialign.cache.joined import Buffers, Joined
from unialign.stages.training.clips import Batch
from unialign.stages.training.order import Picks, crop_starts
from unialign.stages.training.prefetch import BufferPool, ahead
from unialign.stages.training.windows import windowed

# Batches are gathered in units of about this size: what a hand-over between threads costs is then little.
UNIT_BYTES = 16 << 20


class CachedArrays(Dataset[Batch]):
    """Map-style dataset over picks (epoch, index); `__getitems__` makes a whole batch.

    A batch holds one tensor (B, *shape) for each column of the reader, and `indices` and `labels`, (B,) int64.
    Columns with a window get a crop of it: in training at a place that is a function of (seed, epoch, index), otherwise
    in the middle. Columns whose samples are equally long, such as keypoints and their scores, are cropped alike.
    Tensors may be kept; those that `units` gives are page-locked where there is a GPU.
    """

    def __init__(self, reader: Joined, labels: Sequence[int], *, seed: int = 0, train: bool = True) -> None:
        if len(labels) != len(reader):
            raise ValueError(f"{len(reader)} samples, but {len(labels)} labels")
        self.reader = reader
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.seed, self.train = seed, train
        self._cropped = [bool(column.window) for column in reader.columns.values()]
        self._pool: BufferPool | None = None

    def __len__(self) -> int:
        return len(self.reader)

    def __getstate__(self) -> dict[str, object]:
        """Everything but the memory: that stays in its process."""
        return {**self.__dict__, "_pool": None}

    def __getitems__(self, picks: Sequence[tuple[int, int]] | Sequence[int]) -> Batch:
        """The batch of these picks, see the class; plain indices count as those of epoch 0. Fresh memory.

        Raises `ValueError` for picks of several epochs.
        """
        epoch, indices = _plain(picks)
        return self._read(epoch, indices, self.reader.buffers(len(indices)))

    def units(self, batches: Sequence[Picks], *, threads: int, depth: int) -> Iterator[Batch]:
        """The batches in order, gathered by threads up to `depth` units ahead of the loop, in memory used again."""
        for unit in ahead(self._unit, self._grouped(batches), threads=threads, depth=depth):
            yield from unit

    @property
    def shards(self) -> np.ndarray:
        """(N,) the shard of each sample, for orders that keep to few of them. Raises `UsageError`, see `windows`."""
        return self._mapped().shard_numbers()

    def windows(self, batches: Sequence[Picks], window_of: np.ndarray, *, threads: int, depth: int) -> Iterator[Batch]:
        """The batches in order, while threads read the shards of the next window, and done ones are let go of.

        window_of: (N,) the window of each sample; the batches follow the order of windows. Only the shards of the
        windows in use and of the next one are held. Raises `UsageError` for stores that are remote or compressed.
        """
        mapped = self._mapped()
        self._make_pool(max((len(batch) for batch in batches), default=0))
        made = windowed(lambda batch: self._unit([batch])[0], mapped, batches, window_of, threads)
        try:
            # One thread gathers, beside those that read: copying is ten times as fast as any disk.
            yield from ahead(lambda number: next(made), range(len(batches)), threads=1, depth=depth)
        finally:
            made.close()

    def _mapped(self) -> BatchReader:
        if not isinstance(self.reader, BatchReader):
            raise UsageError("train.settings.window_shards is for local, uncompressed stores; set it to 0.")
        return self.reader

    def _grouped(self, batches: Sequence[Picks]) -> list[list[Picks]]:
        if not batches:
            return []
        size = max(len(batch) for batch in batches)
        count = max(1, UNIT_BYTES // max(1, size * self.reader.sample_bytes))
        self._make_pool(count * size)
        return [list(batches[start : start + count]) for start in range(0, len(batches), count)]

    def _make_pool(self, size: int) -> None:
        if self._pool is None or self._pool.size != size:
            self._pool = BufferPool(self.reader, size, pinned=torch.cuda.is_available())

    def _unit(self, batches: list[Picks]) -> list[Batch]:
        assert self._pool is not None
        indices = np.concatenate([batch.indices for batch in batches])
        ends = np.cumsum([len(batch) for batch in batches]).tolist()
        with self._pool.lend() as buffers:
            found = self._read(batches[0].epoch, indices, buffers)
            return [
                {name: tensor[end - len(batch) : end] for name, tensor in found.items()}
                for batch, end in zip(batches, ends, strict=True)
            ]

    def _read(self, epoch: int, indices: np.ndarray, buffers: Buffers) -> Batch:
        starts = None
        if any(self._cropped):
            # (B, columns); what is not cropped begins at 0.
            spare = np.maximum(self.reader.lengths[indices] - self.reader.layout[:, 3], 0) * self._cropped
            if self.train:
                starts = np.stack([crop_starts(self.seed, epoch, indices, each) for each in spare.T], axis=1)
            else:
                starts = spare // 2
        batch: Batch = {
            name: torch.from_numpy(array) for name, array in self.reader.read(indices, starts, buffers).items()
        }
        batch["indices"] = torch.from_numpy(indices)
        batch["labels"] = self.labels[batch["indices"]]
        return batch


def _plain(picks: Sequence[tuple[int, int]] | Sequence[int]) -> tuple[int, np.ndarray]:
    if isinstance(picks, Picks):
        return picks.epoch, picks.indices
    values = np.array(picks, dtype=np.int64)
    if values.ndim == 1:
        return 0, values
    if len(np.unique(values[:, 0])) > 1:
        raise ValueError("the picks of a batch are of several epochs")
    return int(values[0, 0]), values[:, 1]
