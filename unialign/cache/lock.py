"""One extraction writes a store at a time; the lock names its owner and ends with the owner's life."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unialign.cache.atomic import make_folder
from unialign.cache.errors import LockedStore


@contextmanager
def store_lock(store: Path, cache: Path) -> Iterator[None]:
    """Hold the lock of a store while the block runs.

    The lock is the kernel's (`flock`) on a file beside the stores: it vanishes with the process that holds it,
    however it died, so none is ever stale. Raises `LockedStore` at once when another process holds it.
    """
    relative = store.relative_to(cache).as_posix().replace("/", "-")
    path = cache / ".locks" / f"{relative}.lock"
    make_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 4096, 0).decode(errors="replace").strip() or "unknown"
            raise LockedStore(
                f"{store}: another extraction is writing this store ({owner}); wait for it or stop it."
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        os.close(handle)
