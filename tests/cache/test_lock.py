"""Contract of the lock: one holder at a time, with `flock` and without; none left by the dead; for all users."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import unprivileged
from unialign.cache import lock
from unialign.cache.access import explained
from unialign.cache.lock import is_dead, store_lock, this_process
from unialign.errors import LockedStore, UsageError

WITHOUT_FLOCK = """
import errno, fcntl, os, sys, time
from pathlib import Path
def refuse(handle, how): raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refuse
from unialign.errors import LockedStore
from unialign.cache.lock import store_lock
"""
# Each round notes when it holds the lock, in a file that it makes exclusively: two holders at once are seen.
ROUNDS = """
cache, rounds, dies = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "dies"
held = 0
deadline = time.monotonic() + 60
while held < rounds and time.monotonic() < deadline:
    try:
        with store_lock(cache / "a" / "b.zarr", cache):
            try:
                os.mkdir(cache / "inside")
            except FileExistsError:
                sys.exit("two at once")
            held += 1
            time.sleep(0.001)
            os.rmdir(cache / "inside")
            if dies and held == rounds:
                os._exit(0)
    except LockedStore:
        time.sleep(0.0005)
print(held)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "made" / "poses" / "x-0123456789ab.zarr"


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP], ids=lambda number: errno.errorcode[number])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def leases(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache" / ".locks").iterdir() if path.is_symlink())


def leave_lease(tmp_path: Path, store: Path, number: int = 0, **changed: Any) -> Path:
    """A lease of this process, but for some fields."""
    folder = tmp_path / "cache" / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / f"made-poses-{store.name}.lock.{number:09d}"
    link.symlink_to(json.dumps({**this_process(), **changed}))
    return link


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_lease_does_the_same(tmp_path: Path, store: Path) -> None:
    for _ in range(2):
        with store_lock(store, tmp_path / "cache"):
            assert len(leases(tmp_path)) == 1
            with (
                pytest.raises(LockedStore, match=rf"another extraction .*process {os.getpid()} on .*delete .*lock.0"),
                store_lock(store, tmp_path / "cache"),
            ):
                pass
        assert leases(tmp_path) == []


@pytest.mark.usefixtures("no_flock")
def test_the_lease_of_a_dead_process_is_passed_over(tmp_path: Path, store: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leave_lease(tmp_path, store, process=gone.pid)
    leave_lease(tmp_path, store, 1, started="1")  # its number was given to this process since
    with store_lock(store, tmp_path / "cache"):
        assert [path.suffix for path in leases(tmp_path)] == [".000000002"]
    assert leases(tmp_path) == []


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("field", ["host", "machine"])
def test_the_lease_of_another_machine_stays_whatever_its_age(tmp_path: Path, store: Path, field: str) -> None:
    link = leave_lease(tmp_path, store, **{field: "elsewhere", "since": "1999-01-01 00:00:00"})
    with (
        pytest.raises(LockedStore, match=f"cannot be seen from here, delete {link}"),
        store_lock(store, tmp_path / "cache"),
    ):
        pass
    link.unlink()
    with store_lock(store, tmp_path / "cache"):
        pass


def test_a_lease_holds_also_where_there_is_flock(tmp_path: Path, store: Path) -> None:
    leave_lease(tmp_path, store, host="mounted-otherwise")
    with pytest.raises(LockedStore, match="mounted-otherwise"), store_lock(store, tmp_path / "cache"):
        pass


def test_a_lock_by_flock_holds_also_where_there_is_none(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with store_lock(store, tmp_path / "cache"):
        monkeypatch.setattr(fcntl, "flock", refuse)
        with pytest.raises(LockedStore, match=str(os.getpid())), store_lock(store, tmp_path / "cache"):
            pass
        monkeypatch.undo()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with store_lock(store, tmp_path / "cache"):
        pass


@pytest.mark.usefixtures("no_flock")
def test_a_file_system_without_links_too_is_one_sentence(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(UsageError, match=r"neither locks .* nor links"), store_lock(store, tmp_path / "cache"):
        pass


def test_another_fault_of_flock_is_no_missing_lock(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"), store_lock(store, tmp_path / "cache"):
        pass
    number = errno.EBADF  # of NFS, for a file that this user may only read
    with pytest.raises(PermissionError, match=r"\.lock"), store_lock(store, tmp_path / "cache"):
        pass


@pytest.mark.parametrize("sabotage", ["", "no-look"])
def test_leases_are_held_by_one_at_a_time_also_beside_the_dying(tmp_path: Path, sabotage: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    broken = "import unialign.cache.lock as l; l.is_dead = lambda *_: True\n" if sabotage else ""
    code = WITHOUT_FLOCK + broken + ROUNDS
    words = [("25", "lives")] * 3 + [("3", "dies")] * 3
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(cache), *each], stderr=subprocess.PIPE, text=True)
        for each in words
    ]
    errors = [process.communicate(timeout=100)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert (set(codes) == {0}) is not bool(sabotage), (codes, errors)


def test_who_has_ended_is_told_from_who_lives() -> None:
    me = this_process()
    assert not is_dead(json.dumps(me))
    assert is_dead(json.dumps({**me, "started": "7"}))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    other = {**me, "process": child.pid, "started": _ticks(child.pid)}
    assert not is_dead(json.dumps(other))
    os.kill(child.pid, signal.SIGSTOP)
    assert not is_dead(json.dumps(other))
    child.kill()
    # Killed, and not yet collected by its parent: what it held is free.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(json.dumps(other))
    child.wait()
    assert is_dead(json.dumps(other))
    for nonsense in ("", "{}", "[]", "x", '{"process": "x"}', json.dumps({**me, "process": None})):
        assert not is_dead(nonsense)


def _ticks(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_locks_are_for_all_who_may_write_into_the_cache(tmp_path: Path, store: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o2775)
    with store_lock(store, cache):
        pass
    file = next((cache / ".locks").iterdir())
    assert stat.S_IMODE((cache / ".locks").stat().st_mode) == 0o2775
    assert stat.S_IMODE(file.stat().st_mode) == 0o664
    private = tmp_path / "private"
    with store_lock(private / "made" / "poses" / store.name, private):
        pass
    assert stat.S_IMODE((private / ".locks").stat().st_mode) == 0o700


def test_the_lock_file_of_another_user_is_locked_without_writing_it(tmp_path: Path, store: Path) -> None:
    cache = tmp_path / "cache"
    with store_lock(store, cache):
        pass
    next((cache / ".locks").iterdir()).chmod(0o444)
    (cache / ".locks").chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from unialign.cache.lock import store_lock\n"
        "from unialign.errors import LockedStore\n"
        "try:\n  with store_lock(Path(sys.argv[2]), Path(sys.argv[1])): print('held')\n"
        "except LockedStore as error: print(error)"
    )
    assert unprivileged.run(code, cache, store, cwd=tmp_path) == "held\n"
    with store_lock(store, cache):
        assert f"process {os.getpid()} on " in unprivileged.run(code, cache, store, cwd=tmp_path)


def test_a_link_in_the_place_of_a_lock_file_is_not_followed(tmp_path: Path, store: Path) -> None:
    (tmp_path / "cache" / ".locks").mkdir(parents=True)
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "cache" / ".locks" / f"made-poses-{store.name}.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"), store_lock(store, tmp_path / "cache"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_the_system_refuses_is_told_with_owner_and_way_out(tmp_path: Path) -> None:
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "none" / "file"))
    told = explained(refused)
    assert told.startswith(f"{tmp_path}/none/file: permission denied to ")
    assert f"{tmp_path} is " in told
    assert "chmod -R g+rwX" in told
    read_only = OSError(errno.EROFS, "Read-only file system", "/x/y")
    assert (
        explained(read_only)
        == "/x/y lies on a read-only file system; choose a folder that can be written (--cache, --runs, --out)"
    )
    full = explained(OSError(errno.ENOSPC, "No space left on device", "/x"))
    assert full == "/x: No space left on device; make room and repeat the command, which keeps what was finished"
    assert explained(PermissionError(errno.EACCES, "Permission denied")) == "[Errno 13] Permission denied"
    assert lock.NO_LOCKS.isdisjoint({errno.EACCES, errno.EROFS, errno.EIO})
