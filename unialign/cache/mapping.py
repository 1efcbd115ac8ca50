"""Several files as one stretch of memory: a batch from many shards is one gather then, not a loop over shards."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_FAILED = ctypes.c_void_p(-1).value
# Not in Python's mmap module; the values are those of Linux on all its machines with 4 KiB pages or more.
_MAP_FIXED, _MAP_NORESERVE, _PROT_NONE = 0x10, 0x4000, 0


class FileMapping:
    """Files mapped read-only one behind the other, each beginning at a page.

    memory: (bytes,) uint8, valid as long as this object lives. starts: where each file begins in it.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        """Map `sizes[i]` bytes of each file. Raises `OSError` when a file cannot be mapped."""
        pages = [-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes]
        self.starts = np.concatenate([[0], np.cumsum(pages)])[:-1].astype(np.int64)
        self._length = max(mmap.PAGESIZE, int(sum(pages)))
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        # First the whole stretch without memory behind it, so that nothing else can lie between the files.
        self._address = self._map(None, self._length, _PROT_NONE, mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1)
        for path, size, start in zip(paths, sizes, self.starts.tolist(), strict=True):
            handle = os.open(path, os.O_RDONLY)
            try:
                self._map(self._address + start, size, mmap.PROT_READ, _MAP_FIXED, handle)
            finally:
                os.close(handle)
        stretch = (ctypes.c_uint8 * self._length).from_address(self._address)
        self.memory = np.frombuffer(memoryview(stretch), dtype=np.uint8)
        self.memory.flags.writeable = False

    def _map(self, address: int | None, length: int, protection: int, flags: int, handle: int) -> int:
        found = self._libc.mmap(address, length, protection, mmap.MAP_PRIVATE | flags, handle, 0)
        if found == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(found)

    def __del__(self) -> None:
        """Give the stretch back."""
        if getattr(self, "_address", None):
            self._libc.munmap(self._address, self._length)
