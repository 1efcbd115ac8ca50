"""Writing a store's metadata anew: all of it follows from the key, the extractor's arrays and the records."""

import json
from dataclasses import replace
from pathlib import Path

from unialign.cache import atomic
from unialign.cache.arrays import Json
from unialign.cache.codecs import CODECS
from unialign.cache.errors import DamagedStore, MissingCache
from unialign.cache.records import list_records
from unialign.cache.store import Store, array_metadata, group_metadata, json_bytes, open_store


def restore_group(store: Store) -> None:
    """Write the metadata of the group anew where it is missing or changed.

    store: as its extractor describes it; the slots of a shard and the codec are those that an array's metadata tell.
    Raises `DamagedStore` when none of them can be read either.
    """
    try:
        if open_store(store.path).key.digest != store.key.digest:
            raise DamagedStore(f"{store.path}: the metadata is that of another store.")
    except (DamagedStore, MissingCache):
        for spec in store.arrays:
            try:
                found: Json = json.loads((store.path / spec.name / "zarr.json").read_bytes())
                known = replace(store, shard_samples=int(found["chunk_grid"]["configuration"]["chunk_shape"][0]))
                num_shards = int(found["shape"][0]) // known.shard_samples
            except (OSError, ValueError, KeyError, TypeError, IndexError, ArithmeticError):
                continue
            for codec in CODECS:
                candidate = replace(known, codec=codec)
                if found == json.loads(json_bytes(array_metadata(candidate, spec, num_shards))):
                    _put(store.path / "zarr.json", json_bytes(group_metadata(candidate)))
                    return
        raise DamagedStore(
            f"{store.path}: neither the group nor any array has metadata left; remove the store."
        ) from None


def restore_metadata(store: Store) -> None:
    """Write the metadata of every array anew, as long as the records need it."""
    num_shards = max((int(path.stem) + 1 for path in list_records(store.path)), default=0)
    for spec in store.arrays:
        wanted = json_bytes(array_metadata(store, spec, num_shards))
        path = store.path / spec.name / "zarr.json"
        if path.is_symlink() or not path.is_file() or path.read_bytes() != wanted:
            _put(path, wanted)


def _put(path: Path, data: bytes) -> None:
    # A rename puts a file in the place of a file or a link, but not of a folder.
    if path.is_dir():
        atomic.remove(path)
    atomic.write_file(path, data)
