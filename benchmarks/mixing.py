"""How well an order of samples is mixed, for readers that shuffle within windows instead of the whole collection.

Everything is a function of the order alone: the storage position of each sample of an epoch, in epoch order. For each
measure there is also its mean for a full shuffle.
"""

from math import lgamma

import numpy as np


def position_correlation(order: np.ndarray) -> float:
    """Spearman's correlation of storage position and position in the epoch, in [-1, 1]; about 0 for a full shuffle.

    order: (N,) distinct storage positions; they need not cover the collection. Its standard deviation over full
        shuffles is 1 / sqrt(N - 1). Raises `ValueError` for fewer than two samples or a repeated position.
    """
    count = len(order)
    if count < 2:
        raise ValueError("a correlation needs at least two samples")
    if len(np.unique(order)) != count:
        raise ValueError("a storage position comes twice in the order")
    ranks = np.empty(count, dtype=np.float64)
    ranks[np.argsort(order)] = np.arange(count)
    centred, places = ranks - (count - 1) / 2, np.arange(count) - (count - 1) / 2
    return float(centred @ places / (places @ places))


def group_neighbours(order: np.ndarray, groups: np.ndarray, batch_size: int) -> float:
    """How many of the other samples in its batch share a sample's group (the shard that it is in), on average.

    order: (N,) storage positions. groups: (M,) group of each storage position, integers from 0.
    Only full batches count. Raises `ValueError` if no batch is full.
    """
    counts, batches = _counts(order, groups, batch_size)
    return float((counts * (counts - 1)).sum() / (batches * batch_size))


def expected_neighbours(groups: np.ndarray, batch_size: int) -> float:
    """`group_neighbours` of a full shuffle, on average: batch_size - 1 times the chance to share a group.

    Raises `ValueError` for fewer than two samples.
    """
    sizes, total = np.bincount(groups).astype(np.float64), len(groups)
    if total < 2:
        raise ValueError("neighbours need at least two samples")
    return float((batch_size - 1) * (sizes * (sizes - 1)).sum() / (total * (total - 1)))


def distinct_classes(order: np.ndarray, labels: np.ndarray, batch_size: int) -> float:
    """How many different classes a batch contains, on average over full batches.

    order: (N,) storage positions. labels: (M,) class of each storage position, integers from 0.
    Raises `ValueError` if no batch is full.
    """
    counts, batches = _counts(order, labels, batch_size)
    return len(counts) / batches


def expected_classes(labels: np.ndarray, batch_size: int) -> float:
    """`distinct_classes` of a full shuffle, on average, exactly: batches are drawn without replacement.

    Raises `ValueError` for a batch larger than the collection.
    """
    total = len(labels)
    if not 0 < batch_size <= total:
        raise ValueError(f"a batch of {batch_size} cannot be drawn from {total} samples")
    sizes = np.bincount(labels)
    # A class of n samples misses a batch with chance C(total - n, batch) / C(total, batch).
    missing = sum(
        np.exp(_log_choose(total - size, batch_size) - _log_choose(total, batch_size))
        for size in sizes[sizes > 0].tolist()
        if total - size >= batch_size
    )
    return float((sizes > 0).sum() - missing)


def _log_choose(total: int, taken: int) -> float:
    return lgamma(total + 1) - lgamma(taken + 1) - lgamma(total - taken + 1)


def _counts(order: np.ndarray, groups: np.ndarray, batch_size: int) -> tuple[np.ndarray, int]:
    """The number of samples of each group that occurs in each full batch, in one list; and the number of full
    batches.
    """
    batches = len(order) // batch_size
    if not batches:
        raise ValueError(f"{len(order)} samples do not fill a batch of {batch_size}")
    found = groups[order[: batches * batch_size]].astype(np.int64)
    # A table of batches by groups would not fit into memory for a million samples.
    pairs = np.repeat(np.arange(batches), batch_size) * (int(found.max()) + 1) + found
    return np.unique(pairs, return_counts=True)[1], batches
