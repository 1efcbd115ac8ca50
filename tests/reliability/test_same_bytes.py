"""R10: the same bytes, whatever the number of workers, the order of work, the process, its locale or the place."""

import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import extract
from tests.reliability.conftest import Report
from tests.reliability.scenes import FULL, Scene, make_scene, sized
from unialign.pipeline.extraction.executors import Done, Job, store_unit
from unialign.pipeline.extraction.hardware import environment_of
from unialign.pipeline.extraction.planning import Unit
from unialign.pipeline.extraction.supply import Supply

# A locale, a time zone and a hash seed at once: a difference in any one of them would show.
SURROUNDINGS = [
    {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "Pacific/Kiritimati"},
    {"PYTHONHASHSEED": "12345", "LC_ALL": "C.UTF-8", "TZ": "America/St_Johns", "PYTHONOPTIMIZE": "1"},
    {"PYTHONHASHSEED": "0", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "TZ": "UTC"},
    {"PYTHONHASHSEED": "random", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "1", "COLUMNS": "20"},
]


def built(scene: Scene, cache: Path, surroundings: dict[str, str], cwd: Path) -> str:
    """Digest of the scene's store as another process makes it."""
    words = [str(cache), str(scene.cache.parent / "files"), str(len(scene.sources))]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.program", "extract", *words],
        env={**os.environ, **surroundings, "PYTHONPATH": str(root)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return tree_digest(cache / scene.store.relative_to(scene.cache))


def extract_here(job: Job, unit: Unit) -> Done:
    """A unit in this process, without a worker."""
    return store_unit(job, unit, job.extractor.run(unit.sources), environment_of(job.extractor, job.threads))


@contextmanager
def shuffled_executor(cluster: str, threads: int, announce: object) -> Iterator[object]:
    """Units in mixed order, on as many processes as `cluster` says."""

    def run(job: Job, units: Supply[Unit], watch: object) -> Iterator[Done]:
        mixed = units.take(sys.maxsize)
        random.Random(len(mixed)).shuffle(mixed)
        if not cluster:
            yield from (extract_here(job, unit) for unit in mixed)
            return
        with ProcessPoolExecutor(int(cluster), multiprocessing.get_context("fork")) as pool:
            for future in [pool.submit(extract_here, job, unit) for unit in mixed]:
                yield future.result()

    yield run


def check_orders(scene: Scene, folder: Path) -> int:
    """Shuffled sources, shuffled units, two processes; returns the number of builds."""
    builds = 0
    mixed = list(scene.sources)
    for seed in range(sized(3, 20)):
        random.Random(seed).shuffle(mixed)
        assert tree_digest(extract(folder / f"mixed{seed}", mixed).store) == scene.whole, "another order of sources"
        builds += 1
    for workers in ("", "1", "2"):
        store = extract(folder / f"units{workers}", mixed, cluster=workers, begin=shuffled_executor).store
        assert tree_digest(store) == scene.whole, "another order of units"
        builds += 1
    return builds


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_the_order_of_work_changes_no_byte(memory: Path, report: Report) -> None:
    scene = make_scene(memory, 23, (3, 11))
    report("R10", builds_in_other_orders=check_orders(scene, memory / "work"), different=0)


def test_the_surroundings_change_no_byte(memory: Path, report: Report) -> None:
    scene = make_scene(memory, 23, (3, 11))
    chosen = SURROUNDINGS if FULL else SURROUNDINGS[1:3]
    for place, surroundings in enumerate(chosen):
        cache = memory / f"other{place}" / "a folder, dübel" / "cache"
        cache.parent.mkdir(parents=True)
        assert built(scene, cache, surroundings, cache.parent) == scene.whole, surroundings
    report("R10", builds_in_other_surroundings=len(chosen), different=0)


@pytest.mark.skipif(
    not FULL, reason="Dask starts slowly; tests/pipeline/extraction/test_executors.py has one such build"
)
def test_dask_changes_no_byte(memory: Path, report: Report) -> None:
    scene = make_scene(memory, 23, (3, 11))
    for cluster in ("local:1", "local:2", "local:3"):
        assert tree_digest(extract(memory / cluster, scene.sources, cluster=cluster).store) == scene.whole
    report("R10", builds_by_dask=3, different=0)


def test_meta_a_plan_in_the_order_given_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(memory, 23)
    monkeypatch.setattr("unialign.pipeline.extraction.planning.sorted", lambda found, **_: list(found), raising=False)
    with pytest.raises(AssertionError, match="another order of sources"):
        check_orders(scene, memory / "work")
