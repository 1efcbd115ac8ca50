"""Read-only memory maps of files. Python's own mmap keeps a handle open for each, and a store can have more files
than a process may open.
"""

import ctypes
import errno
import mmap
import os
import weakref
from pathlib import Path

import numpy as np

from unialign.errors import UsageError

_FAILED = ctypes.c_void_p(-1).value
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def map_handle(handle: int, path: str | Path) -> np.ndarray:
    """The bytes of an open file, (bytes,) uint8, read-only; mapped as long as the array or a view of it exists.

    handle: closed by the caller. path: for messages.
    Raises `OSError` if it cannot be mapped, `UsageError` if the system's limit of maps is reached.
    """
    size = os.fstat(handle).st_size
    if not size:
        return np.empty(0, dtype=np.uint8)
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
    number = ctypes.get_errno()
    if address == _FAILED:
        if number == errno.ENOMEM:
            raise UsageError(
                f"{path}: the system maps no more files at once; raise vm.max_map_count, or read in order of shards."
            )
        raise OSError(number, os.strerror(number), str(path))
    stretch = (ctypes.c_uint8 * size).from_address(address)
    # Not at exit: threads may still be reading, and the system unmaps it anyway.
    weakref.finalize(stretch, _LIBC.munmap, address, size).atexit = False
    data: np.ndarray = np.frombuffer(memoryview(stretch), dtype=np.uint8)
    data.flags.writeable = False
    return data
