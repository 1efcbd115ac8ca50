"""R3: the power goes at any moment of an extraction, a repair or a pruning; whatever the disk holds, nothing wrong is
served, what was reported as done is there, and the same command brings the store to the same bytes.

The test tests itself: without the fsync of any one file or folder it must fail.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract
from tests.reliability.conftest import Report
from tests.reliability.disk import Recorder, put
from tests.reliability.scenes import FULL, Scene, files_of, make_scene, read_everything, sized, temporaries
from unialign.cache import atomic
from unialign.cache.reader import StoreReader
from unialign.cache.store import open_store
from unialign.cache.verify import verify_store
from unialign.errors import CacheProblem
from unialign.pipeline.extraction.extract import Settings, run_extraction
from unialign.pipeline.prune import prune_stores

Tree = frozenset[tuple[str, bytes | None]]
Work = Callable[[Path, Recorder], None]


@contextmanager
def recorded(recorder: Recorder) -> Iterator[None]:
    """Put a recorder in the place of the operating system."""
    atomic.system = recorder  # type: ignore[assignment]
    try:
        yield
    finally:
        atomic.system = __import__("os")


def extraction(scene: Scene, *, repair: bool = False) -> Work:
    """An extraction that tells the recorder how many samples it has reported as done."""

    def work(cache: Path, recorder: Recorder) -> None:
        def progress(done: int, total: int) -> None:
            recorder.acknowledged = done

        settings = Settings(shard_samples=4, repair=repair)
        run_extraction(Spectrum(), scene.sources, cache=cache, collection="made", settings=settings, progress=progress)

    return work


def history(cache: Path, work: Work, forgetful: str = "") -> Recorder:
    """The states of the disk during the work."""
    recorder = Recorder(cache, forgetful)
    with recorded(recorder):
        work(cache, recorder)
    return recorder


def crash_states(recorder: Recorder) -> dict[Tree, int]:
    """Every different tree that a power cut can leave, with the most samples that had been reported as done."""
    states: dict[Tree, int] = {}
    for disk, acknowledged in recorder.history:
        for tree in disk.states():
            key = frozenset(tree.items())
            states[key] = max(states.get(key, 0), acknowledged)
    return states


def shuffled(states: dict[Tree, int]) -> list[tuple[Tree, int]]:
    """In random order, so that a violation is found early."""
    mixed = list(states.items())
    random.Random(0).shuffle(mixed)
    return mixed


def check_state(scene: Scene, store: Path, acknowledged: int) -> None:
    """Fails if a store after a power cut serves anything wrong, lacks what was reported, or cannot be finished."""
    if store.exists():
        ids = StoreReader(store).ids
        refused = read_everything(store, scene.expected, "after a power cut")
        assert refused == len(scene.expected) - len(ids), "damage after a power cut"
        assert all(found.shard is None for found in verify_store(store)), verify_store(store)
        sure = [source.id for source in scene.sources[:acknowledged] if source.id in scene.expected]
        assert set(sure) <= set(ids), "lost what was reported as done"
    else:
        assert acknowledged == 0, "lost a store that was reported as done"


def check_power_loss(scene: Scene, folder: Path, forgetful: str = "") -> int:
    """Run the extraction once, then start again in every state that a power cut can leave; returns their number."""
    recorded_at = folder / "recorded"
    recorded_at.mkdir(parents=True)
    states = crash_states(history(recorded_at, extraction(scene), forgetful))
    shutil.rmtree(recorded_at)
    cache = folder / "crashed"
    store = cache / scene.store.relative_to(scene.cache)
    for tree, acknowledged in shuffled(states):
        cache.mkdir()
        put(dict(tree), cache)
        check_state(scene, store, acknowledged)
        extract(cache, scene.sources)
        assert verify_store(store) == []
        assert tree_digest(store) == scene.whole, "the resumed store is another one"
        assert not temporaries(cache)
        shutil.rmtree(cache)
    return len(states)


def check_repair(scene: Scene, folder: Path) -> int:
    """The same for a repair of one flipped shard: what is damaged may be rejected until the repair is through."""
    victim = next(path for path in files_of(scene.store) if "/c/0/" in str(path))
    victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    recorded_at = folder / "recorded"
    shutil.copytree(scene.cache, recorded_at)
    states = crash_states(history(recorded_at, extraction(scene, repair=True)))
    cache = folder / "crashed"
    store = cache / scene.store.relative_to(scene.cache)
    for tree in states:
        cache.mkdir()
        put(dict(tree), cache)
        read_everything(store, scene.expected, "after a power cut in a repair")
        extract(cache, scene.sources, repair=True)
        assert verify_store(store) == []
        assert tree_digest(store) == scene.whole, "the repaired store is another one"
        shutil.rmtree(cache)
    return len(states)


def prune_all_but(cache: Path, key: str) -> None:
    """Remove every store but that of one key."""
    prune_stores(cache, {key}, dry_run=False)


def check_prune(scene: Scene, folder: Path, forgetful: str = "") -> int:
    """The same for a pruning: a store is whole or gone, and the named one is whole."""
    recorded_at = folder / "recorded"
    shutil.copytree(scene.cache, recorded_at)
    kept = scene.store.relative_to(scene.cache)
    doomed = extract(recorded_at, scene.sources, Spectrum(scale=2.0)).store
    whole, key = tree_digest(doomed), open_store(recorded_at / kept).key.digest
    work = history(recorded_at, lambda cache, _: prune_all_but(cache, key), forgetful)
    states = crash_states(work)
    assert not doomed.exists()
    cache = folder / "crashed"
    for tree in states:
        cache.mkdir()
        put(dict(tree), cache)
        left = cache / doomed.relative_to(recorded_at)
        assert not left.exists() or tree_digest(left) == whole, "half a store under its own name"
        prune_all_but(cache, key)
        assert tree_digest(cache / kept) == scene.whole
        assert not left.exists()
        assert not temporaries(cache)
        shutil.rmtree(cache)
    return len(states)


@pytest.mark.timeout(1800)
def test_no_power_cut_leaves_a_store_that_lies(memory: Path, report: Report) -> None:
    scene = make_scene(memory, sized(5, 11), (2,))
    report("R3", states_of_an_extraction=check_power_loss(scene, memory / "work"), lying=0)


def test_no_power_cut_in_a_repair_serves_what_is_wrong(memory: Path, report: Report) -> None:
    report("R3", states_of_a_repair=check_repair(make_scene(memory, 5), memory / "work"), lying=0)


def test_no_power_cut_in_a_pruning_leaves_half_a_store(memory: Path, report: Report) -> None:
    report("R3", states_of_a_pruning=check_prune(make_scene(memory, 5), memory / "work"), lying=0)


@pytest.mark.timeout(1800)
def test_meta_every_fsync_is_needed(memory: Path, report: Report) -> None:
    scene = make_scene(memory, 5)
    probe = memory / "probe"
    probe.mkdir()
    synced = history(probe, extraction(scene)).synced
    # What nobody trusts: the memory of source digests may be lost, the index is checked against its own SHA-256.
    needed = sorted(name for name in synced if ".digests" not in name and not name.endswith("index.bin"))
    if not FULL:
        kinds = ("rows/c/0/0/0", "records/000000.json", "records", "histogram/c", scene.store.name)
        needed = [name for name in needed if name.endswith(kinds)]
        assert len(needed) == len(kinds), needed
    for place, name in enumerate(needed):
        try:
            check_power_loss(scene, memory / f"without-{place}", name)
        except (AssertionError, CacheProblem, ValueError, OSError):
            continue
        pytest.fail(f"nothing notices that {name} is never synced")
    with pytest.raises(AssertionError, match="half a store"):
        check_prune(scene, memory / "prune", "/made/poses")
    report("R3", fsyncs_left_out=len(needed) + 1, noticed=len(needed) + 1)
