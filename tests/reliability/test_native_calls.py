"""R4 from outside: the kernel rejects a call to a real process, also one that native code makes.

`test_failing_calls` counts exactly, but only sees calls that go through `cache/atomic.py`. Here strace lets the n-th
rename, fsync, mkdir, unlink or write of any thread fail. Its counts are per thread, so a point is not the same call
every time; the promise must hold at all of them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import extract
from tests.reliability.conftest import Report
from tests.reliability.scenes import FULL, Scene, damaged_copy, make_scene, read_everything, sized, temporaries
from unialign.cache.verify import verify_store
from unialign.errors import CacheProblem

CALLS = {
    "rename": "rename,renameat,renameat2",
    "fsync": "fsync,fdatasync",
    "mkdir": "mkdir,mkdirat",
    "unlink": "unlink,unlinkat,rmdir",
    "write": "write,pwrite64,writev",
}
TYPED = ("OSError", "UnialignError", "DamagedStore", "UsageError", "FileNotFoundError", "FileExistsError")


def can_trace() -> bool:
    """Whether strace is here and may trace."""
    tool = shutil.which("strace")
    return bool(tool) and subprocess.run([str(tool), "-qq", "true"], capture_output=True).returncode == 0


def action_of(call: str) -> str:
    """A repair where nothing else deletes anything."""
    return "repair" if call == "unlink" else "extract"


def refused_run(scene: Scene, cache: Path, call: str, error: str, number: int) -> bool:
    """Extract in a process whose `number`-th call of a kind fails; returns whether one did."""
    log = cache.parent / "strace.log"
    words = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", str(log), "-e", f"trace={CALLS[call]}"]
    words += ["-e", f"inject={CALLS[call]}:error={error}:when={number}"]
    words += [sys.executable, "-B", "-m", "tests.reliability.program", action_of(call), str(cache)]
    words += [str(scene.cache.parent / "files"), str(len(scene.sources))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"})
    refused = "INJECTED" in log.read_text()
    what = f"{call} {number} {error}: {done.stderr[-400:]}"
    if done.returncode:
        assert refused, what
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        # A rejected write may be the one that prints the error.
        assert call == "write" or last.split(":")[0].split(".")[-1] in TYPED, what
    return refused


def check_point(scene: Scene, cache: Path, call: str, error: str, number: int) -> bool:
    """One rejected call: what is there can be read or is rejected, and the next extraction makes the same store."""
    shutil.rmtree(cache, ignore_errors=True)
    repair = action_of(call) == "repair"
    if repair:
        damaged_copy(scene, cache)
    met = refused_run(scene, cache, call, error, number)
    what = f"{call} {number} {error}"
    store = cache / scene.store.relative_to(scene.cache)
    if store.is_dir():
        read_everything(store, scene.expected, what)
    extract(cache, scene.sources, repair=repair)
    assert verify_store(store) == [], what
    assert tree_digest(store) == scene.whole, f"{what}: another store"
    assert not temporaries(cache), what
    return met


@pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")
@pytest.mark.parametrize("call", CALLS if FULL else ["rename", "fsync"])
def test_whatever_the_kernel_refuses_the_store_is_finished_later(memory: Path, report: Report, call: str) -> None:
    scene = make_scene(memory, 7, (2,))
    points = 0
    for error in ("EIO", "ENOSPC") if FULL else ("EIO",):
        for number in range(1, sized(3, 400)):
            if not check_point(scene, memory / "work", call, error, number):
                break
            points += 1
    assert points
    report("R4", refused_by_the_kernel=call, calls=points, different_stores=0)


@pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")
def test_meta_a_writer_that_passes_over_a_refused_rename_is_caught(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(memory, 7, (2,))
    monkeypatch.setattr("tests.reliability.test_native_calls.action_of", lambda call: "deaf")
    # Some of its renames are not missed: what they would have put in place is rewritten by the next run.
    with pytest.raises((AssertionError, CacheProblem)):
        [check_point(scene, memory / "work", "rename", "EIO", number) for number in range(1, 9)]
