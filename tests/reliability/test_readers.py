"""R13: readers during an extraction, repairs and prunings see whole units with the exact arrays, or a typed error.

While a store grows there is no damage to be seen at all. 200 opens beside each kind of writer with RELIABILITY=full.
"""

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.reliability.conftest import Report
from tests.reliability.scenes import (
    SEED,
    SHARD_SAMPLES,
    Scene,
    check_equal,
    child,
    files_of,
    make_scene,
    read_everything,
    sized,
)
from unialign.cache.reader import StoreReader
from unialign.errors import CacheProblem, DamagedStore, MissingCache


def check_open(scene: Scene, store: Path, choice: random.Random, *, damage: bool) -> str:
    """Open a store that somebody works on, wait a little, read; returns "whole", "part", "missing" or "refused".

    damage: whether `DamagedStore` may be met.
    """
    try:
        reader = StoreReader(store)
    except MissingCache:
        time.sleep(0.001)
        return "missing"
    except DamagedStore as error:
        if not damage:
            raise AssertionError(f"a growing store looks damaged: {error}") from error
        return "refused"
    ids = [source.id for source in scene.sources]
    units = [ids[start : start + SHARD_SAMPLES] for start in range(0, len(ids), SHARD_SAMPLES)]
    seen = set(reader.ids)
    assert all(seen.isdisjoint(unit) or seen.issuperset(unit) for unit in units), "a part of a unit"
    time.sleep(choice.uniform(0, 0.01))
    outcome = "whole" if len(seen) == len(ids) else "part"
    for name in choice.sample(sorted(seen), min(8, len(seen))):
        try:
            found = reader.read_one(name)
        except CacheProblem as error:
            if not damage:
                raise AssertionError(f"a growing store looks damaged: {error}") from error
            outcome = "refused"
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} instead of a typed error: {error}") from error
        else:
            check_equal(found, scene.expected[name], list(found), f"beside a writer: {name}")
    return outcome


def check_readers(scene: Scene, store: Path, process: subprocess.Popen[bytes], *, damage: bool) -> dict[str, int]:
    """Open and read until the writer ends; returns how often each outcome was met."""
    choice = random.Random(SEED)
    counts = dict.fromkeys(("whole", "part", "missing", "refused"), 0)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        while process.poll() is None:
            counts[check_open(scene, store, choice, damage=damage)] += 1
            if damage:
                read_everything(store, scene.expected, "beside a writer")
    finally:
        process.kill()
        _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    return counts


def growing(scene: Scene, folder: Path, action: str = "extract") -> tuple[Path, subprocess.Popen[bytes]]:
    """A process that makes the scene's store again somewhere else."""
    words = (folder / "grown", folder / "files", str(len(scene.sources)), "0.01")
    return folder / "grown" / scene.store.relative_to(scene.cache), child(action, *words)


def test_readers_beside_an_extraction_see_whole_units(memory: Path, report: Report) -> None:
    scene = make_scene(memory, sized(40, 400))
    counts = check_readers(scene, *growing(scene, memory), damage=False)
    assert counts["part"] > 5, counts
    report("R13", beside="an extraction", **counts, silent=0)


def test_readers_beside_repairs_get_the_arrays_or_an_error(memory: Path, report: Report) -> None:
    scene = make_scene(memory, 16)
    victim = next(path for path in files_of(scene.store) if "/c/1/" in str(path))
    words = (scene.cache, memory / "files", "16", str(sized(10, 200)), victim)
    counts = check_readers(scene, scene.store, child("repairs", *words), damage=True)
    assert counts["whole"] > 0, counts
    report("R13", beside="repairs", **counts, silent=0)


@pytest.mark.parametrize("kept", [True, False], ids=["same machine", "elsewhere"])
def test_readers_beside_prunings_get_the_arrays_or_an_error(
    memory: Path, report: Report, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    if not kept:  # a reader on another machine, whom the one that prunes cannot see
        monkeypatch.setattr("unialign.cache.reader.keep_for_reading", lambda store: None)
    scene = make_scene(memory, 16)
    shutil.copytree(scene.store, memory / "copy" / scene.store.name)
    words = (scene.cache, memory / "copy", str(sized(20, 200)))
    counts = check_readers(scene, scene.store, child("prunes", *words), damage=True)
    assert counts["part"] == 0, f"a store that is being removed looks like a smaller one: {counts}"
    assert counts["whole"] > 0, counts
    assert kept or counts["missing"] + counts["refused"] > 0, counts
    report("R13", beside="prunings", seen=kept, **counts, silent=0)


def test_meta_writing_in_place_is_caught(memory: Path) -> None:
    scene = make_scene(memory, 40)
    with pytest.raises(AssertionError, match="looks damaged"):
        check_readers(scene, *growing(scene, memory, "careless"), damage=False)
