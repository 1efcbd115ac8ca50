"""Batches in the order of `order`, decoded beside the training loop, with a meter of the time that the loop waits."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unialign.stages.training.clips import Batch, Pick
from unialign.stages.training.order import epoch_order, rank_slice
from unialign.stages.training.settings import TrainSettings


class BatchSource(Protocol):
    """A dataset that makes whole batches: `Clips` or `PoseClips`."""

    def __len__(self) -> int: ...

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        """The batch of these picks."""


@dataclass(frozen=True)
class Position:
    """Where a run is: the epoch (from 0) and the samples of it that are done, over all processes."""

    epoch: int = 0
    samples: int = 0


@dataclass
class Meter:
    """How long one pass over a loader took, from start to end (or until now), and how much of it was waiting."""

    waited: float = 0.0
    started: float = 0.0
    ended: float | None = None

    def start(self) -> None:
        """A pass begins."""
        self.waited, self.started, self.ended = 0.0, time.perf_counter(), None

    def stop(self) -> None:
        """It is over."""
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Length of the pass; 0 before the first."""
        if not self.started:
            return 0.0
        return (time.perf_counter() if self.ended is None else self.ended) - self.started

    @property
    def share(self) -> float:
        """Share of the pass that the loop waited for batches, in [0, 1]."""
        return min(1.0, self.waited / self.seconds) if self.seconds else 0.0


@dataclass(frozen=True)
class Share:
    """One batch of one process.

    count: samples of this process that count; a process that has none left gets one sample with count 0, so that all
    take the same number of steps. total: samples of the batch over all processes. batch, num_batches: its number in
    the epoch and how many the epoch has. after: the position once it is done.
    """

    data: Batch
    count: int
    total: int
    batch: int
    num_batches: int
    after: Position


class _Picks:
    """The batch sampler: what the next pass over the loader shall fetch."""

    def __init__(self) -> None:
        self.batches: list[list[Pick]] = []

    def __iter__(self) -> Iterator[list[Pick]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Loader:
    """Batches of a dataset for one process of a run.

    With `settings.num_workers` of 0 a thread prepares the next batches while the loop works, otherwise processes do.
    Batches are the same for any number of workers; their union over processes is the same for any number of those.
    """

    def __init__(self, source: BatchSource, settings: TrainSettings, *, rank: int = 0, world_size: int = 1) -> None:
        self.source = source
        self.settings = settings
        self.rank, self.world_size = rank, world_size
        self.meter = Meter()
        self._picks = _Picks()
        workers = settings.num_workers
        self._stock: DataLoader[Batch] = DataLoader(
            cast("Dataset[Batch]", source),
            batch_sampler=cast("Sequence[list[int]]", self._picks),
            num_workers=workers,
            collate_fn=_whole,
            # Spawned processes inherit no threads and no locks.
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
            prefetch_factor=settings.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: each pass draws a seed, which must not move the one that dropout uses.
            generator=torch.Generator().manual_seed(settings.seed),
        )

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, position: Position) -> Iterator[Share]:
        """The rest of an epoch of training, shuffled."""
        order = epoch_order(len(self.source), self.settings.seed, position.epoch)
        shares = rank_slice(
            order,
            rank=self.rank,
            world_size=self.world_size,
            batch_size=self.settings.batch_size,
            start=position.samples,
        )
        size, end = self.settings.batch_size, len(order)
        # Where this process has nothing in the last batch, it takes the batch's first sample with a count of 0.
        starts = range(position.samples, end, size)
        self._picks.batches = [
            [(position.epoch, int(index)) for index in (share if len(share) else order[first : first + 1])]
            for first, share in zip(starts, shares, strict=True)
        ]
        done = -(-position.samples // size)
        for number, (first, share, data) in enumerate(zip(starts, shares, self._fetched(), strict=True)):
            total = min(size, end - first)
            after = Position(position.epoch, first + total) if first + total < end else Position(position.epoch + 1)
            yield Share(data, len(share), total, done + number, done + len(starts), after)

    def in_order(self) -> Iterator[Batch]:
        """Every sample once over all processes, in order, for evaluation; no sample comes twice to fill a batch."""
        size = self.settings.batch_size
        shares = rank_slice(np.arange(len(self.source)), rank=self.rank, world_size=self.world_size, batch_size=size)
        self._picks.batches = [[(0, int(index)) for index in share] for share in shares if len(share)]
        yield from self._fetched()

    def _fetched(self) -> Iterator[Batch]:
        self.meter.start()
        batches = iter(self._stock) if self.settings.num_workers else _ahead(self._stock, self.settings.prefetch)
        try:
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                self.meter.waited += time.perf_counter() - asked
                if batch is None:
                    return
                yield batch
        finally:
            self.meter.stop()


def _whole(batch: Any) -> Any:
    """The batch as the dataset made it."""
    return batch


def _ahead(batches: "DataLoader[Batch]", depth: int) -> Iterator[Batch]:
    """The same batches, made by a thread that is up to `depth` ahead. An error there is raised here."""
    waiting: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
