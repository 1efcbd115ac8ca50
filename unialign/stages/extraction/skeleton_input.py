"""Reading one skeleton file for an extractor: its content, or the outcome of a sample that cannot be used."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from unialign.cache.digests import file_digest
from unialign.errors import CorruptInput
from unialign.stages.extraction.base import Outcome, Source

Content = TypeVar("Content")


def read_source(source: Source, read: Callable[[Path], Content]) -> tuple[str, Content] | Outcome:
    """Digest and content of a source's file, or the outcome of one that is missing or cannot be read.

    read: the parser; its `CorruptInput` and `OSError` become a status with a reason.
    """
    path, digest = source.path, ""
    try:
        if path is None or not path.exists():
            return Outcome(source.id, "missing-file")
        digest = file_digest(path)
        return digest, read(path)
    except OSError as error:
        return Outcome(source.id, "unreadable", digest, detail={"why": error.strerror or type(error).__name__})
    except CorruptInput as error:
        return Outcome(source.id, error.status, digest, detail={"why": str(error).removeprefix(f"{path}: ")})
