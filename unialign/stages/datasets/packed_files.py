"""Files that hold many samples: read once per process, and a digest for each sample's part."""

import hashlib
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

import numpy as np

from unialign.errors import CorruptInput

Content = TypeVar("Content")


def remembered(read: Callable[[Path], Content]) -> Callable[[Path], Content]:
    """`read`, cached as long as the file does not change; only the last file is kept.

    Raises `CorruptInput` if the file's status cannot be read.
    """

    @lru_cache(maxsize=1)
    def version(path: Path, _modified: int, _size: int) -> Content:
        return read(path)

    @wraps(read)
    def current(path: Path) -> Content:
        try:
            found = path.stat()
        except OSError as error:
            raise CorruptInput(f"{path}: cannot be read ({error.strerror}).") from error
        return version(path, found.st_mtime_ns, found.st_size)

    return current


def arrays_digest(*arrays: np.ndarray | None, facts: str = "") -> str:
    """SHA-256, "sha256:<hex>", of types, shapes and bytes of arrays, and of whatever else affects their meaning."""
    found = hashlib.sha256(facts.encode())
    for array in arrays:
        if array is not None:
            found.update(f" {array.dtype.str} {array.shape} ".encode())
            found.update(np.ascontiguousarray(array).data)
    return f"sha256:{found.hexdigest()}"
