"""R6: SIGINT and SIGTERM at random moments of `unialign extract`, once or twice: it ends within 10 seconds with 130 or
143, leaves no temporary and no process, and the same command continues to the same bytes.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import extract, make_files
from tests.reliability.conftest import Report
from tests.reliability.scenes import FULL, SEED, child, sized, temporaries

NUM_SAMPLES = 64
PAUSE = 0.01
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def command(files: Path, cache: Path, cluster: str) -> subprocess.Popen[bytes]:
    """`unialign extract frames` as a process of its own session."""
    for name in ("jump", "wave"):
        (files.parent / "root" / name).mkdir(parents=True, exist_ok=True)
        (files.parent / "root" / name / "clip.mp4").touch()
    words = ["extract", "frames", "--dataset", "folder", "--root", files.parent / "root", "--cache", cache]
    return child("cli", files, str(PAUSE), *words, "--shard-samples", "4", *(["--cluster", cluster] if cluster else []))


def alive(session: int) -> list[psutil.Process]:
    """The processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def num_records(cache: Path) -> int:
    """The records of a cache, also while another process makes and renames folders in it."""
    with suppress(FileNotFoundError):
        return len(list(cache.rglob("records/*.json")))
    return -1


def wait_for_nobody(session: int, seconds: float = 10) -> list[psutil.Process]:
    """The processes of a session that are alive after that time at most; Dask's end by themselves, a little later."""
    end = time.monotonic() + seconds
    while alive(session) and time.monotonic() < end:
        time.sleep(0.05)
    left = alive(session)
    for each in left:
        each.kill()
    return left


def check_signal(files: Path, cache: Path, cluster: str, wait: float, signals: list[signal.Signals]) -> bool:
    """Run, send the signals after `wait` seconds of work; returns whether it was interrupted before its end."""
    process = command(files, cache, cluster)
    records = num_records(cache)
    while process.poll() is None and num_records(cache) in {records, -1}:
        time.sleep(0.001)
    time.sleep(wait)
    started = time.monotonic()
    for number in signals:
        if process.poll() is None:
            process.send_signal(number)
            time.sleep(0.03)
    try:
        _, err = process.communicate(timeout=10)
        ended = time.monotonic()
    finally:
        left = wait_for_nobody(process.pid)
    allowed = {0, *(CODES[number] for number in signals)}
    if len(signals) > 1:
        # Met by the interpreter at its very end, where no handler is left; a shell says 130 or 143 of it as well.
        allowed |= {-number for number in signals}
    assert process.returncode in allowed, err.decode()
    assert b"Traceback" not in err, err.decode()
    assert ended - started < 10
    assert not left, f"still alive: {left}"
    if len(signals) == 1:
        assert not temporaries(cache), "a temporary is left"
    return process.returncode != 0


def check_signals(folder: Path, moments: list[list[signal.Signals]], cluster: str) -> int:
    """Interrupt one extraction again and again, then let it end; returns how often it was interrupted."""
    choice = random.Random(SEED)
    files, cache = folder / "files", folder / "cache"
    reference = extract(folder / "reference", make_files(files, NUM_SAMPLES)).store
    interrupted, workers = 0, 2 if cluster else 1
    for signals in moments:
        # A third of the whole at most, so that the next run has something left to do.
        wait = choice.uniform(0, PAUSE * NUM_SAMPLES / workers / 3)
        interrupted += check_signal(files, cache, cluster, wait, signals)
        if interrupted % 3 == 0:
            finish(files, cache, reference)
    if cache.is_dir():
        finish(files, cache, reference)
    return interrupted


def finish(files: Path, cache: Path, reference: Path) -> None:
    """Run to the end, compare, and begin again."""
    process = command(files, cache, "")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    (store,) = cache.glob(f"*/poses/{reference.name}")
    assert shards(store) == shards(reference)
    shutil.rmtree(cache)


def shards(store: Path) -> dict[str, str]:
    """Digests of all folders of a store but its metadata, which name the collection."""
    return {path.name: tree_digest(path) for path in store.iterdir() if path.is_dir()}


INTERRUPT, TERMINATE = signal.SIGINT, signal.SIGTERM
FEW = [[INTERRUPT], [TERMINATE], [INTERRUPT, INTERRUPT]]
MANY = [*FEW, [TERMINATE, TERMINATE], [INTERRUPT, TERMINATE]] * 4


@pytest.mark.timeout(900)
def test_a_signal_ends_an_extraction_cleanly(memory: Path, report: Report) -> None:
    interrupted = check_signals(memory, MANY if FULL else FEW, "")
    assert interrupted > sized(1, 10)
    report("R6", interrupted=interrupted, orphans=0, different_stores=0)


@pytest.mark.timeout(900)
@pytest.mark.skipif(not FULL, reason="Dask starts slowly: RELIABILITY=full")
def test_a_signal_ends_dask_workers_too(memory: Path, report: Report) -> None:
    interrupted = check_signals(memory, MANY[:8], "local:2")
    assert interrupted > 2
    report("R6", interrupted_with_workers=interrupted, orphans=0, different_stores=0)


def test_meta_an_extraction_that_ignores_signals_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(files: Path, cache: Path, cluster: str) -> subprocess.Popen[bytes]:
        code = "import signal, time\nsignal.signal(2, signal.SIG_IGN)\ntime.sleep(0.5)\nraise SystemExit(7)"
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    monkeypatch.setattr("tests.reliability.test_signals.command", deaf)
    with pytest.raises(AssertionError):
        check_signal(memory / "files", memory / "cache", "", 0, [INTERRUPT])
