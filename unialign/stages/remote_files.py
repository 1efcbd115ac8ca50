"""Source files behind a URL: pointers to them in a local tree with the same names, and a bounded spool of their bytes.

A pointer is a small JSON file that names a part of a remote file, its size, and what the server says identifies its
version. Nothing but a `RemotePath` is ever read as one, so a file of somebody else's data cannot pass for it. A file
is fetched when it is needed, in the thread that decodes it, into the spool: a folder that any number of processes may
share. Whoever reads a file holds the kernel's lock on it; the files that were not used for longest are deleted to make
room, but none that is held. So the spool is larger than its limit by at most what is being read and fetched.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from unialign.cache import atomic
from unialign.errors import CacheProblem, CorruptInput, MissingCache, UsageError
from unialign.stages.extraction.heartbeat import beat

if TYPE_CHECKING:
    from unialign.cache.remote.transport import Remote

# Bytes of one request, and requests at a time for one file.
BLOCK, AT_ONCE = 4 << 20, 4
# Of a pointer, and of what describes a tree.
POINTER_BYTES = 4096
# A temporary file to which nothing was written for so many seconds belongs to a writer that is dead.
ABANDONED = 3600
# The folder in a cache that holds the trees and, by default, the spool; and what describes a tree, beside it.
FOLDER, ABOUT = ".sources", "about.json"


class RemotePath(PosixPath):
    """The path of a pointer. Made by `remote_tree` only, for the names that a server lists."""

    __slots__ = ()


@dataclass(frozen=True)
class Pointer:
    """A part of a remote file: `size` bytes from `start`. url: of the folder. tag: identifies the version."""

    url: str
    path: str
    size: int
    tag: str = ""
    start: int = 0

    @property
    def key(self) -> str:
        """What the spool calls this version."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    def text(self) -> str:
        """The content of the pointer's file."""
        return json.dumps(asdict(self), sort_keys=True)


def read_pointer(path: Path) -> Pointer:
    """What a pointer's file says. Raises `CacheProblem` for one that is none, `OSError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(POINTER_BYTES))
        pointer = Pointer(**said)
        kinds = [type(getattr(pointer, name)) for name in ("url", "path", "size", "tag", "start")]
        if kinds != [str, str, int, str, int] or pointer.size < 0 or pointer.start < 0:
            raise ValueError(kinds)
    except (TypeError, ValueError) as error:
        raise CacheProblem(f"{path} is no pointer to a remote file; delete its folder {FOLDER} and repeat.") from error
    return pointer


@contextmanager
def held(path: RemotePath) -> Iterator[Path]:
    """The local file with the bytes of a pointer's remote file, which stays until the end of the block.

    Raises `MissingCache` if it is gone, `CacheProblem` if it cannot be fetched, `UsageError` if it is larger than the
    whole spool.
    """
    spool = _spool_of(path)
    with spool.hold(read_pointer(path), path.name) as local:
        yield local


def _spool_of(path: Path) -> "Spool":
    parts = path.parts
    # The last one: the cache may lie in a folder of that name.
    at = len(parts) - 1 - parts[::-1].index(FOLDER)
    said = json.loads(Path(*parts[: at + 2], ABOUT).read_bytes())
    return Spool(Path(said["spool"]), int(said["limit"]))


class Spool:
    """Remote files on the local disk. limit: bytes. Any number of processes may use one."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    @contextmanager
    def hold(self, pointer: Pointer, name: str) -> Iterator[Path]:
        """The file of a pointer, fetched if it is not there; see `held`. name: of the file in the spool."""
        path = self.folder / pointer.key / name
        while (handle := _opened(path, pointer.size)) is None:
            self._make_room(pointer)
            # Its digest is not compared with anything: records hold that of the bytes which were decoded.
            atomic.write_parts(path, _fetched(pointer))
        with handle:
            with suppress(OSError):
                os.utime(path)
            yield path

    def _make_room(self, pointer: Pointer) -> None:
        """Delete files that nobody holds, the least recently used first, until there is room for another one."""
        if pointer.size > self.limit:
            raise UsageError(
                f"{pointer.url}/{pointer.path} has {pointer.size / 1e9:.1f} GB, more than the whole spool; raise "
                "extract.spool_gb."
            )
        atomic.make_shared_folder(self.folder)
        lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = [(state.st_mtime, state.st_size, path) for path, state in _files_of(self.folder)]
            used = sum(size for _, size, _ in found)
            for when, size, path in sorted(found):
                if path.name.startswith(atomic.PREFIX):
                    # Written to at this moment, unless its writer is dead.
                    removed = time.time() - when > ABANDONED and _removed(path)
                else:
                    removed = used + pointer.size > self.limit and _removed(path)
                used -= size if removed else 0
        finally:
            os.close(lock)


