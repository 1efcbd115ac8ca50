"""R40: several plain processes write one store together; whichever is killed, and whenever, the bytes are the same.

3 processes and 6 kills in the usual run, 4 processes and 50 kills with RELIABILITY=full.
"""

import multiprocessing
import random
import signal
import time
from collections import Counter
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract, make_files
from tests.reliability.conftest import Report
from tests.reliability.scenes import SEED, sized, temporaries
from unialign.cache import joining
from unialign.cache.joining import Seat, seat_at
from unialign.cache.verify import verify_store
from unialign.errors import LockedStore, UsageError

pytestmark = pytest.mark.usefixtures("fork_server")
NUM_SAMPLES = 62


def work(cache: Path, files: Path, pause: float = 0.01) -> None:
    """One of the processes; makes a file for each call of the extractor."""
    calls = cache.parent / "calls"
    calls.mkdir(exist_ok=True)
    extract(cache, make_files(files, NUM_SAMPLES), Spectrum(pause=pause, calls=calls), join=True)


def careless_work(cache: Path, files: Path) -> None:
    """One that claims what others have claimed."""
    Seat.claim = lambda self, shard: True  # type: ignore[method-assign]
    work(cache, files)


def start(cache: Path, files: Path, target: object = work) -> ForkServerProcess:
    process = multiprocessing.get_context("forkserver").Process(target=target, args=(cache, files))  # type: ignore[arg-type]
    process.start()
    return process


def join_all(folder: Path, number: int, target: object = work) -> Counter[str]:
    """So many processes from an empty cache to the end; returns how often each sample was extracted."""
    files, cache = folder / "files", folder / "cache"
    reference = extract(folder / "reference", make_files(files, NUM_SAMPLES)).store
    processes = [start(cache, files, target) for _ in range(number)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * number
    store = cache / reference.relative_to(folder / "reference")
    assert tree_digest(store) == tree_digest(reference)
    assert not temporaries(cache)
    return Counter(path.name.split("-")[0] for path in (folder / "calls").iterdir())


def test_processes_that_join_divide_the_samples_and_do_none_twice(memory: Path) -> None:
    calls = join_all(memory, 3)
    assert len(calls) == NUM_SAMPLES
    assert set(calls.values()) == {1}


def test_meta_without_claims_samples_are_done_twice(memory: Path) -> None:
    with pytest.raises(AssertionError):
        assert set(join_all(memory, 3, careless_work).values()) == {1}


@pytest.mark.timeout(1200)
def test_whoever_is_killed_the_bytes_are_the_same(memory: Path, report: Report) -> None:
    number, kills = sized(3, 4), sized(6, 50)
    moments, files = random.Random(SEED), memory / "files"
    reference = extract(memory / "reference", make_files(files, NUM_SAMPLES)).store
    whole, left, stores, after = tree_digest(reference), kills, 0, 0
    while left > 0:
        cache = memory / f"store{stores}" / "cache"
        cache.parent.mkdir()
        slow = partial(work, pause=0.03)
        processes = [start(cache, files, slow) for _ in range(number)]
        while left > 0 and all(process.exitcode is None for process in processes):
            time.sleep(moments.uniform(0.02, 0.25))
            place = moments.randrange(number)
            if processes[place].is_alive():
                processes[place].kill()
                left -= 1
                after += any(cache.glob("made/poses/*/records/*.json"))
            processes[place].join()
            processes[place] = start(cache, files, slow)
        for process in processes:
            process.join(120)
        assert all(process.exitcode in (0, -signal.SIGKILL) for process in processes)
        store = cache / reference.relative_to(memory / "reference")
        assert tree_digest(store) == whole, f"{kills - left} kills, seed {SEED}"
        assert verify_store(store) == []
        assert not temporaries(cache)
        stores += 1
    report("R40", processes=number, kills=kills, after_shards_were_written=after, stores=stores, different_stores=0)


def test_a_store_that_is_shared_is_locked_for_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = make_files(tmp_path / "files", 8)
    store = extract(tmp_path / "cache", sources).store
    monkeypatch.setattr(joining, "PREPARING", 0.2)
    with seat_at(store, tmp_path / "cache") as seat:
        assert seat.is_first
        with pytest.raises(LockedStore, match="--join"):
            extract(tmp_path / "cache", sources, join=True)
        seat.share()
        assert extract(tmp_path / "cache", sources, join=True).reused == 8
        with pytest.raises(LockedStore, match="--join"):
            extract(tmp_path / "cache", sources)
        seat.leave()
        assert seat.is_first
    assert extract(tmp_path / "cache", sources).reused == 8


def test_what_needs_the_store_alone_cannot_join(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 2)
    for alone in ({"repair": True}, {"retry": True}, {"cluster": "local:2"}):
        with pytest.raises(UsageError, match="--join"):
            extract(tmp_path / "cache", sources, join=True, **alone)
