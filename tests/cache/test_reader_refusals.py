"""Contract of what a reader says of files that are not there any more, or not files."""

from pathlib import Path

import numpy as np
import pytest

from tests.cache.test_store import build
from unialign.cache import reader as reading
from unialign.cache.batches.joined import Joined, columns_of
from unialign.cache.index import index_path, load_table, read_index, write_index
from unialign.cache.inventory import find_store, summarise
from unialign.cache.reader import StoreReader
from unialign.errors import DamagedStore, MissingCache


def test_a_sample_that_was_never_extracted_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(MissingCache, match="nobody"):
        StoreReader(build(tmp_path).path).status("nobody")


def test_a_shard_that_no_record_covers_and_one_that_has_gone_are_named(tmp_path: Path) -> None:
    store = build(tmp_path)
    reader = StoreReader(store.path)
    with pytest.raises(DamagedStore, match="no record covers"):
        reader.shard("feature", 99)
    store.shard_path("feature", 0).unlink()
    with pytest.raises(DamagedStore, match="cannot be read"):
        reader.shard("feature", 0)
    with pytest.raises(DamagedStore, match="is missing"):
        StoreReader(store.path)


def test_a_folder_or_a_link_in_the_place_of_a_shard_is_rejected_at_opening(tmp_path: Path) -> None:
    store = build(tmp_path)
    path = store.shard_path("feature", 0)
    moved = path.rename(tmp_path / "moved")
    path.symlink_to(moved)
    with pytest.raises(DamagedStore, match="is missing"):
        StoreReader(store.path)
    path.unlink()
    for folder in list(path.parents)[:2]:  # as deep as the array has axes
        if not any(folder.iterdir()):
            folder.rmdir()
            folder.write_bytes(b"")
            break
    with pytest.raises(DamagedStore, match="is missing"):
        StoreReader(store.path)


def test_a_file_cut_between_its_check_and_its_mapping_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = StoreReader(build(tmp_path).path)
    monkeypatch.setattr(reading, "map_handle", lambda handle, path: np.zeros(3, dtype=np.uint8))
    with pytest.raises(DamagedStore, match="not what was written"):
        reader.shard("feature", 0)


def test_without_advice_to_the_system_everything_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(tmp_path)
    whole = StoreReader(store.path).read_one("clip000")
    monkeypatch.delattr(reading.os, "posix_fadvise")
    reader = StoreReader(store.path)
    reader.announce("feature", 0)
    again = reader.read_one("clip000")
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    reader.release("feature", 0)


def test_an_index_that_is_a_link_does_not_count(tmp_path: Path) -> None:
    store = build(tmp_path)
    write_index(store)
    moved = index_path(store.path).rename(tmp_path / "index")
    index_path(store.path).symlink_to(moved)
    assert read_index(store) is None
    assert len(load_table(store).ids) == len(StoreReader(store.path).table.ids)


def test_a_store_is_found_by_its_path_and_its_row_is_plain(tmp_path: Path) -> None:
    store = build(tmp_path)
    assert find_store(tmp_path, str(store.path)) == store.path.resolve()
    assert summarise(store.path).row()["path"] == str(store.path)


def test_a_join_by_itself_reads_nothing(tmp_path: Path) -> None:
    reader = StoreReader(build(tmp_path).path)
    with pytest.raises(NotImplementedError):
        Joined(columns_of(reader, ["feature"]), reader.ids).read(np.array([0]))
