"""Working ahead of a loop: threads that compute results in order, reused memory, and copies to a GPU."""

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

from unialign.cache.batches.joined import Buffers
from unialign.stages.training.samples import Batch

Item = TypeVar("Item")
Result = TypeVar("Result")

_PAGE = 4096


def ahead(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, depth: int) -> Generator[Result]:
    """`work` of each item, in order, at most `depth` items ahead of the loop.

    An error in `work` is raised here, in its turn. Leaving the loop early stops the threads.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Layout(Protocol):
    """Memory format of batches: a `Joined`, or `by_sample.Rows`."""

    def buffer_bytes(self, size: int, /) -> int:
        """Bytes of a batch of at most `size` samples."""

    def buffers(self, size: int, memory: np.ndarray, /) -> Buffers:
        """The arrays of such a batch in this memory."""


@dataclass
class _Piece:
    """Buffers, the array that owns their memory, and its reference count when nobody else holds a view of it."""

    buffers: Buffers
    owner: np.ndarray
    idle: int = 0
    lent: bool = False


class BufferPool:
    """Memory for batches that is reused once nothing that was made from it is referenced any more.

    A fresh 2 MB for every batch costs a sixth of the reading rate in page faults. Whether memory is still in use is
    determined from its owner's reference count: every view and every tensor of it holds one. So a loop may keep a batch
    for as long as it likes without it being overwritten.
    """

    def __init__(self, layout: Layout, size: int, *, pinned: bool = False) -> None:
        """size: samples per buffer. pinned: page-locked, for copies to a GPU."""
        self._layout, self.size, self._pinned = layout, size, pinned
        self._pieces: list[_Piece] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self) -> Iterator[Buffers]:
        """Unused buffers. Whatever must outlive the `with` must be a view of them by then."""
        with self._lock:
            free = [each for each in self._pieces if not each.lent and sys.getrefcount(each.owner) == each.idle]
            piece = free[0] if free else self._new()
            piece.lent = True
        try:
            yield piece.buffers
        finally:
            piece.lent = False

    def __len__(self) -> int:
        """Number of buffers so far."""
        return len(self._pieces)

    def _new(self) -> _Piece:
        size = self._layout.buffer_bytes(self.size)
        if self._pinned:
            owner = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
            memory = owner
        else:
            owner = np.empty(size + _PAGE, dtype=np.uint8)
            # Page-aligned: memory that begins 16 bytes after a page, where malloc puts it, is filled at a fifth of the
            # speed from page-aligned sources (the processor mistakes the two for the same address).
            start = -owner.ctypes.data % _PAGE
            memory = owner[start : start + size]
        piece = _Piece(self._layout.buffers(self.size, memory), owner)
        del memory, owner
        piece.idle = sys.getrefcount(piece.owner)
        self._pieces.append(piece)
        return piece


def on_device(batches: Iterator[Batch], device: torch.device) -> Generator[Batch]:
    """The same batches on a CUDA device; the copy of the next one runs while the loop works on this one.

    Nothing waits for a copy but the stream that computes; a batch on the host is held until its copy is done, since its
    memory may be overwritten once it is released. Tested with stand-ins for CUDA's streams, not on a GPU.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    copied: deque[tuple[Batch, torch.cuda.Event]] = deque()
    ready: tuple[Batch, torch.cuda.Event] | None = None
    try:
        for batch in batches:
            while copied and copied[0][1].query():  # type: ignore[no-untyped-call]
                copied.popleft()
            with torch.cuda.stream(stream):
                moved = {name: _pinned(tensor).to(device, non_blocking=True) for name, tensor in batch.items()}
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record(stream)
            copied.append((batch, event))
            del batch
            if ready is not None:
                yield _arrived(*ready, device)
            ready = moved, event
        if ready is not None:
            yield _arrived(*ready, device)
    finally:
        for _, event in copied:
            event.synchronize()


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in page-locked memory, or on the GPU already; what is small is not made there. A copy from other
    memory makes the host wait for all copies before it. torch frees this memory once the copy is done.
    """
    return tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()


def _arrived(moved: Batch, event: torch.cuda.Event, device: torch.device) -> Batch:
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for tensor in moved.values():
        # The memory was allocated on the other stream; it must not be freed while this one still reads it.
        tensor.record_stream(current)
    return moved
