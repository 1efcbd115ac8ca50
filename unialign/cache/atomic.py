"""The only module that writes, renames or deletes files.

Order of a safe write: temporary name in the same folder, data, fsync, rename, fsync of the folder. A kill leaves either
the old file, or the new one, or a temporary file that `sweep` removes; a power failure cannot leave a name without its
data. Network file systems that do not honor rename or fsync cannot guarantee this.
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

# Every call with which this module changes files goes through this name (open, write, fsync, close, replace, mkdir,
# chmod, unlink, rmdir), so that a test can substitute a recorder or make the n-th call fail.
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
    """Create a folder for all users who may write into its parent, whatever the umask of this user."""
    if not path.is_dir():
        make_folder(path)
        with suppress(OSError):
            system.chmod(path, stat.S_IMODE(path.parent.stat().st_mode))


def share(handle: int, folder: Path) -> None:
    """Make a file writable for all users who may write into its folder, if this user owns it."""
    wanted = stat.S_IMODE(folder.stat().st_mode) & 0o666
    with suppress(OSError):
        if stat.S_IMODE(os.fstat(handle).st_mode) & wanted != wanted:
            system.fchmod(handle, wanted)


def temporary_name(path: Path) -> Path:
    """A new name next to `path` (same folder and suffix) that `sweep` recognizes; the folder exists afterwards."""
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
    """Write the parts one after the other as the new content of `path`, completely or not at all.

    Returns the number of bytes written and their SHA-256 in hex. Raises `OSError` (full disk, no permission); then the
    temporary file is removed and the old content is intact.
    """
    temporary = temporary_name(path)
    checksum, size = hashlib.sha256(), 0
    # A signal may interrupt at any moment, also between the creation of the file and the next line.
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
    except BaseException as error:
        if isinstance(error, OSError) and error.errno:
            # Of a full disk the system does not say which, and nobody knows the temporary file.
            error.filename = str(path)
        if temporary.exists():
            system.unlink(temporary)
        raise
    sync_folder(path.parent)
    return size, checksum.hexdigest()


def write_all(handle: int, data: bytes) -> None:
    """Write all bytes, however many the system accepts per call. Raises `OSError` if it accepts none."""
    view = memoryview(data)
    while view:
        written = system.write(handle, view)
        if not written:
            raise OSError(errno.EIO, "the file system takes no more bytes and does not say why")
        view = view[written:]


def gathered(parts: Iterable[bytes], size: int = 1 << 20) -> Iterator[bytes]:
    """The same bytes in blocks of about `size`: a shard consists of thousands of small parts, and one call for each
    is slow.
    """
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
    """Write `data` as the new content of `path`, completely or not at all; see `write_parts`."""
    write_parts(path, [data])


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, completely or not at all; see `write_parts`."""
    write_parts(path, [text.encode()])


def append_text(path: Path, text: str) -> None:
    """Append text to a log. Not atomic: readers of logs ignore a last line without a newline."""
    make_folder(path.parent)
    handle = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        write_all(handle, text.encode())
    finally:
        system.close(handle)


def replace(temporary: Path, final: Path) -> None:
    """Put a finished temporary file or folder in place: fsync its content, rename, fsync the folder."""
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
    """Delete a file, or a folder with its content; does nothing if it does not exist."""
    if path.is_dir() and not path.is_symlink():
        # The folder is renamed to a temporary name first, so that a kill half-way leaves no half-deleted store.
        if not path.name.startswith(PREFIX):
            doomed = temporary_name(path)
            system.replace(path, doomed)
            # After a power failure, too: content must not be deleted while the old name reappears.
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


def remove_empty(folder: Path) -> None:
    """Delete a folder if nothing is in it."""
    with suppress(OSError):
        system.rmdir(folder)


def final_name(temporary: Path) -> Path:
    """The final or previous name of a temporary file; see `temporary_name`."""
    return temporary.with_name(temporary.name.removeprefix(PREFIX).partition("-")[2])


def sweep_beside(path: Path) -> int:
    """Delete the temporary files of one file or folder that killed writers left next to it; returns their number.

    Only for the holder of its lock: those of a live writer would be deleted too.
    """
    doomed = [found for found in path.parent.glob(f"{PREFIX}*") if final_name(found) == path]
    for found in doomed:
        remove(found)
    return len(doomed)


def sweep(folder: Path) -> int:
    """Delete the temporary files that killed writers left anywhere below a folder; returns their number."""
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
