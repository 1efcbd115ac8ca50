"""The only module that writes, renames or deletes files.

Order of a safe write: temporary name in the same folder, data, fsync, rename, fsync of the folder. A kill leaves
either the old file, or the new one, or a temporary that `sweep` removes; a power cut cannot leave a name without
its data. Cannot be promised on network file systems whose rename or fsync lies.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

PREFIX = ".tmp-"

# Every call by which this module changes files goes through this name (open, write, fsync, close, replace, mkdir,
# chmod, unlink, rmdir), so that a test can put a recorder in its place or let the n-th call fail.
system = os


def make_folder(path: Path) -> None:
    """Create a folder and its parents, each entry durable in the folder above it."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        system.mkdir(path)
    except FileExistsError:
        # Another writer was faster.
        if not path.is_dir():
            raise
    sync_folder(path.parent)


def make_shared_folder(path: Path) -> None:
    """Create a folder for all who may write into the one above it, whatever this user's umask takes from new ones."""
    if not path.is_dir():
        make_folder(path)
        with suppress(OSError):
            system.chmod(path, stat.S_IMODE(path.parent.stat().st_mode))


def share(handle: int, folder: Path) -> None:
    """Let all who may write into a folder write one of its files, if it is this user's."""
    wanted = stat.S_IMODE(folder.stat().st_mode) & 0o666
    with suppress(OSError):
        if stat.S_IMODE(os.fstat(handle).st_mode) & wanted != wanted:
            system.fchmod(handle, wanted)


def temporary_name(path: Path) -> Path:
    """A fresh name beside `path` (same folder and suffix) that `sweep` recognises; the folder exists afterwards."""
    make_folder(path.parent)
    return path.with_name(f"{PREFIX}{secrets.token_hex(8)}-{path.name}")


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = system.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        system.fsync(handle)
    finally:
        system.close(handle)


def sync_file(path: Path) -> None:
    """Make the contents of a file durable."""
    handle = system.open(path, os.O_RDONLY)
    try:
        system.fsync(handle)
    finally:
        system.close(handle)


def write_parts(path: Path, parts: Iterable[bytes]) -> tuple[int, str]:
    """Write the parts one after the other as the new content of `path`, whole or not at all.

    Returns how many bytes were written and their SHA-256 in hex.
    Raises `OSError` (full disk, no permission); the temporary is gone then and the old content still there.
    """
    temporary = temporary_name(path)
    checksum, size = hashlib.sha256(), 0
    # A signal may end the work at any moment, also between the making of the file and the next line.
    try:
        handle = system.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            for part in gathered(parts):
                checksum.update(part)
                size += len(part)
                write_all(handle, part)
            system.fsync(handle)
        finally:
            system.close(handle)
        system.replace(temporary, path)
    except BaseException:
        if temporary.exists():
            system.unlink(temporary)
        raise
    sync_folder(path.parent)
    return size, checksum.hexdigest()


def write_all(handle: int, data: bytes) -> None:
    """Write every byte, however many the system takes at a time. Raises `OSError` when it takes none."""
    view = memoryview(data)
    while view:
        written = system.write(handle, view)
        if not written:
            raise OSError(errno.EIO, "the file system takes no more bytes and does not say why")
        view = view[written:]


def gathered(parts: Iterable[bytes], size: int = 1 << 20) -> Iterator[bytes]:
    """The same bytes in blocks of about `size`: a shard comes as thousands of small parts, a call for each is slow."""
    waiting: list[bytes] = []
    total = 0
    for part in parts:
        waiting.append(part)
        total += len(part)
        if total >= size:
            yield b"".join(waiting)
            waiting, total = [], 0
    if waiting:
        yield b"".join(waiting)


def write_file(path: Path, data: bytes) -> None:
    """Write `data` as the new content of `path`, whole or not at all; see `write_parts`."""
    write_parts(path, [data])


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all; see `write_parts`."""
    write_parts(path, [text.encode()])


def append_text(path: Path, text: str) -> None:
    """Add text to the end of a log. Not atomic: readers of logs ignore a last line without its newline."""
    make_folder(path.parent)
    handle = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        write_all(handle, text.encode())
    finally:
        system.close(handle)


def replace(temporary: Path, final: Path) -> None:
    """Put a finished temporary file or folder in place: fsync what it holds, rename, fsync the folder."""
    if temporary.is_dir():
        for folder, _, names in os.walk(temporary, topdown=False):
            for name in names:
                sync_file(Path(folder, name))
            sync_folder(Path(folder))
    else:
        sync_file(temporary)
    make_folder(final.parent)
    system.replace(temporary, final)
    sync_folder(final.parent)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that it holds; nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        # The folder gets a temporary name first, so that a kill half-way leaves no half-deleted store behind.
        if not path.name.startswith(PREFIX):
            doomed = temporary_name(path)
            system.replace(path, doomed)
            # After a power cut too: what was deleted inside must not be gone while the old name is back.
            sync_folder(path.parent)
            path = doomed
        for folder, folders, files in os.walk(path, topdown=False):
            for name in files:
                system.unlink(Path(folder, name))
            for name in folders:
                inner = Path(folder, name)
                (system.unlink if inner.is_symlink() else system.rmdir)(inner)
        system.rmdir(path)
    elif os.path.lexists(path):
        system.unlink(path)
    if path.parent.is_dir():
        sync_folder(path.parent)


def final_name(temporary: Path) -> Path:
    """The name that a temporary was to get, or had before it was to be deleted; see `temporary_name`."""
    return temporary.with_name(temporary.name.removeprefix(PREFIX).partition("-")[2])


def sweep_beside(path: Path) -> int:
    """Delete the temporaries that killed writers of one file or folder left beside it; returns how many there were.

    Only for the one who holds its lock: those of a live writer would go too.
    """
    doomed = [found for found in path.parent.glob(f"{PREFIX}*") if final_name(found) == path]
    for found in doomed:
        remove(found)
    return len(doomed)


def sweep(folder: Path) -> int:
    """Delete the temporaries that killed writers left anywhere under a folder; returns how many there were."""
    doomed = [
        Path(root, name)
        for root, names, files in os.walk(folder)
        for name in (*names, *files)
        if name.startswith(PREFIX)
    ]
    for path in doomed:
        if os.path.lexists(path):
            remove(path)
    return len(doomed)
