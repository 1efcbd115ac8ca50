"""Contract of mending: the metadata of a store follow from what is left of it, byte for byte."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cache.test_store import ARRAYS, build, sample, tree_digest
from unialign.cache.keys import Key
from unialign.cache.repair import restore_group, restore_metadata
from unialign.cache.store import Store, check_arrays, create_store, open_store, store_path
from unialign.errors import DamagedStore


@pytest.mark.parametrize("change", ["missing", "flipped", "cut"])
def test_the_groups_metadata_is_restored_from_those_of_the_arrays(tmp_path: Path, change: str) -> None:
    store = build(tmp_path, codec="zstd")
    before, path = tree_digest(store.path), store.path / "zarr.json"
    data = path.read_bytes()
    path.unlink()
    if change != "missing":
        path.write_bytes(data[:40] if change == "cut" else data.replace(b"made", b"mode"))
    unknown = replace(store, shard_samples=99, codec="none")
    # One array's metadata can be read but is that of no codec; the next one's tells.
    first = store.path / ARRAYS[0].name / "zarr.json"
    first.write_bytes(first.read_bytes().replace(b'"zstd"', b'"zlib"'))
    (store.path / "feature" / "zarr.json").write_bytes(b"{}")
    restore_group(unknown)
    restore_metadata(open_store(store.path))
    assert tree_digest(store.path) == before
    restore_group(unknown)
    assert tree_digest(store.path) == before


def test_a_store_without_any_metadata_cannot_be_restored(tmp_path: Path) -> None:
    store = build(tmp_path)
    for name in ("", *(spec.name for spec in ARRAYS)):
        (store.path / name / "zarr.json").write_bytes(b"{}")
    with pytest.raises(DamagedStore, match="remove the store"):
        restore_group(store)


def test_metadata_of_another_store_and_folders_in_their_place_are_replaced(tmp_path: Path) -> None:
    store, other = build(tmp_path / "a"), add(tmp_path / "b", Key({"extractor": "other"}))
    before, path = tree_digest(store.path), store.path / "zarr.json"
    path.write_bytes((other.path / "zarr.json").read_bytes())
    restore_group(store)
    assert tree_digest(store.path) == before
    path = store.path / "feature" / "zarr.json"
    path.unlink()
    (path / "inner").mkdir(parents=True)
    restore_metadata(store)
    assert tree_digest(store.path) == before
    assert path.is_file()


def add(cache: Path, key: Key) -> Store:
    """An empty store."""
    return create_store(Store(store_path(cache, "made", "poses", key), "made", "poses", key, ARRAYS, 4, {}))


def test_arrays_of_a_sample_that_lack_one_are_refused(tmp_path: Path) -> None:
    store = build(tmp_path)
    values = sample(0)
    check_arrays(store, values)
    del values["feature"]
    with pytest.raises(ValueError, match="no array feature"):
        check_arrays(store, values)
