"""Which parts of a benchmark's files are in the page cache before it is timed."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

BLOCK = 8 << 20


def files_of(folder: Path) -> list[Path]:
    """All files under a folder."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def warm(files: Sequence[Path]) -> None:
    """Load files into the page cache as a later session finds them: from disk, in large blocks.

    Freshly written pages are scattered in memory, not yet written back, and slower to gather from.
    """
    evict(files)
    for path in files:
        read_whole(path)


def read_whole(path: Path) -> int:
    """Read a whole file; returns its size in bytes."""
    buffer, size = bytearray(BLOCK), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size += count
    return size


def resident(path: Path) -> int:
    """Bytes of a file that are in the page cache."""
    size = path.stat().st_size
    if not size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, dtype=np.uint8)
        pages = np.zeros(-(-size // mmap.PAGESIZE), dtype=np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        address = [ctypes.c_void_p(array.ctypes.data) for array in (view, pages)]
        failed = libc.mincore(address[0], ctypes.c_size_t(size), address[1])
        del view
        if failed:
            raise OSError(ctypes.get_errno(), f"cannot ask what of {path} is in memory")
    return min(size, int((pages & 1).sum()) * mmap.PAGESIZE)


def evict(files: Sequence[Path]) -> float:
    """Evict files from the page cache; returns the fraction of their bytes that stayed."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            # Only pages that are already on disk can be dropped.
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    stayed = sum(resident(path) for path in files)
    if stayed:
        # All caches of the machine; root only, and not in every container.
        with suppress(OSError):
            Path("/proc/sys/vm/drop_caches").write_text("1")
            stayed = sum(resident(path) for path in files)
    return stayed / max(1, sum(path.stat().st_size for path in files))
