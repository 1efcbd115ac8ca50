"""A bounded cache of blocks of remote files on the local disk, shared by any number of processes.

Blocks are in 64 folders by their key, and each folder has one 64th of the limit. A writer holds the folder's lock and
lists its content, so there is no byte count that a kill could leave wrong, and the folders together never exceed the
limit. The price: least recently used applies within a folder.

A key identifies content (the SHA-256 of a shard, and a position in it), so a block is never outdated. Reading returns
what was written, or nothing: when a process first accesses a block, its checksum is compared, which also covers the
key. Losing a block only costs time.
"""

import contextlib
import fcntl
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unialign.cache import atomic
from unialign.cache.codecs import CRC_BYTES, crc_bytes
from unialign.errors import UsageError

# Fetching this many bytes takes about as long as the latency, at the 30 ms and 50 MB/s of an object store.
BLOCK = 1 << 20
FOLDERS = 64
# An access updates the file's time at most once in this many seconds.
TOUCH_SECONDS = 60.0


class BlockCache:
    """Blocks in a folder. limit: bytes on disk. block: bytes per block; the last one of a file is shorter.

    Raises `UsageError` if the limit has no room for one block in each of the folders.
    """

    def __init__(self, folder: Path, limit: int, block: int | None = None) -> None:
        self.folder = folder
        self.limit = limit
        self.block = block or BLOCK
        if limit < FOLDERS * (self.block + CRC_BYTES):
            least = FOLDERS * (self.block + CRC_BYTES)
            raise UsageError(f"a disk cache of {limit} bytes is too small; give at least {least}, or none.")
        self._checked: set[str] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["BlockCache"], tuple[Path, int, int]]:
        return BlockCache, (self.folder, self.limit, self.block)

    def admits(self, key: str, share: float) -> bool:
        """Whether a block belongs to the fraction (0 to 1) of all blocks to keep; always the same ones."""
        return int(key[:8], 16) < share * 2**32

    def read(self, key: str, start: int, stop: int) -> bytes | None:
        """The bytes from start to stop of a block; None if it is not cached, or not what was written."""
        try:
            handle = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            # Mostly because it does not exist; in any case the block can be fetched again.
            return None
        try:
            state = os.fstat(handle)
            size = state.st_size - CRC_BYTES
            if key not in self._checked:
                data = os.pread(handle, size + CRC_BYTES, 0)
                if size < 0 or _checksum(key, data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
                    return None
                self._checked.add(key)
            _touch(handle, state.st_mtime)
            return os.pread(handle, stop - start, start) if stop <= size else None
        except OSError:
            return None
        finally:
            os.close(handle)

    def write(self, key: str, data: bytes) -> None:
        """Store a block; the least recently used ones of its folder are deleted until there is room.

        If the disk accepts no more data (full, read-only), one warning is logged and nothing is written any more.
        """
        if self._stopped:
            return
        path, content = Path(self._path(key)), data + _checksum(key, data)
        try:
            with _locked(path.parent):
                _make_room(path, self.limit // FOLDERS - len(content))
                atomic.write_file(path, content)
            self._checked.add(key)
        except OSError as error:
            self._stop(error)

    def _path(self, key: str) -> str:
        # As string: creating a Path costs more than reading a chunk.
        return f"{self.folder}/{int(key[-2:], 16) % FOLDERS:02d}/{key}"

    def _stop(self, error: OSError) -> None:
        with self._lock:
            first, self._stopped = not self._stopped, True
        if first:
            warnings.warn(
                f"{self.folder} takes no more blocks ({error.strerror}); remote stores are read without keeping more.",
                RuntimeWarning,
                stacklevel=3,
            )


def _checksum(key: str, data: bytes) -> bytes:
    return crc_bytes(key.encode() + data)


def _touch(handle: int, last: float) -> None:
    if time.time() - last >= TOUCH_SECONDS:
        # The cache of another user, or one on a read-only disk, can be read, but its times cannot be set.
        with contextlib.suppress(OSError):
            os.utime(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the kernel's lock on a folder, which ends with the process that holds it."""
    atomic.make_shared_folder(folder.parent)
    atomic.make_shared_folder(folder)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make_room(path: Path, room: int) -> None:
    """Delete the least recently used files until the folder holds at most `room` bytes besides a file, which is deleted
    too.

    Under the lock, every temporary file belongs to a dead writer.
    """
    held: list[tuple[int, int, str]] = []
    with os.scandir(path.parent) as found:
        for each in found:
            state = each.stat(follow_symlinks=False)
            doomed = each.name.startswith(atomic.PREFIX) or each.name == path.name
            held.append((0 if doomed else state.st_mtime_ns, state.st_size, each.name))
    used = sum(size for _, size, _ in held)
    for when, size, name in sorted(held):
        if when and used <= room:
            break
        atomic.remove(path.parent / name)
        used -= size
