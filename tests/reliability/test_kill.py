"""R1: kill -9 at random moments of an extraction: the resumed store is byte-identical, nothing recorded is done again.

20 kills in the usual run, 200 with RELIABILITY=full.
"""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract, make_files
from tests.reliability.conftest import Report
from unialign.cache.verify import verify_store
from unialign.pipeline.extraction import executors

# Forked with the libraries loaded, so that the whole life of a process is the extraction.
pytestmark = pytest.mark.usefixtures("fork_server")
KILLS = 200 if os.environ.get("RELIABILITY") == "full" else 20
NUM_SAMPLES = 64
PAUSE = 0.004


def work(cache: Path, files: Path) -> None:
    """The extraction; what is started, killed and started again."""
    extract(cache, make_files(files, NUM_SAMPLES), Spectrum(pause=PAUSE))


def start(cache: Path, files: Path, target: Callable[[Path, Path], None] = work) -> ForkServerProcess:
    process = multiprocessing.get_context("forkserver").Process(target=target, args=(cache, files))
    process.start()
    return process


@pytest.mark.timeout(1200)
def test_killed_and_resumed_stores_are_byte_identical(tmp_path: Path, report: Report) -> None:
    seed = int(os.environ.get("RELIABILITY_SEED", "0"))
    moments = random.Random(seed)
    reference = extract(tmp_path / "reference", make_files(tmp_path / "files", NUM_SAMPLES)).store
    whole = tree_digest(reference)
    # The first one also waits for the server to be there.
    for name in ("first", "timed"):
        started = time.monotonic()
        child = start(tmp_path / name, tmp_path / "files")
        child.join(60)
        duration = time.monotonic() - started
        assert child.exitcode == 0
    kills = inside = 0
    while kills < KILLS:
        cache = tmp_path / "cache"
        while True:
            child = start(cache, tmp_path / "files")
            # From its start to the expected end.
            child.join(moments.uniform(0, 1) * duration)
            if child.is_alive():
                child.kill()
                kills += 1
                inside += any(cache.glob("made/poses/*/records/*.json"))
            child.join()
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL
        store = cache / reference.relative_to(tmp_path / "reference")
        assert tree_digest(store) == whole, f"after {kills} kills, seed {seed}"
        assert verify_store(store) == []
        shutil.rmtree(cache)
    report("R1", seed=seed, kills=kills, after_shards_were_written=inside, different_stores=0)
    assert inside > 0


def careless_work(cache: Path, files: Path) -> None:
    """An extraction whose records name the process that wrote them."""
    entry = executors.Entry
    executors.Entry = lambda *given: entry(*given[:4], {**given[4], "process": os.getpid()})  # type: ignore[misc]
    work(cache, files)


def test_meta_records_that_name_their_process_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.reliability.test_kill.start", partial(start, target=careless_work))
    with pytest.raises(AssertionError, match=r"after [0-9]+ kills"):
        test_killed_and_resumed_stores_are_byte_identical(tmp_path, lambda number, **counts: None)
