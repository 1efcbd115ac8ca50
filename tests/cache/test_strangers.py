"""Contract of stores from elsewhere: signed again after a change, they are rejected in one sentence, and harm nothing.

`traversal` and `lengths` are two attacks that worked once.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cache.test_store import ARRAYS, build, sample, tree_digest
from tests.forged import forge_group, forge_index, forge_record, forge_shard
from tests.made_extractor import extract, make_files
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import columns_of
from unialign.cache.index import forget_shard, load_table, read_index, write_index
from unialign.cache.inventory import iterate_stores, summarise
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry, list_records
from unialign.cache.remote.fetching import FetchingReader
from unialign.cache.shards import decode_sample
from unialign.cache.store import Store, create_store, grow_store, open_store, write_shard
from unialign.cache.verify import verify_store
from unialign.errors import DamagedStore, MissingCache, UsageError

BAD_NAMES = (
    "../outside",
    "/tmp/outside",
    "a/b",
    "..",
    ".",
    ".hidden",
    "",
    "a\0b",
    "a\\b",
    "records",
    "c",
    "zarr.json",
    "x" * 201,
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_traversal_no_name_in_a_store_leads_out_of_it(tmp_path: Path, name: str) -> None:
    """`extract --repair` deleted and overwrote files outside the cache, where an array's name said so."""
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    sources = make_files(tmp_path / "files", 6)
    store = extract(cache, sources).store
    whole = tree_digest(store)
    for folder in (outside, store.parent / "outside", store.parents[1] / "outside"):
        (folder / "c" / "0").mkdir(parents=True)
        (folder / "c" / "0" / "precious").write_text("kept")
        (folder / "zarr.json").write_text("kept")
    target = str(outside) if name == "/tmp/outside" else name

    def change(body: Any) -> None:
        body["arrays"][0]["name"] = target

    before = tree_digest(outside), tree_digest(store.parent / "outside"), tree_digest(store.parents[1] / "outside")
    forge_group(store, change)
    for shard in (0, 1):
        forge_record(store, shard, lambda body: _rename(body, target))
    with pytest.raises(DamagedStore, match="cannot be read"):
        open_store(store)
    assert [found.file for found in verify_store(store)] == ["zarr.json"]
    extract(cache, sources, repair=True)
    assert tree_digest(store) == whole
    after = tree_digest(outside), tree_digest(store.parent / "outside"), tree_digest(store.parents[1] / "outside")
    assert after == before


def _rename(body: Any, target: str) -> None:
    first = next(iter(body["files"]))
    body["files"][target] = body["files"].pop(first)
    for entry in body["samples"]:
        entry["checksums"][target] = entry["checksums"].pop(first)


@pytest.mark.parametrize("length", [41, 64, 2**31 - 1, 2**31, 2**63, 0, -1, 3.0, "7", None, True])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_lengths_beyond_the_array_are_rejected(tmp_path: Path, codec: str, length: object) -> None:
    """`verify` passed them, `read_one` gave freed memory, and the batch reader crashed or never ended."""
    store = build(tmp_path, codec=codec)
    whole = {name: StoreReader(store.path).read_one(name) for name in StoreReader(store.path).ids}
    forge_record(store.path, 1, lambda body: body["samples"][2]["lengths"].update(frame=length))
    for opening in (StoreReader, summarised):
        with pytest.raises(DamagedStore, match=r"length|lengths\.frame"):
            opening(store.path)
    assert {found.shard for found in verify_store(store.path) if found.file.startswith("records")} == {1}
    forget_shard(store, 1)
    reader = StoreReader(store.path)
    kind = BatchReader if codec == "none" else FetchingReader
    batch = kind(columns_of(reader, window=100), reader.ids).read(np.arange(len(reader.ids)))
    for row, name in enumerate(reader.ids):
        for array, value in whole[name].items():
            found = batch[array][row]
            np.testing.assert_array_equal(found[: len(value)] if value.ndim else found, value)


