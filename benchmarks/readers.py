"""The readers of this project under test, and plain forms of a memory map to compare them with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from workloads import BATCH, Batch, Data, Epoch

from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Column, columns_of
from unialign.cache.reader import StoreReader
from unialign.stages.training.cached import CachedArrays
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.settings import TrainSettings


@dataclass(frozen=True)
class Reader:
    """exact: it reads in the given order; others have their own order."""

    make: Callable[[Data], Epoch | None]
    exact: bool = True


def batches(order: np.ndarray) -> Iterator[np.ndarray]:
    """The whole batches of an order."""
    for start in range(0, len(order) - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


def memmap_take(data: Data, mode: str) -> Epoch:
    """One `numpy.take` per batch and array into a reused buffer."""
    maps = data.maps()
    tensors, views = data.buffers()

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            for name, view in views.items():
                np.take(maps[name], positions, axis=0, out=view, mode=mode)
            yield tensors

    return epoch


def memmap_rows(data: Data) -> Epoch:
    """A loop over the samples of a batch."""
    maps = data.maps()
    tensors, views = data.buffers()

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            for place, position in enumerate(positions.tolist()):
                for name, view in views.items():
                    view[place] = maps[name][position]
            yield tensors

    return epoch


def memmap_torch(data: Data) -> Epoch:
    """One `torch.index_select` per batch and array into a reused buffer; it may use several threads."""
    maps = tensors_of(data.maps("c"))
    tensors, _ = data.buffers()

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            places = torch.from_numpy(positions)
            for name, tensor in tensors.items():
                torch.index_select(maps[name], 0, places, out=tensor)
            yield tensors

    return epoch


def batch_reader(paths: Sequence[Path], ids: Sequence[str]) -> BatchReader:
    """Our reader of batches, joined over the stores."""
    columns: dict[str, Column] = {}
    for path in paths:
        columns |= columns_of(StoreReader(path))
    return BatchReader(columns, ids)


def tensors_of(arrays: Mapping[str, np.ndarray]) -> Batch:
    """The same memory as tensors."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def unialign_batches(data: Data, paths: Sequence[Path], *, reuse: bool = True) -> Epoch:
    """Whole batches by one gather, into the same memory each time or into fresh memory."""
    reader = batch_reader(paths, data.ids)
    buffers = reader.buffers(BATCH) if reuse else None

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            yield tensors_of(reader.read(positions, buffers=buffers))

    return epoch


def cached_arrays(data: Data) -> CachedArrays:
    """The stores as a training dataset; labels are sample numbers."""
    return CachedArrays(batch_reader(data.stores, data.ids), range(data.samples))


def unialign_loader(data: Data, threads: int) -> Epoch:
    """The training loader: its own full shuffle, gathered by threads ahead of the loop."""
    loader = Loader(cached_arrays(data), TrainSettings(batch_size=BATCH, read_threads=threads))
    epochs = count()

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        shares = loader.epoch(Position(next(epochs)))
        yield from (share.data for share in islice(shares, len(order) // BATCH))

    return epoch


def unialign_samples(data: Data) -> Epoch:
    """Sample by sample, by id: what works for ragged arrays too."""
    readers = [StoreReader(path) for path in data.stores]
    ids = data.ids
    tensors, views = data.buffers()

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        for positions in batches(order):
            for place, position in enumerate(positions.tolist()):
                for reader in readers:
                    for name, value in reader.read_one(ids[position]).items():
                        views[name][place] = value
            yield tensors

    return epoch


class _Order:
    """The batch sampler of the coming epoch."""

    def __init__(self) -> None:
        self.order = np.empty(0, dtype=np.int64)

    def __iter__(self) -> Iterator[list[int]]:
        for positions in batches(self.order):
            yield positions.tolist()

    def __len__(self) -> int:
        return len(self.order) // BATCH


def whole(batch: Batch) -> Batch:
    """The batch as the dataset made it."""
    return batch


def unialign_workers(data: Data) -> Epoch:
    """torch's stock loader with two worker processes, which persist between epochs."""
    sampler = _Order()
    loader = DataLoader(
        cached_arrays(data),
        batch_sampler=sampler,
        num_workers=2,
        collate_fn=whole,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )

    def epoch(order: np.ndarray) -> Iterator[Batch]:
        sampler.order = order
        yield from loader

    return epoch


def one_store(data: Data) -> Epoch | None:
    """All arrays of a sample in one store; None where the workload has one array only."""
    return unialign_batches(data, [data.store]) if len(data.stores) > 1 else None


BASE = "memmap"

# Compared in every round; the first is the base of all ratios.
READERS = {
    BASE: Reader(lambda data: memmap_take(data, "clip")),
    "memmap, default mode": Reader(lambda data: memmap_take(data, "raise")),
    "memmap, row by row": Reader(memmap_rows),
    "memmap, torch.index_select": Reader(memmap_torch),
    "unialign, loader with 2 threads": Reader(lambda data: unialign_loader(data, 2), exact=False),
    "unialign, loader with 1 thread": Reader(lambda data: unialign_loader(data, 1), exact=False),
    "unialign, gather in the loop": Reader(lambda data: unialign_batches(data, data.stores)),
    "unialign, gather in the loop, one store": Reader(one_store),
    "unialign, gather into fresh memory": Reader(lambda data: unialign_batches(data, data.stores, reuse=False)),
    "unialign, sample by sample": Reader(unialign_samples),
}

# Measured alternating with the base only, because its processes would disturb the others.
WITH_PROCESSES = {"unialign, stock DataLoader of 2 workers": Reader(unialign_workers)}
