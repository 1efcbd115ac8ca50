"""SHA-256 of files and text, in the spelling of records and keys: "sha256:<hex>"."""

import errno
import hashlib
import os
import stat
from fractions import Fraction
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def other_than_file(path: Path) -> str:
    """What lies at a path, or where a link leads from there, in place of a file: "a pipe"; "" for a file."""
    return KINDS.get(stat.S_IFMT(path.stat().st_mode), "")


def file_digest(path: Path) -> str:
    """Digest of a file's content, read in blocks. Raises `OSError` when it cannot be read, or is a pipe or the like."""
    # A pipe would make the caller wait for somebody who writes into it.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if kind := KINDS.get(stat.S_IFMT(os.fstat(file.fileno()).st_mode)):
            raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def spanned_digest(digest: str, span: tuple[Fraction, Fraction] | None) -> str:
    """Digest of a part of a file, from start to end; that of the file where there is no span, and "" stays ""."""
    return digest if span is None or not digest else text_digest(f"{digest} {span[0]} {span[1]}")


def text_digest(text: str) -> str:
    """Digest of the UTF-8 bytes of a text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