def summarised(path: Path) -> None:
    problem = summarise(path).problem
    if problem:
        raise DamagedStore(problem)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_lengths_in_an_index_are_worth_no_more_than_the_records(tmp_path: Path, codec: str) -> None:
    store = build(tmp_path, codec=codec)
    write_index(store)
    forge_index(store.path, lambda head, columns: columns["lengths/frame"].fill(64))
    assert read_index(store) is None
    reader = StoreReader(store.path)
    for n in range(10):
        assert reader.read_one(f"clip{n:03d}")["keypoints"].tobytes() == sample(n)["keypoints"].tobytes()
    assert [found.file for found in verify_store(store.path)] == ["records/index.bin"]


INDEX_CHANGES: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], object]] = {
    "slot beyond its shard": lambda head, columns: columns["slot"].fill(3),
    "slot below 0": lambda head, columns: columns["slot"].fill(-1),
    "shard without a record": lambda head, columns: columns["shard"].fill(77),
    "status": lambda head, columns: columns["status"].fill(200),
    "statuses of what has features": lambda head, columns: columns["status"].fill(1),
    "ids in no order": lambda head, columns: columns["names"].sort() or columns["names"][::-1].sort(),
    "ids twice": lambda head, columns: columns["names"].fill(b"clip"),
    "an empty id": lambda head, columns: columns["names"][:1].fill(b""),
    "an id with a NUL": lambda head, columns: columns["names"][:1].fill(b"a\0b"),
    "an id that is no UTF-8": lambda head, columns: columns["names"][-1:].fill(b"\xff"),
    "an id that begins in a character": lambda head, columns: columns["names"][-1:].fill(b"\x80"),
    "checksums": lambda head, columns: columns["checksums/feature"].fill(2**40),
    "ends of notes": lambda head, columns: columns["notes.ends"].fill(10**12),
    "ends of notes that go back": lambda head, columns: columns["notes.ends"].fill(-5),
    "numbers of shards": lambda head, columns: columns["shards.numbers"].fill(-3),
    "shards twice": lambda head, columns: columns["shards.numbers"].fill(0),
    "samples of a shard": lambda head, columns: columns["shards.samples"].fill(99),
    "sizes of files": lambda head, columns: columns["bytes/feature"].fill(3),
    "no files": lambda head, columns: columns["bytes/feature"].fill(-1),
    "format": lambda head, columns: head.update(format=2),
    "type of a column": lambda head, columns: head["columns"][1].__setitem__(1, "|O"),
    "type of ids": lambda head, columns: head["columns"][0].__setitem__(1, "|S0"),
    "a column of another name": lambda head, columns: head["columns"][2].__setitem__(0, "else"),
    "a column of no family": lambda head, columns: head["columns"][2].__setitem__(0, "else/x"),
    "an axis of another name": lambda head, columns: head["columns"][8].__setitem__(0, "lengths/else"),
    "a column that is not there": lambda head, columns: head["columns"].pop(1),
    "rows of a column": lambda head, columns: head["columns"][1].__setitem__(2, [3]),
    "an array without SHA-256": lambda head, columns: head["columns"].pop(),
    "a column beyond the end": lambda head, columns: head["columns"][1].__setitem__(3, 2**40),
    "a column before the beginning": lambda head, columns: head["columns"][1].__setitem__(3, -9),
    "more bytes than there are": lambda head, columns: head["columns"][0].__setitem__(2, [2**40]),
    "no samples but shards": lambda head, columns: head["columns"][0].__setitem__(2, [0]),
}


@pytest.mark.parametrize("what", INDEX_CHANGES)
def test_an_index_that_no_store_has_does_not_count(tmp_path: Path, what: str) -> None:
    store = build(tmp_path, bad=(1,))
    write_index(store)
    whole = load_table(store)
    forge_index(store.path, INDEX_CHANGES[what])
    assert read_index(store) is None
    assert load_table(store).ids == whole.ids
    write_index(store)
    assert read_index(store) is not None


