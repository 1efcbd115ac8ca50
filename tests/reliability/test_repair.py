"""R9: `--repair` extracts exactly the damaged units again and ends with the same bytes; `prune` takes nothing named.

Some damage of each kind and 5 kills in the usual run; all of R8's damage and 50 kills with RELIABILITY=full.
"""

import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract
from tests.reliability.conftest import Report
from tests.reliability.damage import Mutation, mutations
from tests.reliability.scenes import (
    FULL,
    SEED,
    SHARD_SAMPLES,
    Scene,
    child,
    files_of,
    kept,
    make_scene,
    sized,
    temporaries,
    unit_of,
)
from tests.reliability.test_files import two_scenes
from unialign.cache.inventory import iterate_stores
from unialign.cache.keys import Key
from unialign.cache.store import open_store
from unialign.cache.verify import Damage, verify_store
from unialign.pipeline.prune import prune_stores


def check_repair(scene: Scene, units: set[int], calls: Path, what: str) -> None:
    """Fails unless a repair extracts the samples of those units, each once, and no other, and restores every byte."""
    calls.mkdir(exist_ok=True)
    before = set(calls.iterdir())
    extract(scene.cache, scene.sources, Spectrum(calls=calls), repair=True)
    extracted = sorted(path.name.split("-")[0] for path in set(calls.iterdir()) - before)
    ids = [source.id for source in scene.sources]
    wanted = sorted(name for unit in units for name in ids[unit * SHARD_SAMPLES : (unit + 1) * SHARD_SAMPLES])
    assert extracted == wanted, f"after {what}: extracted {extracted} instead of {wanted}"
    if what.startswith("stray"):
        # Not ours: named by `verify`, and left to the user.
        (scene.store / what.removeprefix("stray ")).unlink()
    assert verify_store(scene.store) == [], what
    assert tree_digest(scene.store) == scene.whole, f"after {what}: another store than before"


def chosen(found: list[Mutation]) -> list[Mutation]:
    """All of them with RELIABILITY=full, otherwise two for each kind of damage and each kind of file."""
    if FULL:
        return found
    by_kind: dict[tuple[str, str], Mutation] = {}
    for mutation in found:
        by_kind.setdefault((mutation.kind, mutation.hit[0].split("/")[0]), mutation)
    return list(by_kind.values())


@pytest.mark.timeout(1800)
def test_repair_does_the_damaged_units_and_no_other(memory: Path, report: Report) -> None:
    scene, other = two_scenes(memory, 12)
    found = chosen(list(mutations(scene.store, other.store, memory / "outside")))
    for mutation in found:
        with kept(scene.store):
            mutation.apply()
            check_repair(scene, mutation.units, memory / "calls", mutation.name)
    choice = random.Random(SEED)
    flips = sized(10, 300)
    for _ in range(flips):
        with kept(scene.store):
            path = choice.choice(files_of(scene.store))
            data = bytearray(path.read_bytes())
            data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
            path.write_bytes(data)
            unit = unit_of(path.relative_to(scene.store).as_posix())
            check_repair(scene, set() if unit is None else {unit}, memory / "calls", f"a flip in {path}")
    report("R9", damaged=len(found) + flips, repaired=len(found) + flips, extracted_needlessly=0)


def check_prune(cache: Path, named: list[Path], keys: set[str]) -> None:
    """Fails unless a pruning leaves exactly the named stores, and nothing half-deleted."""
    prune_stores(cache, keys, dry_run=False)
    assert all(path.exists() for path in named), "a named store was removed"
    assert sorted(iterate_stores(cache)) == sorted(named)
    assert not temporaries(cache)


def many_stores(cache: Path, files: Path, number: int) -> list[Path]:
    """Stores of the same files by recipes that differ in a scale."""
    scene = make_scene(files, 4)
    return [extract(cache, scene.sources, Spectrum(scale=1.0 + place)).store for place in range(number)]


@pytest.mark.timeout(900)
def test_prune_killed_at_random_moments_loses_nothing_named(memory: Path, report: Report) -> None:
    choice = random.Random(SEED)
    kills, done = sized(5, 50), 0
    removed = 0
    cache, copy = memory / "cache", memory / "copy"
    stores = many_stores(cache, memory, 16)
    named = {path: tree_digest(path) for path in stores[::2]}
    keys = [open_store(path).key.digest for path in named]
    shutil.copytree(cache, copy)
    while done < kills:
        shutil.rmtree(cache)
        shutil.copytree(copy, cache)
        process = child("prune", cache, *keys)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(timeout=choice.uniform(0, 0.1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            done += 1
        process.communicate()
        for path in iterate_stores(cache):
            assert verify_store(path) == [], f"half a store: {path}"
        assert {path: tree_digest(path) for path in named} == named
        removed += sum(not path.exists() for path in stores)
        # What the kill left half-deleted goes with the next run too.
        check_prune(cache, list(named), set(keys))
    report("R9", kills_of_prune=kills, stores_removed_by_then=removed, named_stores_lost=0)


def test_prune_leaves_a_store_that_is_being_written(memory: Path) -> None:
    scene = make_scene(memory, 64)
    process = child("extract", memory / "busy", memory / "files", "64", "0.02")
    while not list((memory / "busy").glob("made/poses/*/records/*.json")):
        assert process.poll() is None
    prune_stores(memory / "busy", set(), dry_run=False)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    store = memory / "busy" / scene.store.relative_to(scene.cache)
    assert tree_digest(store) == scene.whole


def test_meta_a_repair_of_everything_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(memory, 12)
    path = next(path for path in files_of(scene.store) if "/c/1/" in str(path))
    path.write_bytes(b"")
    everything = [Damage(shard, "", "") for shard in range(3)]
    monkeypatch.setattr("unialign.pipeline.extraction.extract.verify_store", lambda _: everything)
    with pytest.raises(AssertionError, match="extracted"):
        check_repair(scene, {1}, memory / "calls", "an empty file")


def test_meta_a_repair_that_trusts_sizes_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(memory, 12)
    path = next(path for path in files_of(scene.store) if "/c/1/" in str(path))
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    monkeypatch.setattr("unialign.pipeline.extraction.extract.verify_store", lambda _: [])
    with pytest.raises(AssertionError, match="extracted"):
        check_repair(scene, {1}, memory / "calls", "a flip")


def test_meta_prune_that_ignores_names_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = many_stores(memory / "cache", memory, 2)
    keys = {open_store(path).key.digest for path in stores}
    monkeypatch.setattr(Key, "digest", property(lambda _: "0" * 64))
    with pytest.raises(AssertionError, match="a named store"):
        check_prune(memory / "cache", stores, keys)
