"""Memory between two pages that nobody may touch: a byte read or written beside it ends the process."""

import ctypes
import mmap
import os
import weakref
from pathlib import Path

import numpy as np

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_PAGE = mmap.PAGESIZE
_NONE = 0


class Guarded:
    """Makes guarded memory. at_end: it ends where the page behind it begins; otherwise it begins where the one before
    it ends.
    """

    def __init__(self) -> None:
        self.at_end = True

    def memory(self, size: int) -> np.ndarray:
        """(size,) uint8, to be written."""
        return self._made(size, mmap.PROT_READ | mmap.PROT_WRITE)[0]

    def map_handle(self, handle: int, path: str | Path) -> np.ndarray:
        """In place of `cache.mapping.map_handle`: the file's bytes, read-only."""
        data = os.pread(handle, os.fstat(handle).st_size, 0)
        array, address, inside = self._made(len(data), mmap.PROT_READ | mmap.PROT_WRITE)
        array[:] = np.frombuffer(data, np.uint8)
        _LIBC.mprotect(address, inside, mmap.PROT_READ)
        array.flags.writeable = False
        return array

    def _made(self, size: int, access: int) -> tuple[np.ndarray, int, int]:
        inside = max(-(-size // _PAGE), 1) * _PAGE
        whole = inside + 2 * _PAGE
        start = _LIBC.mmap(None, whole, _NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        address = start + _PAGE
        if _LIBC.mprotect(address, inside, access):
            raise MemoryError
        stretch = (ctypes.c_uint8 * size).from_address(address + (inside - size if self.at_end else 0))
        weakref.finalize(stretch, _LIBC.munmap, start, whole).atexit = False
        return np.frombuffer(memoryview(stretch), dtype=np.uint8), address, inside
