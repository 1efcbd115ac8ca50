"""SHA-256 of files and text, in the spelling of records and keys: "sha256:<hex>"."""

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """Digest of a file's content, read in blocks. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def text_digest(text: str) -> str:
    """Digest of the UTF-8 bytes of a text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
