"""Digest of a source file's bytes."""

import hashlib
from pathlib import Path


def source_digest(path: Path) -> str:
    """`"sha256:<hex>"` of a file's content, read in blocks. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def file_digest(path: Path | None) -> str:
    """The same, but "" where there is no file."""
    return source_digest(path) if path is not None and path.is_file() else ""


def text_digest(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes as "sha256:<hex>"."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
