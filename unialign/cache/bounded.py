"""Reading untrusted files: regular files only, bounded in size, depth and expansion."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pydantic_core

from unialign.errors import DamagedStore


def read_plain(path: Path, limit: int, *, first: int | None = None) -> bytes:
    """The bytes of a file of at most `limit` bytes, or its first bytes.

    Raises `OSError` if it cannot be read, is larger, or is not a regular file: a link may lead anywhere, and a pipe
    would never end.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a link, not the file that was written", str(path)) from None
        raise
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "no plain file", str(path))
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"{found.st_size} bytes, more than the {limit} that it may have", str(path))
        return file.read(found.st_size if first is None else first)


def parse_json(data: bytes | str) -> Any:
    """The value in a text of JSON. Raises `ValueError`, also for nesting deeper than 200 and numbers of 4300 digits."""
    return pydantic_core.from_json(data)


def check_inside(root: Path, path: Path) -> None:
    """Raise `DamagedStore` for a link in place of a folder on the path from `root` to a file below it.

    Writes and deletions behind it would happen elsewhere.
    """
    for folder in list(path.relative_to(root).parents)[:-1]:
        if (root / folder).is_symlink():
            raise DamagedStore(f"{root / folder}: a link in the place of a folder; remove it, then use --repair.")
