"""Samples of several stores joined by id: for a stock `DataLoader`, or as batches at the full speed of the cache."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Column, Joined, columns_of
from unialign.cache.reader import Recorded
from unialign.cache.remote.fetching import FetchingReader
from unialign.errors import MissingCache, UsageError
from unialign.stages.training.cached import CachedArrays
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.reading import is_mapped
from unialign.stages.training.samples import Batch
from unialign.stages.training.settings import settings_from


def joined(
    stores: Sequence[Recorded],
    *,
    ids: Sequence[str] | None = None,
    window: int = 0,
    arrays: Sequence[str] | None = None,
) -> Joined:
    """A batch reader over several stores.

    ids: which samples, in which order; by default all that every store holds, sorted. window: entries of the first axis
    that a batch holds of arrays whose samples differ in length. arrays: their names; all by default. An array name that
    two stores have becomes "<modality>.<array>".
    Raises `UsageError` for no stores, an unknown array, and samples that differ in length without a window;
    `MissingCache` if no sample is in all stores, or if one of `ids` is not.
    """
    if not stores:
        raise UsageError("no stores are given; open some with unialign.open_store(path).")
    names = [spec.name for store in stores for spec in store.store.arrays]
    if unknown := sorted(set(arrays or ()) - set(names)):
        raise UsageError(f"no store has an array {unknown[0]!r}; known are {', '.join(sorted(set(names)))}.")
    columns: dict[str, Column] = {}
    for store in stores:
        for name, column in columns_of(store, arrays, window=window).items():
            spelled = f"{store.store.modality}.{name}" if names.count(name) > 1 else name
            if spelled in columns:
                raise UsageError(f"two stores give {spelled}; two stores of one modality cannot be joined.")
            columns[spelled] = column
    chosen = tuple(ids) if ids is not None else tuple(sorted(set.intersection(*(set(store.ids) for store in stores))))
    if not chosen:
        raise MissingCache("no sample is in all of these stores; are they of one collection?")
    return BatchReader(columns, chosen) if all(map(is_mapped, stores)) else FetchingReader(columns, chosen)


def label_numbers(labels: Mapping[str, int] | None, ids: Sequence[str]) -> np.ndarray | None:
    """(N,) labels of the ids. Raises `UsageError` for an id without one."""
    if labels is None:
        return None
    if missing := next((name for name in ids if name not in labels), None):
        raise UsageError(f"sample {missing!r} has no label; give one for each id, or leave out those without.")
    return np.array([labels[name] for name in ids], dtype=np.int64)


class StoreDataset(Dataset[Any]):
    """Map-style dataset over joined stores, for a stock `torch.utils.data.DataLoader` with its default collate.

    `dataset[i]` is one sample: a dict of tensors by array, with "id" and, if labels are known, "label". A list of
    indices gives a whole batch: tensors (B, ...), which is what `DataLoader(dataset, sampler=BatchSampler(...),
    batch_size=None)` requests, and faster; with `batch_size=64` the samples are gathered together and collated. Windows
    of samples that differ in length are taken from the middle.
    """

    def __init__(self, reader: Joined, labels: Mapping[str, int] | None = None) -> None:
        self.ids = reader.ids
        self._labels = label_numbers(labels, reader.ids)
        numbers = self._labels if self._labels is not None else np.zeros(len(reader), dtype=np.int64)
        self._arrays = CachedArrays(reader, numbers.tolist(), train=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int | Sequence[int]) -> dict[str, Any]:
        if isinstance(place, (int, np.integer)):
            if not -len(self) <= place < len(self):
                raise IndexError(f"place {place} is outside of {len(self)} samples")
            return self.__getitems__([int(place) % len(self)])[0]
        return self._named(self._arrays.__getitems__([int(each) for each in place]))

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """One dict per sample; all are read at once."""
        batch = self._arrays.__getitems__(list(places))
        whole = self._named(batch)
        return [{name: values[row] for name, values in whole.items()} for row in range(len(places))]

    def _named(self, batch: Batch) -> dict[str, Any]:
        indices, labels = batch.pop("indices"), batch.pop("labels")
        named: dict[str, Any] = {**batch, "id": [self.ids[place] for place in indices.tolist()]}
        return {**named, "label": labels} if self._labels is not None else named


class Batches:
    """Batches of joined stores as dicts of tensors, gathered by threads ahead of the loop.

    Each pass over the object is the next epoch; `epoch(n)` is a specific one. The order is a function of (seed, epoch),
    a window of (seed, epoch, sample), so the same arguments give the same batches on every machine.
    ids: the samples, in the order that "indices" of a batch refers to.
    """

    def __init__(
        self,
        reader: Joined,
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        labels: Mapping[str, int] | None = None,
        window_shards: int = 0,
    ) -> None:
        settings = settings_from(
            # NumPy integers too.
            {"batch_size": int(batch_size), "seed": int(seed), "window_shards": int(window_shards)}
        )
        self.ids = reader.ids
        self._labels = label_numbers(labels, reader.ids)
        numbers = self._labels if self._labels is not None else np.zeros(len(reader), dtype=np.int64)
        self._loader = Loader(CachedArrays(reader, numbers.tolist(), seed=seed, train=shuffle), settings)
        self._shuffle, self._size, self._next = shuffle, batch_size, 0

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return -(-len(self.ids) // self._size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        number, self._next = self._next, self._next + 1
        return self.epoch(number)

    def epoch(self, number: int) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of one epoch, from 0; without `shuffle` all epochs are the samples in order."""
        if self._shuffle:
            yield from (self._named(share.data) for share in self._loader.epoch(Position(number)))
        else:
            yield from (self._named(batch) for batch in self._loader.in_order())

    def _named(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self._labels is None:
            return {name: value for name, value in batch.items() if name != "labels"}
        return dict(batch)
