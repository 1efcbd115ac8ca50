"""Batches distributed among threads without the GIL: whichever thread is free gathers the next unclaimed one.

A batch of 2 MB is copied in 0.2 ms. Handing it from one Python thread to another, and waking the waiting one, takes
half of that; so the loop that waits for a batch does not sleep, but gathers one itself. A thread with nothing to do
stays in compiled code for a millisecond before it sleeps: to wake up in Python it would need the GIL, which the loop
holds while it prepares the next batch. Large batches are claimed in parts, so that all threads work on the one that the
loop waits for: the first of an epoch, and the last. The threads share a few counters, changed by atomic operations in
compiled code.
"""

from queue import SimpleQueue
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.gather import copy_windows, mean_entries
from unialign.cache.batches.joined import Buffers
from unialign.cache.compiled import compiled

_WORD = 8
_POINTER = ir.IntType(64).as_pointer()
# Places in the state: parts claimed, parts offered, threads asleep that nobody has woken, whether the ring is closed,
# then for each slot of the ring the parts finished in it so far, of all batches that were in it.
_CLAIMED, _OFFERED, _ASLEEP, _CLOSED, _DONE = 0, _WORD, 2 * _WORD, 3 * _WORD, 4 * _WORD
# Microseconds between two looks: a batch takes a tenth of a millisecond, or a few for large batches. Looks without
# anything to do before a thread sleeps.
_PAUSE, _LOOKS = 20, 15
# A part has at least so many bytes, and a batch at most so many parts.
_PART, _MOST_PARTS = 4 << 20, 16
# How a batch is gathered; larger numbers: the mean of so many entries.
_COPIED, _STREAMED = 0, 1

_usleep = types.ExternalFunction("usleep", types.intc(types.uintc))


