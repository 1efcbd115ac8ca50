"""R28: pruning, removal, a second extraction and repairs while a training reads: the same result, or a typed error.

A training of 9 steps is disturbed at a step, once for each kind and step; the test side's shards are opened at the
end of the first epoch.
"""

import itertools
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.made_stores import COLLECTION, frames_store, made_dataset, text_store
from tests.pipeline.made_training import tiny_training
from tests.reliability.conftest import Report
from tests.reliability.scenes import SEED, sized
from unialign.cache import lock
from unialign.cache.index import forget_shard, write_index
from unialign.cache.reader import StoreReader
from unialign.cache.store import Store, grow_store, open_store, write_shard
from unialign.errors import CacheProblem
from unialign.pipeline.prune import prune_stores
from unialign.stages.training.loop import Progress

STEPS = 9
MODEL = {"modalities": ("video", "text")}
SETTINGS: Sequence[Mapping[str, Any]] = ({"prefetch": 1}, {"read_threads": 1}, {"num_workers": 1})


def store_of(cache: Path, modality: str) -> Store:
    return open_store(next((cache / COLLECTION / modality).glob("[!.]*.zarr")))


def prune_all(cache: Path) -> None:
    """By someone whose runs are elsewhere."""
    prune_stores(cache, set(), dry_run=False)


def delete(cache: Path) -> None:
    """By hand."""
    shutil.rmtree(store_of(cache, "frames").path)


def move(cache: Path) -> None:
    """By hand."""
    path = store_of(cache, "frames").path
    path.rename(path.with_name("moved"))


def extract_more(cache: Path) -> None:
    """Every sample again, from sources that have changed: in shards of their own, which supersede the others."""
    rewrite(store_of(cache, "frames"), withdrawn=False)


def repair(cache: Path) -> None:
    """Every shard is withdrawn and made again, from sources that have changed."""
    rewrite(store_of(cache, "frames"), withdrawn=True)


def rewrite(store: Store, *, withdrawn: bool) -> None:
    reader = StoreReader(store.path)
    numbers = reader.table.shards.numbers.tolist()
    for shard in numbers:
        ids = sorted(name for name in reader.ids if reader.place(name).shard == shard)
        # Whatever else the samples may be now: here each one is its neighbor.
        values = [reader.read_one(each) for each in (*ids[1:], ids[0])]
        entries = [replace(reader.table.entry(reader.table.row(each)), source="sha256:other") for each in ids]
        if withdrawn:
            forget_shard(store, shard)
        target = shard if withdrawn else shard + len(numbers)
        grow_store(store, target + 1)
        write_shard(store, target, entries, values)
    write_index(store)


KINDS: Mapping[str, Callable[[Path], None]] = {
    "prune": prune_all,
    "delete": delete,
    "move": move,
    "extract": extract_more,
    "repair": repair,
}


@dataclass(frozen=True)
class Undisturbed:
    """What each setting's training gives without disturbance."""

    cache: Path
    metrics: Mapping[int, Mapping[str, float]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    frames_store(folder / "cache", made_dataset())
    text_store(folder / "cache")
    chosen = range(sized(1, len(SETTINGS)))
    found = {
        number: dict(tiny_training(folder / "cache", folder / f"runs{number}", model=MODEL, **SETTINGS[number]).metrics)
        for number in chosen
    }
    return Undisturbed(folder / "cache", found)


@contextmanager
def copied(undisturbed: Undisturbed, folder: Path) -> Iterator[Path]:
    cache = folder / "cache"
    shutil.copytree(undisturbed.cache, cache)
    yield cache
    shutil.rmtree(folder)


def check_disturbed(undisturbed: Undisturbed, folder: Path, setting: int, step: int, kind: str) -> str:
    """Train, and disturb at a step; returns "same" or the name of the error. Anything else fails."""
    with copied(undisturbed, folder) as cache:
        steps = itertools.count()

        def show(_: Progress) -> None:
            if next(steps) == step:
                KINDS[kind](cache)

        try:
            done = tiny_training(cache, folder / "runs", model=MODEL, show=show, **SETTINGS[setting])
        except CacheProblem as error:
            return type(error).__name__
        assert dict(done.metrics) == undisturbed.metrics[setting], f"{kind} at step {step} of setting {setting}"
        if kind == "prune":
            assert store_of(cache, "frames").path.is_dir(), "a store that a training reads was removed"
        return "same"


def test_whatever_happens_to_a_store_a_training_gives_its_result_or_says_so(
    undisturbed: Undisturbed, tmp_path: Path, report: Report
) -> None:
    choice = random.Random(SEED)
    places = list(itertools.product(undisturbed.metrics, range(STEPS), KINDS))
    picked = choice.sample(places, sized(6, 45))
    counts = Counter((kind, check_disturbed(undisturbed, tmp_path / "one", *place, kind)) for *place, kind in picked)
    assert all(outcome == "same" for kind, outcome in counts if kind == "prune"), counts
    outcomes = Counter(outcome for (_, outcome), number in counts.items() for _ in range(number))
    report("R28", disturbed=len(picked), same=outcomes.pop("same", 0), typed_errors=outcomes.total(), silent=0)


@pytest.mark.parametrize("kind", ["prune", "delete", "repair"])
def test_a_store_that_goes_before_it_was_read_is_kept_or_named(
    undisturbed: Undisturbed, tmp_path: Path, kind: str
) -> None:
    outcome = check_disturbed(undisturbed, tmp_path / "one", 0, 0, kind)
    assert outcome == {"prune": "same", "delete": "DamagedStore", "repair": "DamagedStore"}[kind]


def test_meta_a_prune_that_ignores_readers_is_caught(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unialign.cache.reader.keep_for_reading", lambda store: None)
    with pytest.raises((AssertionError, StopIteration)):
        assert check_disturbed(undisturbed, tmp_path / "one", 0, 0, "prune") == "same"
    assert lock.keep_for_reading(tmp_path / "none") is None


def test_readers_keep_a_store_and_a_removal_keeps_readers_out(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    reader = frames_store(cache, made_dataset())
    assert prune_stores(cache, set(), dry_run=False).busy == (reader.path,)
    with pytest.raises(CacheProblem, match="is being removed"), _removing(reader):
        StoreReader(tmp_path / "cache" / COLLECTION / "frames" / "gone.zarr")
    path = reader.path
    del reader
    assert [summary.path for summary in prune_stores(cache, set(), dry_run=False).removed] == [path]


@contextmanager
def _removing(reader: StoreReader) -> Iterator[None]:
    other = reader.path.with_name("gone.zarr")
    shutil.copytree(reader.path, other)
    with lock.unread(other):
        yield


def test_a_reader_that_travels_sees_what_it_saw(tmp_path: Path) -> None:
    """Processes that load batches start at any moment: the store may have new samples and values by then."""
    reader = frames_store(tmp_path / "cache", made_dataset())
    before = {name: reader.read_one(name) for name in reader.ids[:3]}
    extract_more(tmp_path / "cache")
    other = pickle.loads(pickle.dumps(reader))
    fresh = StoreReader(reader.path)
    for name, arrays in before.items():
        for array, value in arrays.items():
            np.testing.assert_array_equal(other.read_one(name)[array], value)
    assert all(fresh.place(name) != reader.place(name) == other.place(name) for name in before)
    delete(tmp_path / "cache")
    gone = pickle.loads(pickle.dumps(reader))
    with pytest.raises(CacheProblem, match="cannot be read"):
        gone.read_one(reader.ids[0])
