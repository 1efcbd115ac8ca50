"""Several plain processes write one store together, on one machine or on several that share a disk.

Each holds the lock of the store (`lock.py`) in shared mode, so no other extraction, repair or prune can begin. Which
shards it works on, it says by locking a byte per shard of a second file. All are locks of the kernel, of the machine or
of the file server: a killed process holds none, whenever it was killed, and a stopped one keeps its own. No clock is
involved.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unialign.cache.lock import NO_LOCKS, held_handles, lock_path, locked, open_lock
from unialign.errors import UsageError

# Seconds that a process waits for another one that prepares the store, and between two attempts.
PREPARING = 60.0
RETRY = 0.05


class Seat:
    """The place of this process among those that write a store together.

    is_first: nobody else is there, and nobody can come until `share`: the store may be prepared, or finished.
    """

    def __init__(self, store: Path, handle: int, claims: int) -> None:
        self.store, self._handle, self._claims = store, handle, claims
        self.is_first = False

    def take(self) -> None:
        """Come in. Raises `LockedStore` if a process that does not share the store has it for too long."""
        until = time.monotonic() + PREPARING
        while time.monotonic() < until:
            self.is_first = _got(self._handle, fcntl.LOCK_EX)
            if self.is_first or _got(self._handle, fcntl.LOCK_SH):
                return
            time.sleep(RETRY)
        raise locked(self.store, os.pread(self._handle, 4096, 0).decode(errors="replace").strip())

    def share(self) -> None:
        """Let others in. One may come first, and finds the store prepared; so this may take a moment."""
        if not _got(self._handle, fcntl.LOCK_SH):
            self.take()
            if self.is_first:
                self.share()
        self.is_first = False

    def retry(self) -> None:
        """Come in again: whoever prepared the store has died before it was done."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        time.sleep(RETRY)
        self.take()

    def leave(self) -> None:
        """Let go of the store, and be alone with it if nobody else is there: `is_first` says so."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        self.is_first = _got(self._handle, fcntl.LOCK_EX)

    def claim(self, shard: int) -> bool:
        """Whether this process may write a shard, until it ends; no other process may then."""
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, shard)
        except (BlockingIOError, PermissionError):
            return False
        return True


def _got(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def seat_at(store: Path, cache: Path) -> Iterator[Seat]:
    """A place among the processes that write a store together, while the block runs.

    Raises `LockedStore` while another extraction writes it alone, and `UsageError` for a file system without locks.
    """
    path = lock_path(store, cache)
    with _opened(path) as handle, _opened(path.with_suffix(".claims")) as claims:
        seat = Seat(store, handle, claims)
        try:
            seat.take()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise UsageError(
                f"{path.parent}: the file system has no locks (flock), by which processes share a store; put the cache "
                "on another one, or leave out --join and use --cluster."
            ) from error
        yield seat


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = open_lock(path)
    held_handles.add(handle)
    try:
        yield handle
    finally:
        held_handles.discard(handle)
        os.close(handle)
