"""R15 to R18: samples that crash, hang, fill the memory or raise cost themselves and no other, serially and by Dask.

The store is byte for byte the one in which they were given their status from the start. By Dask only with
RELIABILITY=full, because it starts slowly; tests/pipeline/extraction/test_executors.py has one such run.
"""

import json
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import DEEDS, Marked, Spectrum, extract, make_files
from tests.pipeline.extraction.test_supervisor import STATUS
from tests.reliability.conftest import Report
from tests.reliability.scenes import FULL, SEED, child, sized
from tests.reliability.test_signals import wait_for_nobody
from unialign.cache.verify import verify_store
from unialign.pipeline.extraction import executors, supervisor, supply, worker
from unialign.pipeline.extraction.extract import Extraction
from unialign.pipeline.extraction.supervisor import GUILTY, Limits, Supervisor
from unialign.pipeline.memory import private_memory
from unialign.stages.extraction.base import Outcome, Source

NUM_SAMPLES = 22
# Generous beside what good samples take, for a machine that does other things too.
LIMITS = Limits(seconds=2, memory=400 << 20)
CRASHES = ("segfault", "abort", "kill")
AHEAD = 2


def check_quarantine(
    folder: Path, deeds: dict[int, str], cluster: str = "", seconds: float = 60, limits: Limits = LIMITS
) -> Extraction:
    """Extract samples of which some do something.

    Fails unless exactly those have the status that they ask for, with a reason, and the store is the one in which they
    had it from the start, and unless a second extraction has nothing to do and another try quarantines them again.
    """
    sources = make_files(folder / "files", NUM_SAMPLES, (1,), deeds)
    extractor = Spectrum(ahead=AHEAD)
    started = time.monotonic()
    done = extract(folder / "cache", sources, extractor, cluster=cluster, limits=limits)
    assert time.monotonic() - started < seconds, "a bad sample costs more than itself"
    found = {name: status for name, status, _ in done.problems}
    wanted = {sources[n].id: STATUS[deed] for n, deed in deeds.items() if STATUS[deed] != "ok"}
    assert found == {sources[1].id: "truncated", **wanted}, "another sample than the bad ones is quarantined"
    marks = {name: (status, why) for name, status, why in done.problems if status in GUILTY}
    assert all(why for _, why in marks.values())
    marked = extract(folder / "marked", sources, Marked(lenient=True, marks={**marks, sources[1].id: TRUNCATED}))
    assert tree_digest(done.store) == tree_digest(marked.store), "the good samples are other bytes"
    assert verify_store(done.store) == []
    assert extract(folder / "cache", sources, extractor).attempted == 0, "a quarantined sample is tried without --retry"
    return done


TRUNCATED = ("truncated", "starts with bad")


def check_retry(folder: Path, done: Extraction) -> None:
    """Try again what failed; fails unless the samples get their features once the cause is gone."""
    sources = make_files(folder / "files", NUM_SAMPLES)
    mended = extract(folder / "cache", sources, Spectrum(lenient=True), retry=True)
    assert (mended.extracted, mended.quarantined) == (sum(done.quarantined.values()), {})


@contextmanager
def peak_memory(limit: int) -> Iterator[None]:
    """Fails if this process and its children take more than `limit` bytes beside what it has now."""
    process, peaks, ended = psutil.Process(), [0], threading.Event()
    # A fork counts what it shares with this process as its own.
    begun = private_memory(process.pid)

    def look() -> None:
        while not ended.wait(0.02):
            workers = [private_memory(each.pid) for each in process.children(recursive=True)]
            peaks.append(private_memory(process.pid) - begun + sum(max(0, each - begun) for each in workers))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()
    assert max(peaks) < limit, f"the peak is {max(peaks) >> 20} MiB"


@pytest.mark.parametrize("kinds", [CRASHES, ("raise", "exit", "leave", "lack-memory")], ids=["crashes", "ends"])
def test_a_sample_that_crashes_is_quarantined_and_no_other(
    memory: Path, report: Report, kinds: tuple[str, ...]
) -> None:
    deeds = {(5 * n + 2) % NUM_SAMPLES: kind for n, kind in enumerate(kinds)}
    check_retry(memory, check_quarantine(memory, deeds, seconds=30))
    report("R15", crashing_samples=len(kinds), quarantined=len(kinds), innocent_ones_quarantined=0, different_stores=0)


