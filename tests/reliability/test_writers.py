"""R12: extractions of one cache that start at the same moment: one writes, the others say `locked`; nothing is lost,
mixed or done twice. Different recipes do not disturb each other, and the lock of a dead process counts for nothing.
"""

import json
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract
from tests.reliability.conftest import Report
from tests.reliability.program import LOCKED
from tests.reliability.scenes import Scene, child, make_scene, read_everything, sized, temporaries
from unialign.cache.verify import verify_store

PAUSE = "0.01"


def race(scene: Scene, folder: Path, scales: list[str], sabotage: str = "") -> list[int]:
    """Start one extraction for each scale at the same moment; returns their exit codes."""
    folder.mkdir()
    (folder / "calls").mkdir()
    number, files = str(len(scene.sources)), scene.cache.parent / "files"
    processes = [
        child("race", folder / "go", sabotage, folder / "cache", files, number, PAUSE, scale, "", folder / "calls")
        for scale in scales
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    (folder / "go").touch()
    ended = [process.communicate(timeout=120)[1].decode() for process in processes]
    codes = [process.returncode for process in processes]
    assert set(codes) <= {0, LOCKED}, "\n".join(ended)
    return codes


def check_race(scene: Scene, folder: Path, number: int, sabotage: str = "") -> None:
    """Fails unless one of `number` writers does everything, once, and ends with the same bytes."""
    codes = race(scene, folder, ["1"] * number, sabotage)
    calls = list((folder / "calls").iterdir())
    assert len(calls) == len(scene.sources), f"{len(calls)} calls for {len(scene.sources)} samples"
    assert codes.count(0) >= 1
    store = folder / "cache" / scene.store.relative_to(scene.cache)
    assert read_everything(store, scene.expected) == 0
    assert verify_store(store) == []
    assert tree_digest(store) == scene.whole
    assert not temporaries(folder / "cache")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [2, 4])
def test_writers_of_one_store_lose_and_mix_nothing(memory: Path, report: Report, number: int) -> None:
    scene = make_scene(memory, 24)
    rounds = sized(1, 25)
    for place in range(rounds):
        check_race(scene, memory / f"race{place}", number)
    report("R12", writers=number, rounds=rounds, lost=0, mixed=0, done_twice=0)


def test_writers_of_two_recipes_both_finish(memory: Path, report: Report) -> None:
    scene, other = make_scene(memory, 24), make_scene(memory / "other", 24, extractor=Spectrum(scale=0.5))
    assert race(scene, memory / "race", ["1", "0.5"]) == [0, 0]
    for each in (scene, other):
        store = memory / "race" / "cache" / each.store.relative_to(each.cache)
        assert read_everything(store, each.expected) == 0
        assert tree_digest(store) == each.whole
    report("R12", recipes=2, mixed=0)


def test_the_lock_file_of_a_dead_process_counts_for_nothing(memory: Path) -> None:
    scene = make_scene(memory)
    (lock,) = (memory / "cache" / ".locks").glob(f"*{scene.store.name}.lock")
    lock.write_text(json.dumps({"process": 2**22 - 1, "host": "elsewhere"}))
    assert extract(scene.cache, scene.sources).reused == len(scene.sources)


def test_meta_without_the_lock_work_is_done_twice(memory: Path) -> None:
    scene = make_scene(memory, 24)
    with pytest.raises(AssertionError):
        check_race(scene, memory / "race", 2, "no-lock")
