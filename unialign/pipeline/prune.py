"""Which stores runs still name, so that the rest can go."""

import json
import re
from pathlib import Path

from unialign.cache.errors import DamagedStore, UsageError
from unialign.cache.inventory import Summary, iterate_stores, prune_stores
from unialign.cache.keys import flatten
from unialign.cache.store import open_store

DIGEST = re.compile(r"[0-9a-f]{64}")


def keys_of_runs(runs: Path) -> set[str]:
    """Every key that a run folder under `runs` names in its `keys.json`, at any depth.

    Raises `UsageError` without a folder of runs and `DamagedStore` for a `keys.json` that cannot be read: a run whose
    keys are unknown must not cost it its stores.
    """
    if not runs.is_dir():
        raise UsageError(f"{runs} is not a folder of runs; without one every store would go. Give it with --runs.")
    named: set[str] = set()
    for path in sorted(runs.rglob("keys.json")):
        try:
            named |= set(DIGEST.findall(json.dumps(json.loads(path.read_text(encoding="utf-8")))))
        except (OSError, ValueError) as error:
            raise DamagedStore(
                f"{path} cannot be read ({error}); remove that run or mend it before pruning."
            ) from error
    return named


def prune(cache: Path, runs: Path, *, dry_run: bool) -> list[Summary]:
    """Remove the stores that no run names, directly or as the input of a named store; see `prune_stores`."""
    named = keys_of_runs(runs)
    stores = [open_store(path) for path in iterate_stores(cache)]
    while True:
        inputs = {
            str(value)
            for store in stores
            if store.key.digest in named
            for _, value in flatten(store.key.fields)
            if DIGEST.fullmatch(str(value))
        }
        if inputs <= named:
            return prune_stores(cache, named, dry_run=dry_run)
        named |= inputs
