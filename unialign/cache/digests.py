"""SHA-256 of files and text, in the spelling of records and keys: "sha256:<hex>"."""

import hashlib
from fractions import Fraction
from pathlib import Path


def file_digest(path: Path) -> str:
    """Digest of a file's content, read in blocks. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def spanned_digest(digest: str, span: tuple[Fraction, Fraction] | None) -> str:
    """Digest of a part of a file, from start to end; that of the file where there is no span, and "" stays ""."""
    return digest if span is None or not digest else text_digest(f"{digest} {span[0]} {span[1]}")


def text_digest(text: str) -> str:
    """Digest of the UTF-8 bytes of a text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
