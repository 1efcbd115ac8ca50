"""Digest of a source file's bytes."""

import hashlib
from pathlib import Path


def source_digest(path: Path) -> str:
    """`"sha256:<hex>"` of a file's content, read in blocks. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
