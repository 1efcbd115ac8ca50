"""R29, R30: clocks that are set, and processes that are stopped: no time decides what is whole, current, or whose.

R29 sets the clock of a process at every look at it, and hides changes of sources behind times that are as they were.
R30 stops an extraction and ages all that it holds, with locks of the kernel and with leases.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import extract, make_files
from tests.made_stores import frames_store, made_dataset, text_store
from tests.pipeline.made_training import tiny_training
from tests.reliability.conftest import Report
from tests.reliability.program import LOCKED
from tests.reliability.scenes import SEED, child, sized
from unialign.cache import lock
from unialign.cache.digests import file_digest
from unialign.cache.index import record_sizes
from unialign.cache.lock import store_lock
from unialign.cache.reader import StoreReader
from unialign.pipeline.extraction.source_digests import SourceDigests

YEAR = 365 * 24 * 3600
MODEL = {"modalities": ("video", "text")}


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the time finds the clock set to another year."""
    choice, real = random.Random(SEED), time.time
    monkeypatch.setattr(time, "time", lambda: real() + choice.uniform(-20, 20) * YEAR)
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """See files that were changed just now from two minutes later."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 120 * 10**9)


def same_time(path: Path, change: Callable[[], object]) -> None:
    """Change a file and restore its modification time."""
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.usefixtures("set_clock")
def test_an_extraction_and_a_training_are_the_same_under_a_clock_that_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    sources = make_files(tmp_path / "files", 12)
    stores = []
    for name in ("jumping", "steady"):
        done = extract(tmp_path / name, sources[:7])
        done = extract(tmp_path / name, sources)
        assert (done.reused, done.extracted) == (7, 5)
        assert extract(tmp_path / name, sources).extracted == 0
        frames_store(tmp_path / name, made_dataset())
        text_store(tmp_path / name)
        trained = tiny_training(tmp_path / name, tmp_path / f"runs-{name}", model=MODEL, epochs=1)
        stores.append((tree_digest(done.store), dict(trained.metrics)))
        monkeypatch.undo()
    assert stores[0] == stores[1]
    report("R29", under="a clock set by years at every look", extractions=3, trainings=1, differences=0)


def test_a_source_that_changed_behind_the_same_time_is_extracted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    sources = make_files(tmp_path / "files", 12)
    settle(monkeypatch)
    extract(tmp_path / "cache", sources)
    paths = [source.path for source in sources if source.path]
    kinds: list[Callable[[Path], object]] = [
        lambda path: path.write_bytes(flipped(path)),  # in place
        lambda path: replace(path, flipped(path)),  # by a rename
        lambda path: shutil.copy2(with_bytes(path.with_suffix(".other"), flipped(path)), path),
        lambda path: path.write_bytes(flipped(path)) and path.chmod(0o640),
    ]
    for kind, path in zip(kinds, paths, strict=False):
        same_time(path, lambda kind=kind, path=path: kind(path))  # type: ignore[misc]
    done = extract(tmp_path / "cache", sources)
    assert (done.attempted, done.reused) == (len(kinds), 12 - len(kinds))
    report("R29", sources_changed_behind_the_same_size_and_time=len(kinds), seen=done.attempted)


def test_meta_a_memory_without_the_time_of_change_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    whole = SourceDigests.stamp
    monkeypatch.setattr(SourceDigests, "stamp", staticmethod(lambda path: whole(path)[:3]))
    sources = make_files(tmp_path / "files", 4)
    extract(tmp_path / "cache", sources)
    path = sources[0].path
    assert path is not None
    same_time(path, lambda: path.write_bytes(flipped(path)))
    assert extract(tmp_path / "cache", sources).attempted == 0


@pytest.mark.parametrize("seconds", [0, -3600, 3600], ids=["steady", "set back", "set forward"])
def test_what_was_changed_just_now_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """The clock of a file system may give two changes the same time; only what has settled is remembered."""
    path = with_bytes(tmp_path / "clip", b"first")
    real = time.time_ns
    digests = SourceDigests(tmp_path / "cache", "made")
    monkeypatch.setattr(time, "time_ns", lambda: real() + seconds * 10**9)
    first = digests.of(path)
    digests.save()
    remembered = (tmp_path / "cache" / ".digests" / "made.json").is_file()
    assert remembered is (seconds > 0)
    path.write_bytes(b"other")
    again = SourceDigests(tmp_path / "cache", "made").of(path)
    assert (again, first != again) == (file_digest(path), True)


def test_a_reader_reads_again_what_was_changed_behind_the_same_time(tmp_path: Path) -> None:
    store = extract(tmp_path / "cache", make_files(tmp_path / "files", 8)).store
    reader = StoreReader(store)
    reader.shard("rows", 1)
    reader.release("rows", 1)
    path = reader.store.shard_path("rows", 1)
    path.chmod(0o644)
    same_time(path, lambda: path.write_bytes(flipped(path)))
    with pytest.raises(Exception, match="is not what was written"):
        reader.shard("rows", 1)


@pytest.mark.parametrize("how", ["flock", "lease"])
def test_a_stopped_extraction_keeps_its_store_and_goes_on(tmp_path: Path, how: str, report: Report) -> None:
    whole = tree_digest(extract(tmp_path / "whole", make_files(tmp_path / "files", 24)).store)
    store = None
    for _ in range(sized(1, 4)):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        action = "extract" if how == "flock" else "extract-leased"
        words = (tmp_path / "cache", tmp_path / "files", "24", "0.02")
        process, other = child(action, *words), None
        try:
            store = awaited_shards(tmp_path / "cache", 2)
            os.kill(process.pid, signal.SIGSTOP)
            age(tmp_path / "cache")
            other = child(action, *words)
            assert other.wait(60) == LOCKED
            os.kill(process.pid, signal.SIGCONT)
            assert process.wait(60) == 0
        finally:
            for each in (process, other):
                if each is not None:
                    each.kill()
                    each.communicate()
        assert tree_digest(store) == whole
    report("R30", stopped=sized(1, 4), by=how, taken_over=0, differences=0)


def test_meta_a_lease_that_ends_by_its_age_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that the test above looks for: an old owner is taken for a dead one."""
    monkeypatch.setattr("unialign.cache.lock.is_dead", lambda text: "2001-" in text)
    monkeypatch.setattr("fcntl.flock", refused)
    store = tmp_path / "cache" / "made" / "poses" / "x-0123456789ab.zarr"
    with store_lock(store, tmp_path / "cache"):
        age(tmp_path / "cache")
        with store_lock(store, tmp_path / "cache"):
            pass


def refused(handle: int, how: int) -> None:
    raise OSError(37, "No locks available")


def flipped(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    return bytes(data)


def with_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def replace(path: Path, data: bytes) -> None:
    os.replace(with_bytes(path.with_suffix(".new"), data), path)


def awaited_shards(cache: Path, number: int) -> Path:
    """The store once it has so many shards."""
    for _ in range(6000):
        for store in cache.glob("made/poses/[!.]*.zarr"):
            if len(record_sizes(store)) >= number:
                return store
        time.sleep(0.01)
    raise AssertionError("no shard was written in a minute")


def age(cache: Path) -> None:
    """Give all that a lock consists of the times of long ago, as after hours of standing still."""
    for path in (cache / ".locks").iterdir():
        if path.is_symlink():
            text = json.dumps({**json.loads(lock.read_owner(path)), "since": "2001-01-01 00:00:00"})
            path.unlink()
            path.symlink_to(text)
        os.utime(path, (1, 1), follow_symlinks=False)