@pytest.mark.skipif(not FULL, reason="many runs: RELIABILITY=full")
@pytest.mark.timeout(1800)
def test_whatever_samples_do_wherever_they_lie(memory: Path, report: Report) -> None:
    choice, bad = random.Random(SEED), 0
    for number in range(20):
        places = choice.sample([n for n in range(NUM_SAMPLES) if n != 1], choice.randint(1, 5))
        kinds = choice.choices([name for name in DEEDS if STATUS[name] != "timeout"], k=len(places))
        check_quarantine(memory / f"{number}", dict(zip(places, kinds, strict=True)))
        bad += len(places)
    report("R15", random_runs=20, bad_samples=bad, innocent_ones_quarantined=0, different_stores=0)


@pytest.mark.skipif(not FULL, reason="Dask starts slowly: RELIABILITY=full")
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_dask_workers_survive_every_kind(memory: Path, report: Report) -> None:
    from distributed import LocalCluster

    deeds = {(3 * n + 2) % NUM_SAMPLES: name for n, name in enumerate(DEEDS) if (3 * n + 2) % NUM_SAMPLES != 1}
    with LocalCluster(n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None) as elsewhere:
        for number, cluster in enumerate(("local:1", "local:2", elsewhere.scheduler_address)):
            check_quarantine(memory / f"{number}", deeds, cluster, seconds=300, limits=replace(LIMITS, seconds=6))
    report("R15", by_dask=3, bad_samples=3 * len(deeds), innocent_ones_quarantined=0, different_stores=0)


def test_the_command_says_what_happened(memory: Path) -> None:
    files = memory / "files"
    make_files(files, 9, deeds={2: "segfault", 6: "raise"})
    for name in ("jump", "wave"):
        (memory / "root" / name).mkdir(parents=True)
        (memory / "root" / name / "clip.mp4").touch()
    words = ["extract", "frames", "--dataset", "folder", "--root", memory / "root", "--cache", memory / "cache"]
    process = child("cli", files, "0", *words, "--shard-samples", "4", "--json")
    out, err = process.communicate(timeout=100)
    assert not wait_for_nobody(process.pid)
    assert process.returncode == 3, err.decode()
    assert json.loads(out.splitlines()[-1])["quarantined"] == {"crashed": 1, "internal-error": 1}
    assert b"Traceback" not in err
    shown = child("cli", files, "0", *words, "--retry")
    _, err = shown.communicate(timeout=100)
    assert b"1 crashed (the process that worked on it was ended by SIGSEGV), such as clip002" in err
    assert b"1 internal-error (AttributeError: " in err


@pytest.mark.parametrize("deed", ["leak", "fill"])
def test_a_sample_that_fills_the_memory_is_quarantined(memory: Path, report: Report, deed: str) -> None:
    with peak_memory(2_500_000_000):
        # Whatever else the machine does, memory is the cause, not time.
        done = check_quarantine(memory, {6: deed}, limits=replace(LIMITS, seconds=30))
    assert done.quarantined["out-of-memory"] == 1
    report("R16", samples_that_fill_the_memory=1, innocent_ones_quarantined=0, different_stores=0)


@contextmanager
def deaths(number: int, choice: random.Random) -> Iterator[list[tuple[int, str]]]:
    """Kill the workers of this process, one after the other, at random moments; gives those that were killed.

    Only once they have work, and never twice on the same sample: whoever is killed twice while loading ends the
    extraction, and a sample whose worker dies twice is quarantined.
    """
    started, killed, ended = list[tuple[int, str]](), list[tuple[int, str]](), threading.Event()
    real = supervisor.Worker.tell

    def note(self: supervisor.Worker, message: worker.Request | worker.Allowed) -> None:
        real(self, message)
        if isinstance(message, worker.Request):
            started.append((self.pid, message.sources[0].id))

    def kill() -> None:
        while len(killed) < number and not ended.wait(choice.uniform(0.25, 0.5)):
            pid, sample = started[-1] if started else (0, "")
            if pid and pid not in dict(killed) and sample not in dict(killed).values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append((pid, sample))

    supervisor.Worker.tell = note  # type: ignore[method-assign]
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        ended.set()
        killer.join()
        supervisor.Worker.tell = real  # type: ignore[method-assign]