@intrinsic  # type: ignore[untyped-decorator]
def _load(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(values[0], _POINTER), "seq_cst", _WORD)

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _store(typing: Any, address: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store_atomic(values[1], builder.inttoptr(values[0], _POINTER), "seq_cst", _WORD)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _swap(typing: Any, address: Any, old: Any, new: Any) -> Any:
    """Compare and swap: whether the word was `old`, and is now `new`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], _POINTER)
        return builder.extract_value(builder.cmpxchg(pointer, values[1], values[2], "seq_cst", "seq_cst"), 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@compiled("boolean(int64,int64)")
def _add(address: int, amount: int) -> bool:
    """Add to a counter; False if that would take it below 0."""
    while True:
        value = _load(address)
        if value + amount < 0:
            return False
        if _swap(address, value, value + amount):
            return True


@compiled("boolean(int64)")
def _sleeps(state: int) -> bool:
    """Count this thread as asleep, unless a batch has come meanwhile; whether it is, or is being woken."""
    _add(state + _ASLEEP, 1)
    if _load(state + _CLAIMED) >= _load(state + _OFFERED):
        return True
    # Whoever offered the batch may have seen this thread asleep, and then wakes it.
    return not _add(state + _ASLEEP, -1)


@compiled("void(int64,int64)")
def _set(address: int, value: int) -> None:
    _store(address, value)


@compiled(
    "void(int64,int64,int64[:,::1],int64[:,::1],int64[:,:,::1],int64[:,::1],int64[:,::1],int64[:,::1],int64[:,::1],int64)"
)
def _gather(
    state: int,
    wanted: int,
    sizes: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    targets: np.ndarray,
    chunks: np.ndarray,
    lengths: np.ndarray,
    layout: np.ndarray,
    how: int,
) -> None:
    """Gather batches until `wanted` (counted from 1) is done, by any thread; for 0 until there have been none to gather
    for a while, and this thread is counted as asleep, or the ring is closed.

    sizes: (depth, 2) the windows of the batch in each slot, and how many parts it is claimed in, the same for all.
    how: `_COPIED`, `_STREAMED`, or the number of entries whose mean is taken.
    """
    depth, parts, looks = len(sizes), sizes[0, 1], 0
    while True:
        if wanted and _load(state + _DONE + _WORD * ((wanted - 1) % depth)) >= ((wanted - 1) // depth + 1) * parts:
            return
        number = _load(state + _CLAIMED)
        if number >= _load(state + _OFFERED):
            if not wanted and (_load(state + _CLOSED) or (looks >= _LOOKS and _sleeps(state))):
                return
            looks += 1
            _usleep(_PAUSE)
        elif _swap(state + _CLAIMED, number, number + 1):
            looks = 0
            place, size, part = number // parts % depth, sizes[number // parts % depth, 0], number % parts
            begin, end = size * part // parts, size * (part + 1) // parts
            these, first = rows[place, begin:end], starts[place, begin:end]
            target = targets[place] + begin * layout[:, 2] * layout[:, 3]
            if how > _STREAMED:
                mean_entries(these, chunks, layout, first, target, how)
            else:
                copy_windows(these, chunks, lengths, layout, first, target, how == _STREAMED)
            _add(state + _DONE + _WORD * place, 1)


class Gathering:
    """Batches of one reader in the making: offered by a loop, gathered by it and by threads that call `work`.

    size: most samples of a batch. depth: most batches that are offered and not fetched. means: see `Joined.read`; a
    batch then has as many times `size` windows. One thread offers and fetches.
    """

    def __init__(self, reader: BatchReader, size: int, depth: int, means: int = 1) -> None:
        width = len(reader.columns)
        self._reader, self._means = reader, means
        self._parts = 1 if means > 1 else int(np.clip(size * reader.sample_bytes // _PART, 1, _MOST_PARTS))
        self._sizes = np.array([[0, self._parts]] * depth, dtype=np.int64)
        self._rows = np.zeros((depth, size * means), dtype=np.int64)
        self._starts = np.zeros((depth, size * means, width), dtype=np.int64)
        self._targets = np.zeros((depth, width), dtype=np.int64)
        # Kept, so that the memory outlives the writes to it.
        self._buffers: list[Buffers | None] = [None] * depth
        self._state = np.zeros(_DONE // _WORD + depth, dtype=np.int64)
        self._address = self._state.ctypes.data
        self._offered = self._fetched = 0
        # One entry per thread to wake; False ends it.
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        how = means if means > 1 else (_STREAMED if reader.streams(size) else _COPIED)
        self._given = (self._sizes, self._rows, self._starts, self._targets, *reader.places, how)

    def offer(self, positions: np.ndarray, starts: np.ndarray | None, buffers: Buffers) -> None:
        """Have a batch gathered into some memory, see `Joined.read`; what is checked is checked here.

        Raises what `Joined.read` raises, and `ValueError` when `depth` batches wait to be fetched.
        """
        if self._offered - self._fetched >= len(self._sizes):
            raise ValueError(f"{len(self._sizes)} batches are in the making already")
        positions, starts, buffers = self._reader.prepared(positions, starts, buffers, self._means)
        place, size = self._offered % len(self._sizes), len(positions)
        if size > self._rows.shape[1]:
            raise ValueError(f"{size} samples do not fit into a batch of {self._rows.shape[1]}")
        self._buffers[place] = buffers
        self._sizes[place, 0] = size
        self._rows[place, :size] = positions
        self._starts[place, :size] = starts
        self._targets[place] = buffers.addresses
        self._offered += 1
        _set(self._address + _OFFERED, self._offered * self._parts)
        if _add(self._address + _ASLEEP, -1):
            self._tokens.put(True)

    def fetch(self) -> None:
        """Return when the next batch, in the order offered, is complete; gathers meanwhile."""
        if self._fetched >= self._offered:
            raise ValueError("no batch is in the making")
        self._fetched += 1
        _gather(self._address, self._fetched, *self._given)

    def work(self) -> None:
        """Gather offered batches, until `close`: the body of a thread."""
        while True:
            _gather(self._address, 0, *self._given)
            if not self._tokens.get():
                return

    def close(self, threads: int) -> None:
        """Drop batches that are not started, and end this many threads."""
        _set(self._address + _CLAIMED, self._offered * self._parts)
        _set(self._address + _CLOSED, 1)
        for _ in range(threads):
            self._tokens.put(False)