def _files_of(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for inner in folder.iterdir():
        with suppress(OSError):
            for path in inner.iterdir():
                with suppress(OSError):
                    yield path, path.stat()


def _opened(path: Path, size: int) -> BinaryIO | None:
    """The file, held; None if it is not there, or not whole, or was deleted before it could be held."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    state = os.fstat(file.fileno())
    if state.st_nlink and state.st_size == size:
        return file
    file.close()
    return None


def _removed(path: Path) -> bool:
    """Delete a file of the spool, unless somebody holds it or has deleted it; whether it was done."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            atomic.remove(path)
    except (BlockingIOError, FileNotFoundError):
        return False
    # Unless somebody puts a file into it at this moment.
    atomic.remove_empty(path.parent)
    return True


def _fetched(pointer: Pointer) -> Iterator[bytes]:
    """The bytes, a few requests at a time; beats while it waits."""
    from unialign.cache.remote.transport import Part, Remote, fetch

    remote = Remote(pointer.url)
    stop = pointer.start + pointer.size
    starts = range(pointer.start, stop, BLOCK)
    for first in range(0, len(starts), AT_ONCE):
        beat()
        some = starts[first : first + AT_ONCE]
        wanted = [Part(remote, pointer.path, start, min(start + BLOCK, stop)) for start in some]
        for part, data in zip(wanted, fetch(wanted), strict=True):
            assert part.start is not None
            assert part.stop is not None
            if len(data) != part.stop - part.start:
                raise CacheProblem(
                    f"{part.where} gave {len(data)} bytes where {part.stop - part.start} were asked for: it has "
                    "changed since it was listed, or its server ignores ranges; repeat the command."
                )
            yield data
    _check_unchanged(remote, pointer)


def tag_of(info: Mapping[str, Any]) -> str:
    """What a file system says that identifies the version of a file; "" if nothing does."""
    return next((str(info[name]) for name in ("ETag", "etag", "md5Hash", "LastModified", "mtime") if name in info), "")


def _check_unchanged(remote: "Remote", pointer: Pointer) -> None:
    """Raise `CacheProblem` for a file that is another one than was listed: its parts may be of both."""
    system, root = remote.system()
    try:
        system.invalidate_cache()
        info = system.info(f"{root}/{pointer.path}")
    except Exception as error:
        # Not the message: it may hold a signature.
        raise CacheProblem(
            f"{pointer.url}/{pointer.path} cannot be looked at ({type(error).__name__}); check the connection, and "
            "repeat the command."
        ) from error
    if tag_of(info) != pointer.tag or int(info.get("size") or 0) < pointer.start + pointer.size:
        raise CacheProblem(
            f"{pointer.url}/{pointer.path} has changed since it was listed; nothing of it is used. Repeat the command "
            "when nobody writes there."
        )


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """The file itself, or what a pointer's remote file is kept as. Raises `CorruptInput` for a remote one that is gone,
    and what `held` raises.
    """
    if not isinstance(path, RemotePath):
        yield path
        return
    try:
        with held(path) as local:
            yield local
    except MissingCache as error:
        raise CorruptInput(str(error), "missing-file") from error