def test_an_index_without_shards_but_with_samples_does_not_count(tmp_path: Path) -> None:
    store = build(tmp_path)
    write_index(store)

    def cut(head: dict[str, Any], columns: dict[str, np.ndarray]) -> None:
        for column in head["columns"]:
            if column[0].startswith(("shards.", "bytes/", "sha256/")):
                column[2][0] = 0

    forge_index(store.path, cut)
    assert read_index(store) is None


def test_notes_of_an_index_that_are_none_are_rejected_when_they_are_read(tmp_path: Path) -> None:
    store = build(tmp_path)
    write_index(store)
    forge_index(store.path, lambda head, columns: columns["notes.data"].fill(ord("[")))
    reader = StoreReader(store.path)
    with pytest.raises(DamagedStore, match=r"index.bin: what it says of sample 'clip000' cannot be read"):
        reader.source("clip000")


GROUP_CHANGES: dict[str, Callable[[Any], object]] = {
    "shape": lambda body: body["arrays"][0].update(shape=[40, 2, 3]),
    "negative shape": lambda body: body["arrays"][1].update(shape=[-5]),
    "empty shape": lambda body: body["arrays"][1].update(shape=[0]),
    "shape of texts": lambda body: body["arrays"][1].update(shape=["5"]),
    "huge chunk": lambda body: body["arrays"][1].update(shape=[2**40]),
    "huge index": lambda body: body["arrays"][1].update(shape=[2**40], chunk=1),
    "sizes whose product begins again at 0": lambda body: body["arrays"][0].update(shape=[2**32, 2**32, 1, 1]),
    "type": lambda body: body["arrays"][1].update(dtype="object"),
    "type that is none": lambda body: body["arrays"][1].update(dtype=["float32"]),
    "ragged scalar": lambda body: body["arrays"][2].update(ragged=True),
    "chunk": lambda body: body["arrays"][0].update(chunk=-1),
    "field": lambda body: body["arrays"][0].update(more=1),
    "two of one name": lambda body: body["arrays"][1].update(name="keypoints"),
    "no arrays": lambda body: body.update(arrays=[]),
    "arrays": lambda body: body.update(arrays={}),
    "slots": lambda body: body.update(shard_samples=0),
    "many slots": lambda body: body.update(shard_samples=2**60),
    "slots in a text": lambda body: body.update(shard_samples="4"),
    "codec": lambda body: body.update(codec="gzip"),
    "format": lambda body: body.update(format=7),
    "key": lambda body: body.update(key=["fake"]),
    "extractor": lambda body: body["key"].update(extractor=3),
    "extractor elsewhere": lambda body: body["key"].update(extractor="../fake"),
    "collection": lambda body: body.update(collection="../made"),
    "modality": lambda body: body.update(modality=None),
}


@pytest.mark.parametrize("what", GROUP_CHANGES)
def test_metadata_that_no_store_has_are_rejected_and_hide_no_other_store(tmp_path: Path, what: str) -> None:
    store = build(tmp_path)
    other = build(tmp_path / "x")
    other.path.rename(store.path.with_name("else-0123456789ab.zarr"))
    forge_group(store.path, GROUP_CHANGES[what])
    with pytest.raises(DamagedStore, match=r"zarr.json: the metadata cannot be read \("):
        StoreReader(store.path)
    assert [found.file for found in verify_store(store.path)] == ["zarr.json"]
    problems = {path.name: summarise(path).problem for path in iterate_stores(tmp_path)}
    assert "cannot be read" in problems[store.path.name]


