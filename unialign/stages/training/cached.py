"""Cached arrays as a dataset: batches of tensors straight from the stores, at memory speed.

Works with a stock `torch.utils.data.DataLoader` with any number of workers (fork, spawn, forkserver), and faster with
`loader.Loader`, whose threads fill reused memory.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
import torch

from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Buffers, Joined
from unialign.cache.cores import usable_cores
from unialign.stages.training.order import BatchIndices, crop_starts
from unialign.stages.training.prefetch import BufferPool, ahead
from unialign.stages.training.samples import Batch
from unialign.stages.training.streamed import Spent, Streamed
from unialign.stages.training.windows import windowed

# Number of batches whose crops are drawn at once, and that are gathered at once at most.
_DRAWN = 32
# Batches are gathered several at once up to this many bytes: offering one costs as much as copying 300 KB, and more
# would leave the processor's caches before the loop sees it.
_TOGETHER = 1 << 20


class CachedArrays(Streamed):
    """Map-style dataset over picks (epoch, index); `__getitems__` makes a whole batch.

    A batch holds one tensor (B, *shape) for each column of the reader, and `indices` and `labels`, (B,) int64. Columns
    with a window are cropped to it: in training at a position that is a function of (seed, epoch, index), otherwise in
    the middle. Columns whose samples have equal lengths, such as keypoints and their scores, share the crop. Tensors
    may be kept; those from `batches` are page-locked if there is a GPU.
    repeats: windows per sample in a batch, one after the other, (B * repeats, *shape). mean: their mean instead.
    """

    def __init__(
        self,
        reader: Joined,
        labels: Sequence[int],
        *,
        seed: int = 0,
        train: bool = True,
        repeats: int = 1,
        mean: bool = False,
    ) -> None:
        if len(labels) != len(reader):
            raise ValueError(f"{len(reader)} samples, but {len(labels)} labels")
        self.reader = reader
        self.labels = np.array(labels, dtype=np.int64)
        self.seed, self.train, self.repeats, self.mean = seed, train, repeats, mean
        # Means are computed while windows are gathered, if the reader can; `rows` is what a sample has in memory.
        self._gathers_means = mean and isinstance(reader, BatchReader) and repeats <= reader.most_means
        self._rows = 1 if self._gathers_means else repeats
        # What every batch holds as it is; for subclasses.
        self.in_all: Batch = {}
        self.spent = Spent()
        self._cropped = [bool(column.window) for column in reader.columns.values()]
        self._pool: BufferPool | None = None

    def __getstate__(self) -> dict[str, object]:
        """Everything but the memory, which stays in its process."""
        return {**self.__dict__, "_pool": None}

    def __getitems__(self, picks: Sequence[tuple[int, int]] | Sequence[int]) -> Batch:
        """The batch of these picks, see the class; plain indices count as epoch 0. Fresh memory.

        Raises `ValueError` for picks from several epochs.
        """
        epoch, indices = _plain(picks)
        return self._read(epoch, indices, self.reader.buffers(len(indices) * self._rows))

    def batches(self, batches: Sequence[BatchIndices], *, threads: int, depth: int) -> Iterator[Batch]:
        """The batches in order, made by threads, up to `depth` of them ahead of the loop, in reused memory.

        A loop that would have to wait for a batch from mapped stores makes one itself, see `cache.batches.work_ring`.
        """
        if not isinstance(self.reader, BatchReader):
            self._make_pool(batches)
            return ahead(self._batch, batches, threads=threads, depth=depth + threads)
        size = max((len(batch) for batch in batches), default=0) * self._rows
        together = min(_DRAWN, max(1, _TOGETHER // max(1, size * self.reader.sample_bytes)))
        self._make_pool(batches, together)
        return self._gathered(self.reader, batches, together, threads, depth)

    def windows(
        self, batches: Sequence[BatchIndices], window_of: np.ndarray, *, threads: int, depth: int
    ) -> Iterator[Batch]:
        """See `Streamed`."""
        self._make_pool(batches)
        made = windowed(self._batch, self.mapped, batches, window_of, threads)
        try:
            # One thread gathers, next to those that read: copying is ten times as fast as any disk.
            yield from ahead(lambda number: next(made), range(len(batches)), threads=1, depth=depth)
        finally:
            made.close()

    def _make_pool(self, batches: Sequence[BatchIndices], together: int = 1) -> None:
        """Memory for so many batches at once."""
        size = max((len(batch) for batch in batches), default=0) * self._rows * together
        if self._pool is None or self._pool.size != size:
            self._pool = BufferPool(self.reader, size, pinned=torch.cuda.is_available())

    def _batch(self, picks: BatchIndices) -> Batch:
        assert self._pool is not None
        began = time.thread_time()
        with self._pool.lend() as buffers:
            batch = self._read(picks.epoch, picks.indices, buffers)
        # Other threads decompress compressed stores too, and their time is not known here.
        seconds = time.thread_time() - began if isinstance(self.reader, BatchReader) else 0.0
        self.spent.add(seconds, len(picks) * self.repeats * self.reader.sample_bytes)
        return batch

    def _gathered(
        self, reader: BatchReader, batches: Sequence[BatchIndices], together: int, threads: int, depth: int
    ) -> Generator[Batch]:
        # Imports a compiler, which a command that only finds a finished run does not need.
        from unialign.cache.batches.work_ring import Gathering

        assert self._pool is not None
        # The loop gathers too; more threads than cores would only take turns.
        count = max(1, min(threads, usable_cores() - 1))
        depth = max(2, -(-(depth + count) // together))
        work = Gathering(reader, self._pool.size, depth, self.repeats if self._gathers_means else 1)
        made: deque[tuple[list[int], Batch]] = deque()
        spent: list[float] = []

        def help_gather() -> None:
            work.work()
            spent.append(time.thread_time())

        def next_made() -> list[Batch]:
            work.fetch()
            sizes, batch = made.popleft()
            separate = self._separate(batch, sizes)
            spent.append(time.thread_time() - began)
            return separate

        helpers = [threading.Thread(target=help_gather, name="batches", daemon=True) for _ in range(count)]
        for helper in helpers:
            helper.start()
        began = time.thread_time()
        try:
            for sizes, indices, starts in self._drawn_picks(batches, together):
                if len(made) == depth:
                    yield from next_made()
                    began = time.thread_time()
                with self._pool.lend() as buffers:
                    work.offer(self._positions(indices), starts, buffers)
                    made.append((sizes, self._tensors(indices, buffers.arrays)))
            while made:
                yield from next_made()
                began = time.thread_time()
        finally:
            work.close(count)
            for helper in helpers:
                helper.join()
            self.spent.add(sum(spent), sum(map(len, batches)) * self.repeats * reader.sample_bytes)

    def _read(self, epoch: int, indices: np.ndarray, buffers: Buffers) -> Batch:
        asked = self._positions(indices), self._starts(epoch, indices), buffers
        if self._gathers_means and isinstance(self.reader, BatchReader):
            arrays = self.reader.read(*asked, means=self.repeats)
        else:
            arrays = self.reader.read(*asked)
        return self._separate(self._tensors(indices, arrays), [len(indices)])[0]

    def _positions(self, indices: np.ndarray) -> np.ndarray:
        return np.repeat(indices, self.repeats) if self.repeats > 1 else indices

    def _finished(self, batch: Batch) -> Batch:
        """What is returned of batches once their arrays hold their values, each tensor by sample; for subclasses."""
        return batch

    def _separate(self, batch: Batch, sizes: list[int]) -> list[Batch]:
        """The finished batches of these sizes, which were gathered as one."""
        if self.mean and self._rows > 1:
            for name in self.reader.columns:
                batch[name] = batch[name].unflatten(0, (-1, self.repeats)).mean(dim=1)
        batch = self._finished(batch)
        if len(sizes) == 1:
            return [{**batch, **self.in_all}]
        # Tensors' own `split` takes three times as long.
        parts = [torch.split_with_sizes(values, sizes) for values in batch.values()]
        return [{**dict(zip(batch, each, strict=True)), **self.in_all} for each in zip(*parts, strict=True)]

    def _drawn_picks(
        self, batches: Sequence[BatchIndices], together: int
    ) -> Iterator[tuple[list[int], np.ndarray, np.ndarray | None]]:
        """For `together` batches each: their sizes, their samples, and the crops of these.

        Crops are drawn for many batches at once: that costs little more than for one.
        """
        for first in range(0, len(batches), _DRAWN - _DRAWN % together):
            some = batches[first : first + _DRAWN - _DRAWN % together]
            indices, sizes = np.concatenate([picks.indices for picks in some]), [len(picks) for picks in some]
            starts, end = self._starts(some[0].epoch, indices), 0
            for place in range(0, len(some), together):
                of_these = sizes[place : place + together]
                begin, end = end, end + sum(of_these)
                rows = slice(begin * self.repeats, end * self.repeats)
                yield of_these, indices[begin:end], None if starts is None else starts[rows]

    def _starts(self, epoch: int, indices: np.ndarray) -> np.ndarray | None:
        """(B * repeats, columns) the first entry of each window; uncropped columns begin at 0; for subclasses."""
        if not any(self._cropped):
            return None
        indices = self._positions(indices)
        spare = np.maximum(self.reader.lengths[indices] - self.reader.layout[:, 3], 0) * self._cropped
        if not self.train:
            return np.asarray(spare // 2)
        return np.stack([crop_starts(self.seed, epoch, indices, each) for each in spare.T], axis=1)

    def _tensors(self, indices: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Batch:
        batch: Batch = {name: torch.from_numpy(array[: len(indices) * self._rows]) for name, array in arrays.items()}
        batch["indices"] = torch.from_numpy(indices)
        batch["labels"] = torch.from_numpy(self.labels[indices])
        return batch


def _plain(picks: Sequence[tuple[int, int]] | Sequence[int]) -> tuple[int, np.ndarray]:
    if isinstance(picks, BatchIndices):
        return picks.epoch, picks.indices
    values = np.array(picks, dtype=np.int64)
    if values.ndim == 1:
        return 0, values
    if len(np.unique(values[:, 0])) > 1:
        raise ValueError("the picks of a batch are of several epochs")
    return int(values[0, 0]), values[:, 1]


FEATURE = "feature"


class PooledFeatures(CachedArrays):
    """`CachedArrays` of the column "feature" (V, P), averaged over tokens; returns its mean over some views instead.

    Only those views are read: the column has a window of 1.
    A batch holds pose_features (B, P), and `indices` and `labels`, (B,) int64. Training and evaluation read the same:
    the published method augments nothing. candidates: the classes to choose from, in evaluation only, as `candidates`
    (U,) int64 in each batch.
    """

    def __init__(
        self, reader: Joined, labels: Sequence[int], views: Sequence[int], candidates: Sequence[int] = ()
    ) -> None:
        super().__init__(reader, labels, train=False, repeats=len(views), mean=True)
        self.views = np.array(views, dtype=np.int64)
        if candidates:
            self.in_all = {"candidates": torch.tensor(list(candidates), dtype=torch.int64)}

    def _starts(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        return np.tile(self.views, len(indices))[:, None]

    def _finished(self, batch: Batch) -> Batch:
        batch["pose_features"] = batch.pop(FEATURE)[:, 0]
        return batch
