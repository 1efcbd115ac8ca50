"""One extraction writes a store at a time; the lock names its owner and ends with the owner's process."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from unialign.cache import atomic
from unialign.cache.access import is_refused
from unialign.errors import LockedStore, MissingCache, UsageError
from unialign.types import Json

# Errors of file systems without `flock`: NFS without its lock service, Lustre mounted without `-o flock`, FUSE.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}

# Handles of the locks that this process holds.
held_handles: set[int] = set()


def _let_go() -> None:
    """Close inherited handles: a forked child, such as a worker, would hold a lock after its parent has died."""
    for handle in held_handles:
        os.close(handle)
    held_handles.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def store_lock(store: Path, cache: Path) -> Iterator[None]:
    """Hold the lock of a store while the block runs.

    The lock is a kernel lock (`flock`) on a file next to the stores: it disappears with the process that holds it,
    however it died, so it is never stale. If the file system does not support such locks, it is a lease, see `_lease`.
    Raises `LockedStore` immediately if another process holds it, `OSError` if the cache cannot be written.
    """
    path = lock_path(store, cache)
    handle = open_lock(path)
    held_handles.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise locked(store, _noted(handle)) from error
        except OSError as error:
            if error.errno == errno.EBADF:
                # NFS locks only files that are open for writing.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from error
            if error.errno not in NO_LOCKS:
                raise
            # Another machine may have mounted the same folder with lock support, and hold this one by `flock`.
            owner = _noted(handle)
            if owner and not is_dead(owner):
                raise locked(store, owner, path) from error
            with _lease(path, store):
                yield
            return
        _refuse_leases(path, store)
        with _name_in(handle):
            yield
    finally:
        held_handles.discard(handle)
        os.close(handle)


def lock_path(store: Path, cache: Path) -> Path:
    """The lock file of a store."""
    return cache / ".locks" / f"{store.relative_to(cache).as_posix().replace('/', '-')}.lock"


def open_lock(path: Path) -> int:
    """A handle of a lock file, created if needed. One of another user can be locked as long as it can be read."""
    atomic.make_shared_folder(path.parent)
    refused: OSError | None = None
    # The second attempt: in folders with the sticky bit, the kernel does not let a user "create" another user's file.
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDWR, os.O_RDONLY):
        try:
            handle = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            # Still missing after creating it failed: that failure is the one to report.
            if not is_refused(error) and refused is None:
                raise
            refused = refused or error
        else:
            atomic.share(handle, path.parent)
            return handle
    assert refused is not None
    raise refused


@contextmanager
def _name_in(handle: int) -> Iterator[None]:
    """Write this process into the lock file while the block runs, if possible."""
    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        yield
        return
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(this_process()).encode(), 0)
    try:
        yield
    finally:
        os.ftruncate(handle, 0)


def _noted(handle: int) -> str:
    return os.pread(handle, 4096, 0).decode(errors="replace").strip()


def _spoken(owner: str) -> str:
    """A process that holds a lock, as its lock file names it, for people."""
    try:
        named = json.loads(owner or "null")
        return f"process {named['process']} on {named['host']}, since {named['since']}"
    except (ValueError, KeyError, TypeError):
        return owner or "unknown, or several with --join"


def locked(store: Path, owner: str, file: Path | str | None = None) -> LockedStore:
    """The error for a store whose lock another process holds. owner: "" if it has left no name."""
    way_out = "wait for it or stop it"
    if file is not None:
        way_out += f"; if it has died, which cannot be seen from here, delete {file}"
    return LockedStore(f"{store}: another extraction is writing this store ({_spoken(owner)}); {way_out}.")


@contextmanager
def _lease(path: Path, store: Path) -> Iterator[None]:
    """Hold a lock without kernel support: a link next to the lock file whose target names this process.

    Creating a link is atomic together with its content, on every machine that has mounted the folder. A lease that its
    owner left behind is ignored if the owner is known to be dead, which can only be determined on the same machine; no
    timeout is involved, so a stopped process or a clock change has no effect. A process that finds no living owner
    creates the lease with the next number, which only one process can, and holds the lock if there is still no other
    living owner: of two that looked at different moments, at least one sees the other.
    """
    known = _refuse_leases(path, store)
    mine = path.with_name(f"{path.name}.{max(known, default=-1) + 1:09d}")
    try:
        os.symlink(json.dumps(this_process()), mine)
    except FileExistsError as error:
        raise locked(store, read_owner(mine), mine) from error
    except OSError as error:
        if error.errno not in {errno.EPERM, *NO_LOCKS}:
            raise
        raise UsageError(
            f"{path.parent}: the file system has neither locks (flock) nor links, so two extractions could mix their "
            "data; put the cache on another one."
        ) from error
    try:
        for left in _refuse_leases(path, store, but=mine).values():
            atomic.remove(left)
        yield
    finally:
        atomic.remove(mine)


def _refuse_leases(path: Path, store: Path, but: Path | None = None) -> dict[int, Path]:
    """The leases of dead owners, by number. but: one to ignore. Raises `LockedStore` for a living owner."""
    found = {}
    for file in path.parent.glob(f"{path.name}.*"):
        owner = read_owner(file)
        if file == but or not file.suffix[1:].isdigit() or not owner:
            continue
        if not is_dead(owner):
            raise locked(store, owner, file)
        found[int(file.suffix[1:])] = file
    return found


def keep_for_reading(store: Path) -> int | None:
    """A handle that keeps `unread` from removing a store until it is closed, by a lock that readers share.

    None if that is impossible: on another machine than the one that prunes, or without `flock`, readers of a removed
    store get an error instead. Raises `MissingCache` for a store that is currently being removed.
    """
    try:
        handle = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise MissingCache(f"{store} is being removed by `cache prune`.") from error
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def unread(store: Path) -> Iterator[None]:
    """Keep readers from opening a store while the block runs. Raises `LockedStore` while one has it open."""
    with ExitStack() as stack:
        # If it cannot be opened or locked (see `keep_for_reading`), no other process has locked it either.
        with suppress(OSError):
            handle = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LockedStore(f"{store}: a process is reading this store.") from error
        yield


def this_process() -> dict[str, Json]:
    """This process, for other processes to read: number, host, start time, and date (for people only)."""
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def read_owner(link: Path) -> str:
    """The target of a link; empty if it is gone, or not a link."""
    with suppress(OSError):
        return os.readlink(link)
    return ""


def is_dead(owner: str) -> bool:
    """Whether the process described by `this_process` has certainly ended; one on another machine may be alive."""
    try:
        found = json.loads(owner)
        process, started = int(found["process"]), str(found["started"])
        here = (found["host"], found["machine"]) == (socket.gethostname(), _machine())
    except (ValueError, KeyError, TypeError):
        return False
    if not here:
        return False
    with suppress(PermissionError):  # it exists and belongs to another user
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
    # The process id may have been reused since.
    now = _started(process)
    return bool(now) and now != started


@cache
def _machine() -> str:
    """This boot of this machine, and the container: process ids are only meaningful within both."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started(process: int) -> str:
    """When a process started, in ticks since boot, which no clock change affects; "ended" for a zombie, empty if
    unknown.
    """
    with suppress(OSError, IndexError):
        # The name of the program precedes it, in parentheses, and may contain any characters.
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "ended" if state in "ZX" else fields[18]
    return ""