def check_no_work_twice(folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Kill workers from outside; returns the deaths and the calls of the extractor for samples that were lost by them.

    Fails unless nobody is quarantined, the store is the same bytes, and at each death no more was lost than what was
    being worked on.
    """
    sizes: list[int] = []
    real = executors.store_unit

    def measured(*given: object) -> executors.Done:
        done = real(*given)  # type: ignore[arg-type]
        sizes.append(len(pickle.dumps(done)))
        return done

    monkeypatch.setattr(executors, "store_unit", measured)
    sources = make_files(folder / "files", 96)
    calls = folder / "calls"
    calls.mkdir()
    # A sample takes longer than outcomes wait to be sent.
    extractor = Spectrum(pause=1.5 * worker.SEND_EVERY, calls=calls, ahead=AHEAD)
    with deaths(number, random.Random(SEED)) as killed:
        done = extract(folder / "cache", sources, extractor, shard_samples=32)
    assert done.quarantined == {}, "somebody else's kill quarantines a sample"
    plain = extract(folder / "plain", sources, shard_samples=32)
    assert tree_digest(done.store) == tree_digest(plain.store)
    again = len(list(calls.iterdir())) - len(sources)
    # Of each death: the sample at work, those that wait for their outcome, and one that came with the next message.
    assert again <= len(killed) * (AHEAD + 2), f"{again} samples done again after {len(killed)} deaths"
    assert max(sizes) < 1 << 16, "features travel back"
    return len(killed), again


@pytest.mark.timeout(600)
def test_no_work_is_done_twice(memory: Path, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    killed, again = check_no_work_twice(memory, sized(5, 20), monkeypatch)
    assert killed >= 3
    report("R17", workers_killed=killed, samples_done_again=again, innocent_ones_quarantined=0, different_stores=0)


def test_a_sample_that_never_returns_is_ended_and_a_slow_one_is_not(memory: Path, report: Report) -> None:
    done = check_quarantine(memory, {4: "hang", 9: "slow", 15: "endless"})
    assert done.quarantined["timeout"] == 2
    report("R18", hanging=2, ended_at_their_deadline=2, slow=1, slow_ones_ended=0, different_stores=0)


def test_meta_the_first_one_after_a_failure_is_not_the_guilty_one(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage of R15: whoever comes next is blamed, without being tried alone."""

    def hasty(self: Supervisor, source: Source, *, hung: bool) -> Outcome:
        return Outcome(source.id, "crashed", self._digest(source), detail={"why": "it came next"})

    monkeypatch.setattr(Supervisor, "_alone", hasty)
    with pytest.raises(AssertionError, match="another sample"):
        check_quarantine(memory, {6: "segfault"})


def test_meta_unwatched_memory_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage of R16."""
    monkeypatch.setattr(supervisor, "private_memory", lambda pid: 0)
    with pytest.raises(AssertionError):
        check_quarantine(memory, {6: "fill"})


def test_meta_a_unit_that_begins_anew_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage of R17: what had come back before a death is thrown away."""

    def anew(self: Supervisor, rest: Sequence[Source]) -> Iterator[object]:
        steps = list(self._attempt(rest))
        if not isinstance(steps[-1], supervisor.Failure):
            yield from steps

    monkeypatch.setattr(Supervisor, "_go_on", anew)
    # All outcomes of a request are waited for, so it must not need permission on the way.
    monkeypatch.setattr(supply, "GROUP_SAMPLES", 1)
    with pytest.raises(AssertionError, match="done again"):
        check_no_work_twice(memory, 5, monkeypatch)


def test_meta_a_worker_without_signs_of_life_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage of R18: a slow sample looks like one that hangs."""
    monkeypatch.setattr(worker._Report, "beat", lambda self: None)
    with pytest.raises(AssertionError, match="another sample"):
        check_quarantine(memory, {4: "slow"})


def check_flips(folder: Path, number: int) -> int:
    """Flip single bits of sources; returns how many. Fails where a changed source counts as the one that was read."""
    sources = make_files(folder / "files", 8)
    extract(folder / "cache", sources)
    choice = random.Random(SEED)
    for _ in range(number):
        path = choice.choice(sources).path
        assert path is not None
        good = path.read_bytes()
        flipped = bytearray(good)
        flipped[choice.randrange(len(flipped))] ^= 1 << choice.randrange(8)
        path.write_bytes(flipped)
        planned = extract(folder / "cache", sources, dry_run=True)
        assert planned.attempted == 1, "a flipped source counts as the one that was read"
        path.write_bytes(good)
    assert extract(folder / "cache", sources).attempted == 0
    return number


def test_a_flipped_source_is_never_the_one_that_was_read(memory: Path, report: Report) -> None:
    report("R20", flipped_sources=check_flips(memory, sized(60, 300)), accepted=0)


def test_meta_sources_known_by_their_size_are_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage of R20."""
    monkeypatch.setattr(
        "unialign.pipeline.extraction.source_digests.SourceDigests.stamp",
        lambda self, path: [path.stat().st_size, 0, 0],
    )
    with pytest.raises(AssertionError, match="flipped source"):
        check_flips(memory, 5)
