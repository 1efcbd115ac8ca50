"""The stores in a cache: listing them, and finding one by part of its name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unialign.cache.atomic import PREFIX
from unialign.cache.index import load_table
from unialign.cache.keys import SHORT
from unialign.cache.records import STATUSES
from unialign.cache.store import is_store_name, open_store
from unialign.errors import CacheProblem, MissingCache, UsageError
from unialign.types import Json


@dataclass(frozen=True)
class Summary:
    """One line of `cache ls`. `problem` is set when the store's metadata or records cannot be read."""

    path: Path
    collection: str
    modality: str
    name: str
    samples: int
    quarantined: dict[str, int]
    bytes: int
    problem: str = ""

    def row(self) -> dict[str, Json]:
        """The same as a JSON object."""
        return {**self.__dict__, "path": str(self.path)}


def iterate_stores(cache: Path) -> Iterator[Path]:
    """The store folders under a cache root, sorted by collection, modality, name."""
    if cache.is_dir():
        yield from sorted(
            path for path in cache.glob("*/*/*.zarr") if is_store_name(path.name) and not path.name.startswith(PREFIX)
        )


def why_empty(cache: Path) -> str:
    """Why no stores are found under a folder: it is not there, or a part of a cache, or the folder of one."""
    if not cache.is_dir():
        return f"there is no folder {cache}"
    for depth, pattern in enumerate(("*/*.zarr", "*.zarr", "zarr.json")):
        if any(cache.glob(pattern)) and len(cache.parents) > depth:
            return f"{cache} is a part of the cache {cache.parents[depth]}: give that"
    below = next(cache.glob("*/*/*/*.zarr"), None)
    return f"no stores in {cache}" + (f" itself, but in {below.parents[2]}: give that" if below else "")


def summarise(path: Path) -> Summary:
    """Counts of one store, from its records alone."""
    collection, modality, name = path.parts[-3:]
    try:
        store = open_store(path)
        table = load_table(store)
    except CacheProblem as error:
        return Summary(path, collection, modality, name.removesuffix(".zarr"), 0, {}, 0, str(error))
    counts = np.bincount(table.status, minlength=len(STATUSES)).tolist()
    statuses = {name: count for name, count in zip(STATUSES, counts, strict=True) if count}
    return Summary(
        path=path,
        collection=store.collection,
        modality=store.modality,
        name=store.name,
        samples=statuses.pop("ok", 0),
        quarantined=dict(sorted(statuses.items())),
        bytes=table.shards.total_bytes,
    )


def find_store(cache: Path, name: str, place: tuple[str, str] | None = None) -> Path:
    """The one store whose path, folder name or key begins with `name`.

    name: a path, `yolo-0123456789ab`, `0123`, or `ntu/poses/yolo-0123`. place: collection and modality; if stores
    there match, only they count, since collections that were extracted with the same settings have stores of the same
    name and key. Raises `MissingCache` if none matches and `UsageError` if several do.
    """
    if name.endswith(".zarr") and (Path(name) / "zarr.json").is_file():
        return Path(name).resolve()
    stores = list(iterate_stores(cache))
    matches = [
        path
        for path in stores
        if path.stem.startswith(name)
        or path.stem.rpartition("-")[2].startswith(name[:SHORT])
        or path.relative_to(cache).as_posix().startswith(name)
    ]
    matches = [path for path in matches if path.parts[-3:-1] == place] or matches
    if not matches:
        raise MissingCache(
            f"no store in {cache} is called {name!r}; `unialign cache ls` lists the {len(stores)} there."
        )
    if len(matches) > 1:
        shown = ", ".join(path.relative_to(cache).as_posix() for path in matches[:5])
        raise UsageError(f"{name!r} matches {len(matches)} stores ({shown}); give more of the name.")
    return matches[0]