RECORD_CHANGES: dict[str, Callable[[Any], object]] = {
    "id": lambda body: body["samples"][0].update(id=3),
    "no id": lambda body: body["samples"][0].update(id=""),
    "NUL": lambda body: body["samples"][0].update(id="a\0b"),
    "NUL in a source": lambda body: body["samples"][0].update(source="a\0b"),
    "source": lambda body: body["samples"][0].update(source=["x"]),
    "status": lambda body: body["samples"][0].update(status="fine"),
    "detail": lambda body: body["samples"][0].update(detail=[]),
    "axis": lambda body: body["samples"][0]["lengths"].update(joint=1),
    "no lengths": lambda body: [entry.update(lengths={}) for entry in body["samples"]],
    "checksum": lambda body: body["samples"][0]["checksums"].update(feature=-1),
    "large checksum": lambda body: body["samples"][0]["checksums"].update(feature=2**32),
    "shard": lambda body: body.update(shard="1"),
    "large shard": lambda body: body.update(shard=2**31),
    "no samples": lambda body: body.update(samples=[]),
    "more samples than slots": lambda body: body.update(
        samples=[{**body["samples"][0], "id": f"x{n}"} for n in range(5)]
    ),
    "size": lambda body: body["files"]["feature"].update(bytes=2**63),
    "negative size": lambda body: body["files"]["feature"].update(bytes=-2),
    "size below the index": lambda body: body["files"]["feature"].update(bytes=67),
    "sha256": lambda body: body["files"]["feature"].update(sha256="0" * 63 + "x"),
    "another array": lambda body: _rename(body, "else"),
    "files": lambda body: body.update(files=[]),
    "store": lambda body: body.update(store=7),
    "format": lambda body: body.update(format="2"),
}


@pytest.mark.parametrize("what", RECORD_CHANGES)
def test_a_record_that_no_store_has_is_rejected_found_and_repaired(tmp_path: Path, what: str) -> None:
    store = build(tmp_path)
    forge_record(store.path, 1, RECORD_CHANGES[what])
    with pytest.raises(DamagedStore):
        StoreReader(store.path)
    assert summarise(store.path).problem
    assert {found.shard for found in verify_store(store.path) if found.file.startswith("records")} == {1}
    forget_shard(store, 1)
    assert len(StoreReader(store.path).ids) == 6


def test_a_record_may_say_more_of_its_shard_than_this_version_knows(tmp_path: Path) -> None:
    store = build(tmp_path)
    forge_record(store.path, 1, lambda body: body.update(more={"of": "it"}))
    assert len(StoreReader(store.path).ids) == 10


@pytest.mark.parametrize("name", ["1.json", "000001.json.json", "٣.json", "9999999999.json", "0000001.json", "²2.json"])
def test_a_record_under_another_spelling_of_its_number_is_a_stray_file(tmp_path: Path, name: str) -> None:
    store = build(tmp_path)
    (store.path / "records" / name).write_bytes((store.path / "records" / "000001.json").read_bytes())
    assert len(StoreReader(store.path).ids) == 10
    assert len(list_records(store.path)) == 3
    assert [found.file for found in verify_store(store.path)] == [f"records/{name}"]


@pytest.mark.parametrize("codec", ["none", "zstd", "blosc"])
@pytest.mark.parametrize("kind", ["offset", "size", "swapped", "absent", "wrapped"])
def test_a_shard_index_that_is_signed_again_gives_stored_values_or_an_error(
    tmp_path: Path, codec: str, kind: str
) -> None:
    store = build(tmp_path, codec=codec)

    def change(content: bytearray, table: np.ndarray) -> None:
        if kind == "swapped":
            table[:] = np.roll(table, 2)
        else:
            table[0 :: 2 if kind == "offset" else 1] = {"offset": 2**40, "size": 3, "absent": 2**64 - 1}.get(
                kind, 2**63
            )

    forge_shard(store.path, "feature", 0, change)
    reader = StoreReader(store.path)
    with pytest.raises(DamagedStore):
        reader.read_one("clip001")
    batches = (BatchReader if codec == "none" else FetchingReader)(columns_of(reader, ["feature"]), reader.ids[:4])
    if kind == "swapped":
        return
    with pytest.raises(DamagedStore):
        batches.read(np.arange(4))


