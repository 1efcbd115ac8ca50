"""R1: kill -9 at random moments of an extraction: the resumed store is byte-identical, nothing recorded is done again.

20 kills in the usual run, 200 with RELIABILITY=full.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import extract, make_files
from tests.reliability.conftest import Report
from unialign.cache.verify import verify_store

KILLS = 200 if os.environ.get("RELIABILITY") == "full" else 20
NUM_SAMPLES = 64
PAUSE = 0.004


def start(cache: Path, files: Path, cluster: str = "") -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.made_extractor",
        str(cache),
        str(files),
        str(NUM_SAMPLES),
        str(PAUSE),
        cluster,
    ]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.timeout(1200)
def test_killed_and_resumed_stores_are_byte_identical(tmp_path: Path, report: Report) -> None:
    seed = int(os.environ.get("RELIABILITY_SEED", "0"))
    moments = random.Random(seed)
    reference = extract(tmp_path / "reference", make_files(tmp_path / "files", NUM_SAMPLES)).store
    whole = tree_digest(reference)
    started = time.monotonic()
    child = start(tmp_path / "timed", tmp_path / "files")
    child.communicate(timeout=60)
    duration = time.monotonic() - started
    kills = inside = 0
    while kills < KILLS:
        cache = tmp_path / "cache"
        while True:
            child = start(cache, tmp_path / "files")
            try:
                # From the moment when imports are about done to the expected end: where the writing happens.
                child.wait(timeout=moments.uniform(0.4, 1.0) * duration)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                kills += 1
                inside += any(cache.glob("made/poses/*/records/*.json"))
            _, err = child.communicate()
            if child.returncode == 0:
                break
            assert child.returncode == -signal.SIGKILL, err.decode()
        store = cache / reference.relative_to(tmp_path / "reference")
        assert tree_digest(store) == whole, f"after {kills} kills, seed {seed}"
        assert verify_store(store) == []
        shutil.rmtree(cache)
    report("R1", seed=seed, kills=kills, after_shards_were_written=inside, different_stores=0)
    assert inside > 0


CARELESS = """
import os, runpy, unialign.pipeline.executors as executors
entry = executors.Entry
executors.Entry = lambda *given: entry(*given[:4], {**given[4], "process": os.getpid()})
runpy.run_module("tests.made_extractor", run_name="__main__")
"""


def test_meta_records_that_name_their_process_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(cache: Path, files: Path, cluster: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CARELESS, str(cache), str(files), str(NUM_SAMPLES), str(PAUSE), cluster]
        return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    monkeypatch.setattr("tests.reliability.test_kill.start", careless)
    with pytest.raises(AssertionError, match=r"after [0-9]+ kills"):
        test_killed_and_resumed_stores_are_byte_identical(tmp_path, lambda number, **counts: None)
