"""R2: kill -9 of Dask's processes at random moments: the client, a worker, a nanny, the scheduler; and a worker that
stands still for a while. Afterwards the store is the same bytes, nobody is left behind, and all sockets were local.

One round with RELIABILITY unset, because Dask starts slowly; 60 rounds with RELIABILITY=full.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import extract
from tests.reliability.conftest import Report
from tests.reliability.scenes import FULL, SEED, Scene, child, make_scene, read_everything, sized, temporaries
from tests.reliability.test_signals import alive, wait_for_nobody
from unialign.cache.verify import verify_store

NUM_SAMPLES = 48
PAUSE = "0.02"
HERE = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def first_record(cache: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until something is stored. Fails when the extraction ends before."""
    while process.poll() is None and not list(cache.glob("made/poses/*/records/*.json")):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1].decode()


def workers_of(session: int) -> list[psutil.Process]:
    """The worker processes of a session: those that multiprocessing started to run something."""
    return [each for each in alive(session) if "spawn_main" in " ".join(each.cmdline())]


def foreign_sockets(session: int) -> list[str]:
    """Addresses of sockets of a session that are not of this machine alone."""
    found = []
    for process in alive(session):
        try:
            connections = process.net_connections(kind="inet")
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        found += [f"{each.laddr.ip}:{each.laddr.port}" for each in connections if each.laddr.ip not in HERE]
    return found


def check_finished(scene: Scene, cache: Path, code: int) -> None:
    """Resume after a failed end; fails unless everything is as in the uninterrupted store."""
    store = cache / scene.store.relative_to(scene.cache)
    if code:
        read_everything(store, scene.expected, "after a kill") if store.exists() else None
        extract(cache, scene.sources)
    assert verify_store(store) == []
    assert tree_digest(store) == scene.whole
    assert not temporaries(cache)


def check_local_kill(scene: Scene, cache: Path, victim: str, choice: random.Random) -> int:
    """One extraction by `--cluster local:2` and one kill; returns its exit code."""
    assert not cache.exists()
    files = scene.cache.parent / "files"
    process = child("extract", cache, files, str(NUM_SAMPLES), PAUSE, "1", "local:2")
    first_record(cache, process)
    time.sleep(choice.uniform(0, 0.3))
    outside = foreign_sockets(process.pid)
    if victim == "client":
        process.kill()
    elif workers := workers_of(process.pid):
        chosen = choice.choice(workers)
        chosen.send_signal(signal.SIGSTOP if victim == "stopped" else signal.SIGKILL)
        if victim == "stopped":
            time.sleep(sized(1, 5))
            # The other worker may have done everything by now, and the cluster ended.
            with suppress(psutil.NoSuchProcess):
                chosen.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=90)
    left = wait_for_nobody(process.pid)
    assert not left, f"still alive after the {victim} was killed: {left}"
    assert not outside, f"sockets open to others: {outside}"
    if victim != "client":
        assert process.returncode == 0, err.decode()
    check_finished(scene, cache, process.returncode)
    return process.returncode


@contextmanager
def cluster_of_processes(folder: Path) -> Iterator[tuple[str, dict[str, list[psutil.Process]]]]:
    """A scheduler and two workers with their nannies, each a process of its own; gives its address and processes."""
    file = folder / "scheduler.json"
    where = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", *where, "--port", "0"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", *where, "--nthreads", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    started = [subprocess.Popen([*scheduler, "--scheduler-file", str(file)], env=environment, **quiet)]  # type: ignore[call-overload]
    try:
        started += [
            subprocess.Popen([*worker, "--scheduler-file", str(file)], env=environment, **quiet)  # type: ignore[call-overload]
            for _ in range(2)
        ]
        end = time.monotonic() + 60
        while not (file.exists() and all(workers_of(each.pid) for each in started[1:])):
            assert time.monotonic() < end, "the cluster does not start"
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        nannies = [psutil.Process(each.pid) for each in started[1:]]
        yield address, {"scheduler": [psutil.Process(started[0].pid)], "nanny": nannies}
    finally:
        for each in started:
            for process in alive(each.pid):
                process.kill()
            each.wait()


def check_remote_kill(scene: Scene, folder: Path, victim: str, choice: random.Random) -> int:
    """One extraction on a scheduler elsewhere, one kill of a process of that cluster; returns the exit code."""
    folder.mkdir()
    cache = folder / "cache"
    with cluster_of_processes(folder) as (address, processes):
        files = scene.cache.parent / "files"
        process = child("extract", cache, files, str(NUM_SAMPLES), PAUSE, "1", address)
        first_record(cache, process)
        time.sleep(choice.uniform(0, 0.3))
        choice.choice(processes[victim]).kill()
        try:
            process.communicate(timeout=90)
        finally:
            process.kill()
    left = wait_for_nobody(process.pid)
    assert not left, f"still alive after the {victim} was killed: {left}"
    check_finished(scene, cache, process.returncode)
    return process.returncode


@pytest.mark.timeout(3000)
def test_killed_processes_of_a_local_cluster_lose_nothing(memory: Path, report: Report) -> None:
    scene, choice = make_scene(memory, NUM_SAMPLES, (7,)), random.Random(SEED)
    victims = ["worker", "client", "stopped"] * 14 if FULL else ["client"]
    for victim in victims:
        check_local_kill(scene, memory / "work", victim, choice)
        shutil.rmtree(memory / "work")
    report("R2", local_kills=len(victims), orphans=0, foreign_sockets=0, different_stores=0)


@pytest.mark.timeout(3000)
@pytest.mark.skipif(not FULL, reason="Dask starts slowly: RELIABILITY=full")
def test_killed_processes_of_a_cluster_elsewhere_lose_nothing(memory: Path, report: Report) -> None:
    scene, choice = make_scene(memory, NUM_SAMPLES, (7,)), random.Random(SEED)
    victims = ["nanny", "scheduler"] * 9
    codes = [check_remote_kill(scene, memory / f"{n}", victim, choice) for n, victim in enumerate(victims)]
    assert all(code == 0 for code, victim in zip(codes, victims, strict=True) if victim == "nanny"), codes
    report("R2", kills_elsewhere=len(victims), ended_by_themselves=codes.count(0), different_stores=0)


def test_meta_processes_that_stay_are_caught() -> None:
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    process.wait()
    assert len(wait_for_nobody(process.pid, 0.5)) == 1
    assert not wait_for_nobody(process.pid)


def test_meta_a_socket_for_everybody_is_caught() -> None:
    code = (
        "import socket, time; s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen(); print(flush=1); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    found = foreign_sockets(process.pid)
    process.kill()
    process.communicate()
    assert len(found) == 1