@pytest.mark.parametrize("place", ["keypoints", "feature/c", "feature/c/1", "records"])
def test_nothing_is_written_or_deleted_behind_a_link_to_a_folder(tmp_path: Path, place: str) -> None:
    store = build(tmp_path, bad=(1,))
    outside = tmp_path / "outside"
    (store.path / place).rename(outside)
    (store.path / place).symlink_to(outside, target_is_directory=True)
    before = tree_digest(outside)

    def attempt(write: Callable[[], object]) -> None:
        with pytest.raises(DamagedStore, match="a link in the place of a folder"):
            write()

    if place != "feature/c/1":
        attempt(lambda: forget_shard(store, 1))
    if place == "records":
        attempt(lambda: write_index(store))
    if place == "keypoints":
        attempt(lambda: grow_store(store, 9))
    else:
        grow_store(store, 9)
    entries = [Entry(f"new{n}", "ok") for n in range(4)]
    attempt(lambda: write_shard(store, 1, entries, [sample(n) for n in range(4)]))
    assert tree_digest(outside) == before
    assert place.partition("/")[0] in {found.file.partition("/")[0] for found in verify_store(store.path)}


@pytest.mark.parametrize("name", ["zarr.json", "records/000001.json", "records/index.bin", "feature/zarr.json"])
@pytest.mark.parametrize("kind", ["pipe", "sparse", "folder"])
def test_a_pipe_a_folder_or_a_huge_file_in_the_place_of_metadata_is_damage(
    tmp_path: Path, name: str, kind: str
) -> None:
    store = build(tmp_path)
    write_index(store)
    path = store.path / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    if name == "records/index.bin":
        assert len(StoreReader(store.path).ids) == 10
        assert name in {found.file for found in verify_store(store.path)} or kind == "folder"
        return
    assert name in {found.file for found in verify_store(store.path)}
    if name != "feature/zarr.json":
        with pytest.raises((DamagedStore, MissingCache)):
            StoreReader(store.path)


def test_a_store_of_the_same_key_with_other_arrays_is_not_written(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 6)
    store = extract(tmp_path / "cache", sources).store
    forge_group(store, lambda body: body["arrays"][0].update(dims=["other"] * len(body["arrays"][0]["dims"])))
    with pytest.raises(DamagedStore, match="other arrays than its extractor makes"):
        extract(tmp_path / "cache", sources)


@pytest.mark.parametrize("name", ["a/b", "..", "records"])
def test_a_store_that_could_not_be_opened_again_is_not_made(tmp_path: Path, name: str) -> None:
    store = build(tmp_path / "whole")
    path = tmp_path / "made" / "poses" / store.path.name
    with pytest.raises(UsageError, match="cannot be made"):
        create_store(replace(store, path=path, arrays=(replace(store.arrays[0], name=name),)))
    assert not list(tmp_path.glob("made/*/*"))


def test_metadata_of_an_array_are_believed_as_the_store_writes_them(tmp_path: Path) -> None:
    store = build(tmp_path)
    path = store.path / "feature" / "zarr.json"
    body = json.loads(path.read_bytes())
    for changed in ({**body, "shape": [12.0, 5]}, {**body, "codecs": []}, {**body, "shape": []}, [], {"shape": "ab"}):
        path.write_text(json.dumps(changed, indent=2) + "\n")
        with pytest.raises(DamagedStore, match="the array's metadata"):
            grow_store(store, 9)


def test_a_sample_with_fewer_chunks_than_its_length_takes_is_damaged() -> None:
    spec = ARRAYS[1]
    with pytest.raises(DamagedStore, match="0 chunks are there, the sample takes 1"):
        decode_sample(spec, [], None)


@pytest.mark.parametrize("depth", [150, 5000, 200_000])
def test_deep_nesting_is_damage_and_no_traceback(tmp_path: Path, depth: int) -> None:
    store: Store = build(tmp_path)
    nested = b"[" * depth + b"]" * depth
    (store.path / "zarr.json").write_bytes(nested)
    (store.path / "feature" / "zarr.json").write_bytes(b'{"shape":' + nested + b"}")
    with pytest.raises(DamagedStore):
        open_store(store.path)
    with pytest.raises(DamagedStore):
        grow_store(store, 9)
