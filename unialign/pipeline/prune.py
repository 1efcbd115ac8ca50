"""Finds the stores that runs still refer to, so that the others can be removed."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unialign.cache import atomic
from unialign.cache.bounded import parse_json
from unialign.cache.inventory import Summary, iterate_stores, summarise
from unialign.cache.keys import SHORT
from unialign.cache.lock import store_lock, unread
from unialign.cache.mirrors import check_whole
from unialign.cache.store import Store, open_store
from unialign.errors import DamagedStore, LockedStore, MissingCache, UsageError
from unialign.pipeline.exchange.hdf5_import import STAGING

DIGEST = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(re.escape(atomic.PREFIX) + r"[0-9a-f]{16}-")


@dataclass(frozen=True)
class Pruned:
    """removed: stores that were removed (with `dry_run`: would be). kept: number of remaining stores.

    busy: unreferenced stores that a process is currently writing or reading. unreadable: stores kept because they may
    be somebody's damaged work. temporaries: removed folders of killed imports and removals.
    """

    removed: tuple[Summary, ...]
    kept: int
    busy: tuple[Path, ...]
    unreadable: tuple[Path, ...]
    temporaries: tuple[Path, ...]


def keys_of_runs(runs: Path) -> set[str]:
    """All keys in the `keys.json` and `result.json` files of run folders under `runs`, at any depth.

    Raises `UsageError` if `runs` is not a folder, and `DamagedStore` for a run whose keys are unknown, so that it does
    not lose its stores: its `keys.json` is missing, cannot be read, or does not match the digest in its result.
    """
    if not runs.is_dir():
        raise UsageError(f"{runs} is not a folder of runs; without one every store would go. Give it with --runs.")
    folders = {path.parent for name in ("keys.json", "result.json", "checkpoints") for path in runs.rglob(name)}
    return {key for folder in sorted(folders) for key in _named_by(folder)}


def _named_by(folder: Path) -> set[str]:
    """The keys of the stores that one run has read."""
    # Imports torch, which takes a second or two.
    from unialign.pipeline.training.run_folder import read_result, read_verified

    path = folder / "keys.json"
    try:
        found = json.dumps(parse_json(read_verified(path)))
        if (folder / "result.json").is_file():
            found += json.dumps(read_result(folder)["keys"])
    except (DamagedStore, MissingCache) as error:
        raise DamagedStore(
            f"which stores {folder} needs is not known: {error} Repair that run or remove it."
        ) from error
    except (OSError, ValueError) as error:
        raise DamagedStore(f"{path} cannot be read ({error}); remove that run or repair it before pruning.") from error
    return set(DIGEST.findall(found))


def prune(
    cache: Path, runs: Path, *, dry_run: bool, progress: Callable[[int, int], None] = lambda done, total: None
) -> Pruned:
    """Remove the stores that no run refers to, see `keys_of_runs` and `prune_stores`."""
    return prune_stores(cache, keys_of_runs(runs), dry_run=dry_run, progress=progress)


def prune_stores(
    cache: Path, named: set[str], *, dry_run: bool, progress: Callable[[int, int], None] = lambda done, total: None
) -> Pruned:
    """Remove the stores that are neither in `named` nor inputs of those, and leftovers of killed imports and removals.

    Unreadable stores and stores that another process is writing or reading are kept. progress: called with (stores
    processed, total). Raises `DamagedStore` if a named store cannot be read, since its input stores are then unknown.
    """
    check_whole(cache, "cache prune")
    paths = list(iterate_stores(cache))
    summaries = [summarise(path) for path in paths]
    unreadable = tuple(summary.path for summary in summaries if summary.problem)
    for path in unreadable:
        if any(key.startswith(path.stem[-SHORT:]) for key in named):
            raise DamagedStore(f"{path} is named by a run but cannot be read; repair it before pruning.")
    stores = {summary.path: open_store(summary.path) for summary in summaries if not summary.problem}
    needed = _with_inputs(named, stores)
    removed: list[Summary] = []
    busy: list[Path] = []
    for number, summary in enumerate(summaries):
        progress(number, len(summaries))
        if summary.path in unreadable or stores[summary.path].key.digest in needed:
            continue
        if _removed(summary.path, summary.path, cache, dry_run=dry_run):
            removed.append(summary)
        else:
            busy.append(summary.path)
    progress(len(summaries), len(summaries))
    left = tuple(path for path in _leftovers(cache) if _removed(path, _owner(path), cache, dry_run=dry_run))
    return Pruned(tuple(removed), len(summaries) - len(removed), tuple(busy), unreadable, left)


def _with_inputs(named: set[str], stores: Mapping[Path, Store]) -> set[str]:
    """The keys in `named`, plus those of all direct and indirect input stores."""
    needed = set(named)
    while True:
        inputs = {
            found
            for store in stores.values()
            if store.key.digest in needed
            for found in DIGEST.findall(json.dumps(dict(store.key.fields)))
        }
        if inputs <= needed:
            return needed
        needed |= inputs


def _removed(path: Path, store: Path, cache: Path, *, dry_run: bool) -> bool:
    """Remove a folder unless its store is being written or read; returns whether it was. A dry run takes no locks."""
    if dry_run:
        return True
    try:
        with store_lock(store, cache), unread(path):
            atomic.remove(path)
    except LockedStore:
        return False
    return True


def _leftovers(cache: Path) -> list[Path]:
    """Temporary folders next to the stores, left by interrupted imports, store creations and removals."""
    return sorted(path for path in cache.glob(f"*/*/{atomic.PREFIX}*") if path.suffix in {".zarr", STAGING})


def _owner(path: Path) -> Path:
    """The store that a temporary folder belongs to; its lock protects both."""
    name = path.name
    while found := _TEMPORARY.match(name):
        name = name[found.end() :]
    return path.with_name(name).with_suffix(".zarr")
