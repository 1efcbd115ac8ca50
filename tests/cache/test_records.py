"""Contract of records and metadata: each byte is covered; what an earlier version wrote is rejected, not guessed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cache.test_store import build, tree_digest
from tests.made_extractor import extract, make_files
from unialign.cache.keys import canonical, digest
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry, Record, ShardFile, decode_record, read_record, record_path
from unialign.cache.repair import restore_metadata
from unialign.cache.store import open_store
from unialign.cache.verify import verify_store
from unialign.errors import DamagedStore


def test_one_more_space_in_metadata_or_a_record_and_a_link_are_found(tmp_path: Path) -> None:
    store = build(tmp_path)
    for name in ("zarr.json", "feature/zarr.json", "records/000001.json"):
        path = store.path / name
        data = path.read_bytes()
        path.write_bytes(data + b" ")
        assert name in {found.file for found in verify_store(store.path)}
        path.unlink()
        (tmp_path / "outside.json").write_bytes(data)
        path.symlink_to(tmp_path / "outside.json")
        assert name in {found.file for found in verify_store(store.path)}
        if name.startswith("feature"):
            restore_metadata(store)
            assert not path.is_symlink()
        path.unlink()
        path.write_bytes(data)
        assert verify_store(store.path) == []


def test_a_record_with_a_right_digest_and_wrong_fields_is_rejected(tmp_path: Path) -> None:
    body = {"format": 2, "shard": 0, "samples": [{"id": "a"}], "files": {}}
    data = canonical({**body, "digest": digest(body)}) + b"\n"
    with pytest.raises(DamagedStore, match=r"x/000000.json: the record cannot be read"):
        decode_record(data, "x/000000.json")
    with pytest.raises(DamagedStore, match=r"record cannot be read \(.*No such file"):
        read_record(tmp_path / "records" / "000000.json")


def test_a_record_of_the_first_format_is_rejected_and_repaired(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 6)
    store = extract(tmp_path / "cache", sources).store
    before = tree_digest(store)
    path = record_path(store, 1)
    body: dict[str, Any] = json.loads(path.read_bytes())
    body = {name: value for name, value in body.items() if name != "digest"}
    body |= {"format": 1}
    for entry in body["samples"]:
        del entry["checksums"]
    path.write_bytes(canonical({**body, "digest": digest(body)}) + b"\n")
    with pytest.raises(DamagedStore, match=r"made by an earlier version .* --repair.* or remove the store"):
        read_record(path)
    with pytest.raises(DamagedStore, match="earlier version"):
        extract(tmp_path / "cache", sources)
    assert [found.shard for found in verify_store(store) if "earlier version" in found.problem] == [1]
    assert extract(tmp_path / "cache", sources, repair=True).extracted == 2
    assert tree_digest(store) == before


def test_a_record_whose_checksums_do_not_fit_its_files_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"sample a: checksums of \[\]"):
        Record(0, (Entry("a", "ok"),), {"x": ShardFile(1, "0" * 64)})
    with pytest.raises(ValueError, match=r"sample b: checksums of \['x'\]"):
        Record(0, (Entry("b", "timeout", checksums={"x": 1}),), {})


def test_group_metadata_that_cannot_be_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = build(tmp_path)

    def fail(path: Path, limit: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("unialign.cache.store.read_plain", fail)
    with pytest.raises(DamagedStore, match=r"zarr.json: the metadata cannot be read \(.*Permission denied"):
        open_store(store.path)


def test_a_whole_unit_of_another_store_is_rejected_and_named(tmp_path: Path) -> None:
    store, other = build(tmp_path), build(tmp_path / "other")
    renamed = other.path.with_name("other-0123456789ab.zarr")
    other.path.rename(renamed)
    with pytest.raises(DamagedStore, match=f"belongs to the store {store.path.stem}"):
        StoreReader(renamed)
    assert {found.shard for found in verify_store(renamed) if found.file.startswith("records")} == {0, 1, 2}
    renamed.rename(other.path)
    assert verify_store(other.path) == []
    assert len(StoreReader(other.path).ids) == 10
