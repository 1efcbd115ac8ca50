"""Restoring a store's metadata, all of which follows from the key, the extractor's arrays and the records."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from unialign.cache import atomic
from unialign.cache.bounded import check_inside, parse_json, read_plain
from unialign.cache.codecs import CODECS
from unialign.cache.records import list_records, shard_of
from unialign.cache.schema import METADATA_BYTES
from unialign.cache.store import Store, array_metadata, decode_store, group_metadata, json_bytes, open_store
from unialign.errors import DamagedStore, MissingCache
from unialign.types import Json

# The folder of a shard below an array's "c".
SHARD = re.compile(r"0|[1-9][0-9]{0,8}")


def restore_group(store: Store) -> None:
    """Restore the metadata of the group if it is missing or changed.

    store: as its extractor describes it; the slots per shard and the codec are read from an array's metadata. Raises
        `DamagedStore` if none of those can be read either.
    """
    try:
        if open_store(store.path).key.digest != store.key.digest:
            raise DamagedStore(f"{store.path}: the metadata is that of another store.")
    except (DamagedStore, MissingCache):
        for spec in store.arrays:
            try:
                data = read_plain(store.path / spec.name / "zarr.json", METADATA_BYTES)
                found: Json = parse_json(data)
                shard_samples = int(found["chunk_grid"]["configuration"]["chunk_shape"][0])
                num_shards = int(found["shape"][0]) // shard_samples
            except (OSError, ValueError, KeyError, TypeError, IndexError, ArithmeticError):
                continue
            for codec in CODECS:
                candidate = replace(store, shard_samples=shard_samples, codec=codec)
                group = json_bytes(group_metadata(candidate))
                if data == json_bytes(array_metadata(candidate, spec, num_shards)):
                    decode_store(store.path, group, str(store.path / "zarr.json"))
                    _put(store.path, store.path / "zarr.json", group)
                    return
        raise DamagedStore(
            f"{store.path}: neither the group nor any array has metadata left; remove the store."
        ) from None


def restore_metadata(store: Store) -> None:
    """Restore the metadata of every array, with the length that the records need."""
    num_shards = max((1 + (shard_of(path.name) or 0) for path in list_records(store.path)), default=0)
    for spec in store.arrays:
        wanted = json_bytes(array_metadata(store, spec, num_shards))
        path = store.path / spec.name / "zarr.json"
        try:
            same = read_plain(path, METADATA_BYTES) == wanted
        except OSError:
            same = False
        if not same:
            _put(store.path, path, wanted)


def remove_uncovered(store: Store, files: Iterable[str]) -> None:
    """Remove those of some files without a record that are where an array has a shard; others are not ours.

    files: paths inside the store. A writer that was killed between a shard and its record leaves such files. They are
    overwritten when the shard is extracted again, but there may be nothing to do for it any more.
    """
    arrays = {spec.name for spec in store.arrays}
    for file in files:
        array, _, number, *_ = (*Path(file).parts, "", "")
        path = store.path / file
        if array in arrays and SHARD.fullmatch(number) and path == store.shard_path(array, int(number)):
            check_inside(store.path, path)
            atomic.remove(path)


def _put(store: Path, path: Path, data: bytes) -> None:
    check_inside(store, path)
    # A rename replaces a file or a link, but not a folder.
    if path.is_dir():
        atomic.remove(path)
    atomic.write_file(path, data)
