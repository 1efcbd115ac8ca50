"""Order and randomness as functions, not state: what comes next follows from (seed, epoch, sample) alone.

An epoch is one fixed permutation of the samples, cut into batches of the whole run and then dealt out to its processes.
So neither the number of workers nor that of processes changes what a batch holds, and a resumed run, also on another
number of processes, drops the prefix that was done.

Source: the elastic sampling of litData (streaming/elastic.py) and the index functions of google/grain; own code.
"""

import numpy as np

# Separate streams of random numbers from one seed.
_ORDER, _SAMPLE, _PROCESS = 0, 1, 2


def _stream(seed: int, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=key)


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation (num_samples,) of an epoch, int64; a function of its arguments only."""
    generator = np.random.Generator(np.random.Philox(_stream(seed, _ORDER, epoch)))
    return generator.permutation(num_samples).astype(np.int64)


def sample_generator(seed: int, epoch: int, sample_index: int) -> np.random.Generator:
    """The random numbers that one sample may use in one epoch."""
    return np.random.Generator(np.random.Philox(_stream(seed, _SAMPLE, epoch, sample_index)))


def process_seed(seed: int, epoch: int, samples_done: int, rank: int) -> int:
    """A seed for torch's own generators (dropout) of one process from this moment of a run on."""
    state = _stream(seed, _PROCESS, epoch, samples_done, rank).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def rank_slice(
    order: np.ndarray, *, rank: int, world_size: int, batch_size: int, start: int = 0, drop_last: bool = False
) -> list[np.ndarray]:
    """The share of one process of every batch of `order` from sample `start` on.

    A batch is `batch_size` samples of the whole run; process r takes every world_size-th of them from the r-th on. Over
    all processes each sample comes exactly once. All lists are equally long; the last share can be empty where the
    last batch has fewer samples than there are processes. drop_last: leave out a last batch that is not full.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} processes")
    if batch_size < 1 or start < 0:
        raise ValueError(f"batch size {batch_size} and start {start} must be at least 1 and 0")
    end = len(order)
    if drop_last:
        end -= (end - start) % batch_size
    return [order[first : min(first + batch_size, end)][rank::world_size] for first in range(start, end, batch_size)]
