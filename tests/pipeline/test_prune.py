"""Contract of pruning: what a run folder names stays, with its inputs; a dry run touches nothing."""

import json
from pathlib import Path

import pytest

from tests.cache.test_store import ARRAYS, build, tree_digest
from tests.pipeline.made_training import tiny_training, unsigned
from unialign.cache.atomic import PREFIX
from unialign.cache.inventory import iterate_stores
from unialign.cache.keys import Key
from unialign.cache.lock import store_lock
from unialign.cache.store import Store, create_store, store_path
from unialign.errors import DamagedStore, UsageError
from unialign.pipeline.exchange.hdf5_import import STAGING
from unialign.pipeline.prune import prune


def add(cache: Path, modality: str, **fields: object) -> Store:
    key = Key({"extractor": modality, **fields})
    return create_store(Store(store_path(cache, "made", modality, key), "made", modality, key, ARRAYS, 4, {}))


def name_in_run(runs: Path, *stores: Store, run: str = "deep/er/one") -> None:
    (runs / run).mkdir(parents=True)
    keys = {store.modality: {"store": store.name, "key": store.key.digest} for store in stores}
    (runs / run / "keys.json").write_text(json.dumps(keys))


def test_what_runs_name_stays_with_all_that_it_was_made_from(tmp_path: Path) -> None:
    cache, runs = tmp_path / "cache", tmp_path / "runs"
    poses, lost = build(cache), add(cache, "frames")
    middle = add(cache, "middle", inputs={"poses": poses.key.digest})
    features = add(cache, "features", inputs=[{"key": f"sha256:{middle.key.digest}"}])
    name_in_run(runs, features)
    before = tree_digest(cache)
    planned = prune(cache, runs, dry_run=True)
    assert tree_digest(cache) == before
    seen: list[tuple[int, int]] = []
    done = prune(cache, runs, dry_run=False, progress=lambda number, total: seen.append((number, total)))
    assert [summary.path for summary in done.removed] == [lost.path] == [summary.path for summary in planned.removed]
    assert list(iterate_stores(cache)) == sorted([poses.path, middle.path, features.path])
    assert (done.kept, planned.kept, seen[-1]) == (3, 3, (4, 4))


def test_a_store_that_is_being_written_stays(tmp_path: Path) -> None:
    store, other = build(tmp_path / "cache"), add(tmp_path / "cache", "frames")
    (tmp_path / "runs").mkdir()
    with store_lock(store.path, tmp_path / "cache"):
        done = prune(tmp_path / "cache", tmp_path / "runs", dry_run=False)
    assert (done.busy, [summary.path for summary in done.removed]) == ((store.path,), [other.path])
    assert store.path.is_dir()


def test_what_cannot_be_read_stays_and_stops_everything_if_a_run_names_it(tmp_path: Path) -> None:
    cache, runs = tmp_path / "cache", tmp_path / "runs"
    damaged, other = build(cache), add(cache, "frames")
    (damaged.path / "zarr.json").write_text("{}")
    name_in_run(runs, damaged)
    with pytest.raises(DamagedStore, match="is named by a run but cannot be read"):
        prune(cache, runs, dry_run=False)
    assert other.path.is_dir()
    (runs / "deep/er/one/keys.json").write_text("{}")
    done = prune(cache, runs, dry_run=False)
    assert (done.unreadable, [summary.path for summary in done.removed]) == ((damaged.path,), [other.path])
    assert damaged.path.is_dir()


def test_a_run_that_cannot_be_read_costs_nothing_its_store(tmp_path: Path) -> None:
    store = build(tmp_path / "cache")
    with pytest.raises(UsageError, match="not a folder of runs"):
        prune(tmp_path / "cache", tmp_path / "runs", dry_run=False)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "keys.json").write_text('{"poses": {"key": "01')
    with pytest.raises(DamagedStore, match=r"keys\.json cannot be read"):
        prune(tmp_path / "cache", tmp_path / "runs", dry_run=False)
    assert store.path.is_dir()


def test_what_killed_imports_and_removals_left_goes_unless_its_store_is_being_written(tmp_path: Path) -> None:
    store = build(tmp_path / "cache")
    name_in_run(tmp_path / "runs", store)
    twice = f"{PREFIX}0123456789abcdef-{PREFIX}fedcba9876543210-{store.path.stem}{STAGING}"
    names = [f"{PREFIX}0123456789abcdef-{store.path.name}", twice]
    left = [store.path.parent / name for name in sorted(names)]
    for path in left:
        path.mkdir()
        (path / "zarr.json").write_text("{}")
    left.append(store.path.with_name(f"{PREFIX}00000000000000ff-{store.path.name}"))
    left[-1].write_text("a file, not a folder")
    left.sort()
    assert prune(tmp_path / "cache", tmp_path / "runs", dry_run=True).temporaries == tuple(left)
    with store_lock(store.path, tmp_path / "cache"):
        assert prune(tmp_path / "cache", tmp_path / "runs", dry_run=False).temporaries == ()
    assert prune(tmp_path / "cache", tmp_path / "runs", dry_run=False).temporaries == tuple(left)
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]


def test_a_run_whose_keys_were_changed_or_are_gone_stops_everything(made_caches: Path, tmp_path: Path) -> None:
    """Anybody may edit keys.json; a store that a run has lost the name of must not go."""
    run = tiny_training(made_caches, tmp_path / "runs", epochs=1).folder
    before = tree_digest(made_caches)
    assert not {store.modality for store in prune(made_caches, tmp_path / "runs", dry_run=True).removed} - {"poses"}
    path = run / "keys.json"
    keys = json.loads(path.read_text())
    del keys["stores"]["frames"]
    path.write_text(json.dumps(keys))
    with pytest.raises(DamagedStore, match=r"needs is not known: .*keys.json was changed after the run had ended"):
        prune(made_caches, tmp_path / "runs", dry_run=False)
    unsigned(run)  # as older versions wrote it: its result names the stores too
    assert not {store.modality for store in prune(made_caches, tmp_path / "runs", dry_run=True).removed} - {"poses"}
    path.unlink()
    for name in ("config.yaml", "result.json"):
        with pytest.raises(DamagedStore, match=r"needs is not known: .*keys.json does not exist"):
            prune(made_caches, tmp_path / "runs", dry_run=False)
        (run / name).unlink()
    assert tree_digest(made_caches) == before
