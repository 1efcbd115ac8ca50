"""Order and randomness as functions, not state: what comes next follows from (seed, epoch, sample) alone.

An epoch is one fixed permutation of the samples, cut into batches for the whole run and then distributed over its
processes. So neither the number of workers nor that of processes changes the content of a batch, and a resumed run,
even with another number of processes, skips the prefix that is already done.

Source: the elastic sampling of litData (streaming/elastic.py) and the index functions of google/grain; own code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

# Separate streams of random numbers from one seed.
_ORDER, _SAMPLE, _PROCESS, _CROP, _BATCH = 0, 1, 2, 3, 4


def _stream(seed: int, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=key)


@dataclass(frozen=True)
class BatchIndices(Sequence[tuple[int, int]]):
    """The samples of a batch: (epoch, index in the list of samples) pairs. indices: (B,) int64."""

    epoch: int
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, place: slice) -> "BatchIndices": ...
    def __getitem__(self, place: int | slice) -> "tuple[int, int] | BatchIndices":
        if isinstance(place, slice):
            return BatchIndices(self.epoch, self.indices[place])
        return self.epoch, int(self.indices[place])


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation (num_samples,) of an epoch, int64; a function of its arguments only."""
    generator = np.random.Generator(np.random.Philox(_stream(seed, _ORDER, epoch)))
    return generator.permutation(num_samples).astype(np.int64)


def sample_generator(seed: int, epoch: int, sample_index: int) -> np.random.Generator:
    """The random numbers for one sample in one epoch."""
    return np.random.Generator(np.random.Philox(_stream(seed, _SAMPLE, epoch, sample_index)))


def batch_generator(seed: int, epoch: int, samples: int, rank: int) -> np.random.Generator:
    """The random numbers for the part of a batch that a process has; samples: of the epoch that are done behind it."""
    return np.random.Generator(np.random.Philox(_stream(seed, _BATCH, epoch, samples, rank)))


def sample_words(seed: int, epoch: int, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two words, (B,) uint64 each, of the `sample_generator` of each of these samples.

    samples: (B,) indices in the list, below 2^32. Setting up a generator takes 20 microseconds per sample, this less
    than one. Source: numpy's SeedSequence, and Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    2011).
    """
    # All but the last word of the entropy is the same for all samples, so only that one is mixed in for each.
    first = _words(seed)
    entropy = [*first, *[0] * (4 - len(first)), _SAMPLE, *_words(epoch)]
    constants = _constants(0x43B0D7E5, 0x931E8875)
    pool = [_hashed(np.array(word, dtype=np.uint32), *next(constants)) for word in entropy[:4]]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = _mixed(pool[target], _hashed(pool[source], *next(constants)))
    for word in [*(np.array(each, dtype=np.uint32) for each in entropy[4:]), samples.astype(np.uint32)]:
        pool = [_mixed(each, _hashed(word, *next(constants))) for each in pool]
    constants = _constants(0x8B51F9DD, 0x58F38DED)
    low, high, lower, higher = (_hashed(each, *next(constants)).astype(np.uint64) for each in pool)
    return _philox(low | high << np.uint64(32), lower | higher << np.uint64(32))


def _words(number: int) -> list[int]:
    return [number >> shift & 0xFFFFFFFF for shift in range(0, max(1, number.bit_length()), 32)]


def _constants(first: int, factor: int) -> Iterator[tuple[np.uint32, np.uint32]]:
    while True:
        following = first * factor & 0xFFFFFFFF
        yield np.uint32(first), np.uint32(following)
        first = following


def _hashed(value: np.ndarray, before: np.uint32, after: np.uint32) -> np.ndarray:
    with np.errstate(over="ignore"):
        product: np.ndarray = (value ^ before) * after
    return np.asarray(product ^ product >> np.uint32(16))


def _mixed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        value: np.ndarray = np.subtract(one * np.uint32(0xCA01F9DD), other * np.uint32(0x4973F715))
    return np.asarray(value ^ value >> np.uint32(16))


def _philox(key: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two words of Philox4x64-10 for these keys."""
    counter = [np.full_like(key, word) for word in (1, 0, 0, 0)]
    for number in range(10):
        if number:
            key, other = key + np.uint64(0x9E3779B97F4A7C15), other + np.uint64(0xBB67AE8584CAA73B)
        (high, low), (higher, lower) = (
            _product(counter[place], factor) for place, factor in ((0, 0xD2E7470EE14C6C93), (2, 0xCA5A826395121157))
        )
        counter = [higher ^ counter[1] ^ key, lower, high ^ counter[3] ^ other, low]
    return counter[0], counter[1]


def _product(values: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of values times factor."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    low, high = np.uint64(factor & 0xFFFFFFFF), np.uint64(factor >> 32)
    cross = (values & mask) * high
    upper = (values >> half) * low + (((values & mask) * low) >> half) + (cross & mask)
    return (values >> half) * high + (cross >> half) + (upper >> half), values * np.uint64(factor)


def window_order(shard: np.ndarray, seed: int, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """An order that accesses only `window` shards at a time, for stores that are larger than memory, or cold.

    The shards are shuffled and cut into windows of `window`; within a window the samples are shuffled. shard: (N,) the
    shard of each sample. Returns the permutation (N,) of the epoch, and the window of each sample, (N,), both int64.
    `benchmarks/mixing.py` measures how well it mixes.
    """
    generator = np.random.Generator(np.random.Philox(_stream(seed, _ORDER, epoch)))
    _, place = np.unique(shard, return_inverse=True)
    num_shards = int(place.max()) + 1 if len(place) else 0
    rank = np.empty(num_shards, dtype=np.int64)
    rank[generator.permutation(num_shards)] = np.arange(num_shards)
    of_sample = rank[place] // window
    shuffled = generator.permutation(len(shard)).astype(np.int64)
    return shuffled[np.argsort(of_sample[shuffled], kind="stable")], of_sample


def crop_starts(seed: int, epoch: int, samples: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """The first entry of a random crop, (B,) int64, uniform in 0 ... spare; a function of (seed, epoch, sample).

    samples: (B,) indices in the list of samples. spare: (B,) entries of the sample minus those of the crop; 0 if it is
        shorter. One multiplicative hash per sample (the finalizer of splitmix64, Steele et al. 2014), since setting up
        a generator for each costs more than reading it.
    """
    base = _stream(seed, _CROP, epoch).generate_state(1, np.uint64)[0]
    mixed = samples.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + base
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    # The upper 53 bits as a fraction in [0, 1).
    fraction = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.asarray(fraction * (spare + 1)).astype(np.int64)


def process_seed(seed: int, epoch: int, samples_done: int, rank: int) -> int:
    """A seed for torch's own generators (dropout) of one process, starting at this point of a run."""
    state = _stream(seed, _PROCESS, epoch, samples_done, rank).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def rank_slice(
    order: np.ndarray, *, rank: int, world_size: int, batch_size: int, start: int = 0, drop_last: bool = False
) -> list[np.ndarray]:
    """The part of one process in every batch of `order` from sample `start` on.

    A batch is `batch_size` samples of the whole run; process r takes every world_size-th of them from the r-th on. Over
    all processes each sample occurs exactly once. All lists have the same length; the last part can be empty if the
    last batch has fewer samples than there are processes. drop_last: leave out an incomplete last batch.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} processes")
    if batch_size < 1 or start < 0:
        raise ValueError(f"batch size {batch_size} and start {start} must be at least 1 and 0")
    end = len(order)
    if drop_last:
        end -= (end - start) % batch_size
    return [order[first : min(first + batch_size, end)][rank::world_size] for first in range(start, end, batch_size)]
