"""Files put behind a URL, where the storage can do so on the condition that nothing is there yet.

The condition is used for small files only, in one request: some storages (Ceph 16.2.15) accept it there and ignore it
where a file is sent in parts.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unialign.cache.remote.transport import Remote
from unialign.errors import CacheProblem, UnialignError

# Bytes of one part of a larger file, and HTTP's status for a condition that is not met.
PART, CONDITION = 32 << 20, 412


class Taken(Exception):
    """Something is there already under that name."""


def put(remote: Remote, name: str, content: Path | bytes, *, create: bool = False) -> None:
    """Put a file, or some bytes, under a name below a remote folder; larger files go in parts.

    create: only if nothing is there. Raises `Taken` if something is, `CacheProblem` if the storage fails.
    """
    system, root = remote.system()
    place, mode = f"{root}/{name}", "create" if create else "overwrite"
    try:
        if isinstance(content, bytes):
            called(remote, name, lambda: system.pipe_file(place, content, mode=mode))
        else:
            options: dict[str, Any] = {"chunksize": PART} if is_s3(remote) else {}
            called(remote, name, lambda: system.put_file(str(content), place, mode=mode, **options))
    except FileNotFoundError as error:
        raise _failed(remote, name, error) from error


def is_s3(remote: Remote) -> bool:
    """Whether the storage speaks S3."""
    return "s3" in remote.system()[0].protocol


def told(remote: Remote, name: str) -> Mapping[str, Any] | None:
    """What the storage says of a file at this moment; None if it is not there."""
    system, root = remote.system()
    system.invalidate_cache()
    try:
        info: Mapping[str, Any] = called(remote, name, lambda: system.info(f"{root}/{name}"))
    except FileNotFoundError:
        return None
    return info


def called(remote: Remote, name: str, call: Callable[[], Any]) -> Any:
    """What a call of a file system gives. Raises what `put` raises, and `FileNotFoundError`."""
    try:
        return call()
    except FileExistsError as error:
        raise Taken from error
    except (UnialignError, FileNotFoundError):
        raise
    except Exception as error:
        if _is_taken(error):
            raise Taken from error
        raise _failed(remote, name, error) from error


def _is_taken(error: BaseException | None) -> bool:
    """Whether a condition was not met. Not every server says so in words, which s3fs would repeat (Ceph does not)."""
    while error is not None:
        code = str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
        if "PreconditionFailed" in (code, *re.findall(r"\w+", str(error))) or getattr(error, "status", 0) == CONDITION:
            return True
        error = error.__cause__
    return False


def _failed(remote: Remote, name: str, error: Exception) -> CacheProblem:
    # Not the message: it may hold a signature.
    return CacheProblem(
        f"{remote.url}/{name} cannot be written ({type(error).__name__}); check the address, the access and the "
        "connection."
    )
