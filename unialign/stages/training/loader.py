"""Batches in the order of `order`, decoded in parallel to the training loop, with a meter of its waiting time."""

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unialign.cache.cores import usable_cores
from unialign.errors import UsageError
from unialign.stages.training.order import BatchIndices, epoch_order, rank_slice, window_order
from unialign.stages.training.prefetch import ahead, on_device
from unialign.stages.training.samples import Batch
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.streamed import Spent, Streamed


class BatchSource(Protocol):
    """A dataset that returns whole batches: `Clips` or `PoseClips`."""

    def __len__(self) -> int: ...

    def __getitems__(self, picks: Sequence[tuple[int, int]]) -> Batch:
        """The batch of these picks."""


@dataclass(frozen=True)
class Position:
    """Position of a run: the epoch (from 0) and how many of its samples are done, over all processes."""

    epoch: int = 0
    samples: int = 0


@dataclass
class Meter:
    """How long one pass over a loader took, from start to end (or until now), and how much of it was waiting.

    samples: number returned. spent: cost of making them; complete once the pass has ended. threads: that made them.
    """

    waited: float = 0.0
    started: float = 0.0
    ended: float | None = None
    samples: int = 0
    spent: Spent = field(default_factory=Spent)
    threads: int = 1

    def start(self) -> None:
        """Start a pass."""
        self.waited, self.started, self.ended = 0.0, time.perf_counter(), None
        self.samples, self.spent = 0, Spent()

    def stop(self) -> None:
        """End the pass."""
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Length of the pass; 0 before the first."""
        if not self.started:
            return 0.0
        return (time.perf_counter() if self.ended is None else self.ended) - self.started

    @property
    def share(self) -> float:
        """Fraction of the pass that the loop waited for batches, in [0, 1]."""
        return min(1.0, self.waited / self.seconds) if self.seconds else 0.0

    @property
    def megabytes_per_second(self) -> float:
        """Data read from the stores, in 10^6 bytes; 0 if unknown (worker processes, extraction online)."""
        return self.spent.bytes / 1e6 / self.seconds if self.seconds else 0.0

    @property
    def samples_alone(self) -> float:
        """Samples per second that the loader would reach if it waited for nobody and had its cores; 0 if unknown."""
        return self.threads * self.samples / self.spent.seconds if self.spent.seconds else 0.0


@dataclass(slots=True)
class RankBatch:
    """One batch of one process. Not frozen: that costs 1.5 µs, a tenth of a batch of pooled features.

    count: samples of this process that count; a process that has none left gets one sample with count 0, so that all
    processes take the same number of steps. total: samples of the batch over all processes. batch, num_batches: its
    number in the epoch and the number of batches in the epoch. after: the position once it is done.
    indices: (count,) places of its samples in the list of samples. step_total: samples over all processes of the
    optimizer step that the batch belongs to. ends_step: whether it is the last batch of that step.
    """

    data: Batch
    count: int
    total: int
    batch: int
    num_batches: int
    after: Position
    indices: np.ndarray
    step_total: int
    ends_step: bool


class _Sampler:
    """The batch sampler: what the next pass over the loader fetches."""

    def __init__(self) -> None:
        self.batches: Sequence[BatchIndices] = ()

    def __iter__(self) -> Iterator[BatchIndices]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Loader:
    """Batches of a dataset for one process of a run.

    If `settings.num_workers` is 0, threads prepare the next batches while the loop works, otherwise processes do.
    Batches are the same for any number of workers; their union over processes is the same for any number of processes.
    device: if it is a GPU, batches are copied there in parallel to the loop, on a separate stream.
    """

    def __init__(
        self,
        source: BatchSource,
        settings: TrainSettings,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        if settings.window_shards and (settings.num_workers or not isinstance(source, Streamed)):
            raise UsageError("train.settings.window_shards is for stores read by threads; set num_workers to 0.")
        if isinstance(source, Streamed):
            source.use(device)
        self.source = source
        self.settings = settings
        self.rank, self.world_size = rank, world_size
        self.device = device
        # Processes on one machine share its cores.
        mine = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.threads = settings.read_threads or max(1, mine)
        self.meter = Meter(threads=self.threads)
        self._position = Position()
        self._sampler = _Sampler()
        workers = settings.num_workers
        self._stock: DataLoader[Batch] = DataLoader(
            cast("Dataset[Batch]", source),
            batch_sampler=cast("Sequence[list[int]]", self._sampler),
            num_workers=workers,
            collate_fn=_whole,
            # Spawned processes inherit no threads and no locks.
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
            prefetch_factor=settings.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
            # A separate generator: each pass draws a seed, which must not advance the one that dropout uses.
            generator=torch.Generator().manual_seed(settings.seed),
        )

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, position: Position) -> Iterator[RankBatch]:
        """The rest of a training epoch, shuffled."""
        order, window_of = self._order(position.epoch)
        shares = rank_slice(
            order,
            rank=self.rank,
            world_size=self.world_size,
            batch_size=self.settings.batch_size,
            start=position.samples,
        )
        size, end = self.settings.batch_size, len(order)
        # If this process has no samples in the last batch, it takes the batch's first sample with a count of 0.
        starts = range(position.samples, end, size)
        batches = [
            BatchIndices(position.epoch, share if len(share) else order[first : first + 1])
            for first, share in zip(starts, shares, strict=True)
        ]
        done, per_step = -(-position.samples // size), self.settings.accumulate
        fetched = self._fetched(batches, window_of)
        for batch, (first, share, data) in enumerate(zip(starts, shares, fetched, strict=True), start=done):
            total = min(size, end - first)
            after = Position(position.epoch, first + total) if first + total < end else Position(position.epoch + 1)
            self._position = after
            step_start = first - batch % per_step * size
            yield RankBatch(
                data,
                len(share),
                total,
                batch,
                done + len(starts),
                after,
                share,
                step_total=min(per_step * size, end - step_start),
                ends_step=(batch + 1) % per_step == 0 or after.epoch > position.epoch,
            )

    def names(self, indices: np.ndarray) -> list[str]:
        """Ids of samples by their places, or the places where the source knows no ids."""
        ids = self.source.reader.ids if isinstance(self.source, Streamed) else range(len(self.source))
        return [str(ids[index]) for index in indices.tolist()]

    def in_order(self) -> Iterator[Batch]:
        """Every sample once over all processes, in order, for evaluation; no sample is repeated to fill a batch."""
        # Nothing is kept for a backward pass, so a GPU has room for more; a processor is no faster with more.
        factor = 2 if self.device is not None and self.device.type == "cuda" else 1
        size = self.settings.eval_batch_size or factor * self.settings.batch_size
        shares = rank_slice(np.arange(len(self.source)), rank=self.rank, world_size=self.world_size, batch_size=size)
        yield from self._fetched([BatchIndices(0, share) for share in shares if len(share)])

    def state_dict(self) -> dict[str, int]:
        """The loader's position: after the last batch that it returned. The same on all processes of a run."""
        return {"epoch": self._position.epoch, "samples": self._position.samples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from there with `resume`, even with other workers or another number of processes."""
        self._position = Position(state["epoch"], state["samples"])

    def resume(self) -> Iterator[RankBatch]:
        """The rest of the epoch that was loaded or interrupted; once that has ended, the next whole one."""
        return self.epoch(self._position)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        settings = self.settings
        if settings.window_shards and isinstance(self.source, Streamed):
            return window_order(self.source.shards, settings.seed, epoch, settings.window_shards)
        return epoch_order(len(self.source), settings.seed, epoch), None

    def _made(self, batches: Sequence[BatchIndices], window_of: np.ndarray | None) -> Iterator[Batch]:
        settings, source = self.settings, self.source
        if settings.num_workers:
            self._sampler.batches = batches
            return iter(self._stock)
        if isinstance(source, Streamed):
            threads = self.threads
            if window_of is not None:
                return source.windows(batches, window_of, threads=threads, depth=settings.prefetch)
            return source.batches(batches, threads=threads, depth=settings.prefetch)
        return ahead(source.__getitems__, batches, threads=1, depth=settings.prefetch)

    def _fetched(self, picks: Sequence[BatchIndices], window_of: np.ndarray | None = None) -> Iterator[Batch]:
        given = 0
        self.meter.start()
        if isinstance(self.source, Streamed):
            self.source.spent = self.meter.spent
        batches = self._made(picks, window_of)
        if self.device is not None and self.device.type == "cuda":
            batches = on_device(batches, self.device)
        try:
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                self.meter.waited += time.perf_counter() - asked
                if batch is None:
                    return
                self.meter.samples += len(picks[given])
                given += 1
                yield batch
        finally:
            self.meter.stop()
            if isinstance(batches, Generator):
                batches.close()


def _whole(batch: Any) -> Any:
    """The batch as returned by the dataset."""
    return batch
