"""Contract of the HDF5 files: h5py alone reads them, the store comes back byte for byte, and damage is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cache.test_store import ARRAYS, build, sample, tree_digest
from unialign.cache.atomic import PREFIX
from unialign.cache.errors import CorruptInput, DamagedStore, LockedStore, MissingCache, UnialignError, UsageError
from unialign.cache.hdf5 import export_hdf5, head_digest
from unialign.cache.hdf5_import import STAGING, import_hdf5
from unialign.cache.index import write_index
from unialign.cache.keys import Key
from unialign.cache.lock import store_lock
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry, record_path
from unialign.cache.store import Store, create_store, grow_store, open_store, store_path, write_shard
from unialign.cache.verify import verify_store


def grown(cache: Path) -> Store:
    """Ten samples of which one failed, two extracted again (one of them failed then), and an axis longer than that."""
    store = build(cache, bad=(3,))
    grow_store(store, 6)
    again = [Entry("clip001", "ok", "sha256:new"), Entry("clip002", "truncated", "sha256:new", detail={"why": "cut"})]
    write_shard(store, 4, again, [sample(50), {}])
    return store


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name.startswith(PREFIX))


def test_a_store_comes_back_byte_for_byte(tmp_path: Path) -> None:
    store = grown(tmp_path / "a")
    seen: list[tuple[int, int]] = []
    size = export_hdf5(store.path, tmp_path / "x.h5", lambda done, total: seen.append((done, total)))
    assert size == (tmp_path / "x.h5").stat().st_size
    assert seen[-1] == (10, 10)
    done = import_hdf5(tmp_path / "x.h5", tmp_path / "b", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)
    assert not done.reused
    assert done.store.path == tmp_path / "b" / store.path.relative_to(tmp_path / "a")
    assert tree_digest(done.store.path) == tree_digest(store.path)
    assert verify_store(done.store.path) == []
    assert left_over(tmp_path) == []


def test_h5py_alone_reads_every_row(tmp_path: Path) -> None:
    export_hdf5(grown(tmp_path).path, tmp_path / "x.h5")
    seeds = [0, 1, 2, 4, 5, 6, 7, 8, 9, 50]
    with h5py.File(tmp_path / "x.h5") as file:
        ids, current = file["samples/id"].asstr()[:], file["samples/current"][:]
        assert list(ids) == [f"clip{n:03d}" for n in (0, 1, 2, 4, 5, 6, 7, 8, 9, 1)]
        # The first version of clip001 is superseded; clip002 failed the second time.
        assert current.tolist() == [True, False, False, *[True] * 7]
        for row, seed in enumerate(seeds):
            for spec in ARRAYS:
                data = file[f"arrays/{spec.name}"]
                start, end = file[f"offsets/{spec.name}"][row : row + 2] if spec.ragged else (row, row + 1)
                found = data[start:end] if spec.ragged else data[row]
                np.testing.assert_array_equal(found, sample(seed)[spec.name])
                assert found.dtype == np.dtype(spec.dtype)
        assert [axis.label for axis in file["arrays/feature"].dims] == ["sample", "channel"]
        assert file["samples/shard"][-1] == 4
        record = json.loads(file["records/text"].asstr()[3])
        assert record["samples"][1]["detail"] == {"why": "cut"}
        assert json.loads(file["metadata"].asstr()[()])["attributes"]["unialign"]["licence"] == "none"


@pytest.mark.parametrize("codec", ["zstd", "blosc"])
def test_a_compressed_store_comes_back_too(tmp_path: Path, codec: str) -> None:
    key = Key({"extractor": "fake", "revision": 1})
    path = store_path(tmp_path / "a", "made", "poses", key)
    store = create_store(Store(path, "made", "poses", key, ARRAYS, 4, {}, codec))
    grow_store(store, 1)
    write_shard(store, 0, [Entry("one", "ok", "sha256:1")], [sample(1)])
    write_index(path)
    export_hdf5(path, tmp_path / "x.h5")
    assert tree_digest(import_hdf5(tmp_path / "x.h5", tmp_path / "b").store.path) == tree_digest(path)


def test_another_compressor_is_named_when_its_bytes_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key({"extractor": "fake", "revision": 1})
    path = store_path(tmp_path / "a", "made", "poses", key)
    store = create_store(Store(path, "made", "poses", key, ARRAYS, 4, {}, "zstd"))
    grow_store(store, 1)
    write_shard(
        store, 0, [Entry("one", "ok", "sha256:1")], [{**sample(1), "pictures": np.arange(96, dtype=np.uint8) % 7}]
    )
    export_hdf5(path, tmp_path / "x.h5")
    shutil.copy(tmp_path / "x.h5", tmp_path / "y.h5")
    with h5py.File(tmp_path / "y.h5", "r+") as file:
        file["arrays/count"][0] = 2
    with pytest.raises(DamagedStore, match="array count of shard 0"):
        import_hdf5(tmp_path / "y.h5", tmp_path / "b")
    monkeypatch.setattr("unialign.cache.codecs.ZSTD_LEVEL", -100)
    monkeypatch.setattr("unialign.cache.codecs.numcodecs.__version__", "0.1")
    with pytest.raises(UsageError, match=r"compressed by numcodecs .* 0\.1, which is installed"):
        import_hdf5(tmp_path / "x.h5", tmp_path / "b")


@pytest.mark.parametrize("kind", ["empty", "only failures"])
def test_a_store_without_data_comes_back(tmp_path: Path, kind: str) -> None:
    store = build(tmp_path / "a", num_samples=0 if kind == "empty" else 3, bad=(0, 1, 2))
    export_hdf5(store.path, tmp_path / "x.h5")
    assert tree_digest(import_hdf5(tmp_path / "x.h5", tmp_path / "b").store.path) == tree_digest(store.path)


def test_the_index_comes_back_where_there_was_one(tmp_path: Path) -> None:
    store = grown(tmp_path / "a")
    write_index(store.path)
    export_hdf5(store.path, tmp_path / "x.h5")
    assert tree_digest(import_hdf5(tmp_path / "x.h5", tmp_path / "b").store.path) == tree_digest(store.path)


def test_the_same_store_is_left_alone_and_another_is_not_overwritten(tmp_path: Path) -> None:
    store = grown(tmp_path / "a")
    export_hdf5(store.path, tmp_path / "x.h5")
    before = tree_digest(store.path)
    assert import_hdf5(tmp_path / "x.h5", tmp_path / "a").reused
    assert tree_digest(store.path) == before
    build(tmp_path / "less", num_samples=4)
    with pytest.raises(UsageError, match="holds other samples of the same key"):
        import_hdf5(tmp_path / "x.h5", tmp_path / "less")
    shard = store.shard_path("feature", 0)
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])
    with pytest.raises(UsageError, match="feature/c/0/0 is not right"):
        import_hdf5(tmp_path / "x.h5", tmp_path / "a")


def test_an_empty_store_is_replaced_and_a_killed_import_cleared_away(tmp_path: Path) -> None:
    store = grown(tmp_path / "a")
    export_hdf5(store.path, tmp_path / "x.h5")
    empty = build(tmp_path / "b", num_samples=0)
    (empty.path.parent / f"{PREFIX}0123456789abcdef-{empty.path.stem}{STAGING}").mkdir()
    assert not import_hdf5(tmp_path / "x.h5", tmp_path / "b").reused
    assert tree_digest(empty.path) == tree_digest(store.path)
    assert left_over(tmp_path / "b") == []


def test_a_store_that_somebody_writes_is_not_imported_into(tmp_path: Path) -> None:
    store = grown(tmp_path / "a")
    export_hdf5(store.path, tmp_path / "x.h5")
    with store_lock(store.path, tmp_path / "a"), pytest.raises(LockedStore):
        import_hdf5(tmp_path / "x.h5", tmp_path / "a")


def test_export_refuses_with_a_reason(tmp_path: Path) -> None:
    store = build(tmp_path / "a")
    (tmp_path / "x.h5").touch()
    with pytest.raises(UsageError, match="exists"):
        export_hdf5(store.path, tmp_path / "x.h5")
    with pytest.raises(MissingCache):
        export_hdf5(tmp_path / "none.zarr", tmp_path / "y.h5")
    assert not (tmp_path / "y.h5").exists()
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("name", ["clip000", "clip001"], ids=["current", "superseded"])
def test_a_damaged_store_is_not_exported(tmp_path: Path, name: str) -> None:
    key = Key({"extractor": "fake", "revision": 1})
    store = create_store(
        Store(store_path(tmp_path, "made", "poses", key), "made", "poses", key, ARRAYS, 4, {"licence": "none"})
    )
    grow_store(store, 2)
    write_shard(store, 0, [Entry("clip000" if name == "clip000" else "clip001", "ok")], [sample(1)])
    write_shard(store, 1, [Entry("clip001", "ok")], [sample(2)])
    shard = store.shard_path("feature", 0)
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])
    with pytest.raises(DamagedStore, match="is not what was written"):
        export_hdf5(store.path, tmp_path / "x.h5")
    assert left_over(tmp_path) == []


def test_records_that_change_during_the_export_are_noticed(tmp_path: Path) -> None:
    store = build(tmp_path)

    def meddle(done: int, total: int) -> None:
        if done == 0:
            write_shard(store, 2, [Entry("other", "ok", "sha256:x")], [sample(3)])

    with pytest.raises(DamagedStore, match="was changed during the export"):
        export_hdf5(store.path, tmp_path / "x.h5", meddle)


def test_a_disk_that_fills_up_while_the_file_is_closed_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(tmp_path)

    def full(*_: object) -> None:
        raise RuntimeError("Can't decrement id ref count (No space left on device)")

    monkeypatch.setattr("unialign.cache.hdf5._write_arrays", full)
    with pytest.raises(OSError, match="No space left"):
        export_hdf5(store.path, tmp_path / "x.h5")
    assert left_over(tmp_path) == []


def reset(file: h5py.File, name: str, values: object) -> None:
    del file[name]
    file[name] = values


def change_text(file: h5py.File, name: str, place: object, old: bytes, new: bytes, *, sign: bool = False) -> None:
    file[name][place] = file[name][place].replace(old, new)
    if sign:
        file.attrs["digest"] = head_digest(file)


DAMAGE: dict[str, tuple[Callable[[h5py.File], object], type[UnialignError], str]] = {
    "array": (
        lambda file: file["arrays/feature"].write_direct(np.zeros((10, 5), "float32")),
        DamagedStore,
        r"x\.h5: array feature of shard 0 is not what was exported",
    ),
    "superseded row": (
        lambda file: file["arrays/count"].write_direct(np.array([77]), dest_sel=np.s_[1:2]),
        DamagedStore,
        "array count of shard 0",
    ),
    "type": (lambda file: reset(file, "arrays/count", np.zeros(10, "int32")), CorruptInput, "int32 instead of int64"),
    "shape": (lambda file: reset(file, "arrays/feature", np.zeros((10, 4), "float32")), CorruptInput, "shard 0"),
    "no array": (lambda file: file.pop("arrays/feature"), CorruptInput, "feature"),
    "offsets": (
        lambda file: reset(file, "offsets/keypoints", np.arange(11)),
        CorruptInput,
        "offsets of array keypoints",
    ),
    "record": (
        lambda file: change_text(file, "records/text", 1, b"clip005", b"clip555"),
        CorruptInput,
        "own digest",
    ),
    "forged record": (
        lambda file: change_text(file, "records/text", 1, b"clip005", b"clip555", sign=True),
        CorruptInput,
        "none that this version of unialign reads",
    ),
    "shards": (lambda file: reset(file, "records/shard", [0, 1, 3, 4]), CorruptInput, "own digest"),
    "fewer shards": (lambda file: reset(file, "records/shard", [0, 1, 2]), CorruptInput, "own digest"),
    "axis": (lambda file: file.attrs.__setitem__("num_shards", 7), CorruptInput, "own digest"),
    "metadata": (
        lambda file: change_text(file, "metadata", (), b"licence", b"license"),
        CorruptInput,
        "own digest",
    ),
    "forged metadata": (
        lambda file: change_text(file, "metadata", (), b"licence", b"license", sign=True),
        CorruptInput,
        "none that this version of unialign reads",
    ),
    "way out of the cache": (
        lambda file: change_text(file, "metadata", (), b'"made"', b'"../out"', sign=True),
        CorruptInput,
        "cannot be the name",
    ),
    "version": (lambda file: file.attrs.__setitem__("version", 2), CorruptInput, "version 1"),
    "format": (lambda file: file.attrs.__delitem__("format"), CorruptInput, "its format is not"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    change, error, sentence = DAMAGE[kind]
    export_hdf5(grown(tmp_path / "a").path, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        change(file)
    with pytest.raises(error, match=sentence) as caught:
        import_hdf5(tmp_path / "x.h5", tmp_path / "b")
    assert str(caught.value).startswith(str(tmp_path / "x.h5"))
    assert PREFIX not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "b").rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert not (tmp_path / "out").exists()


def test_no_file_no_hdf5_and_a_cut_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        import_hdf5(tmp_path / "none.h5", tmp_path)
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(CorruptInput, match="is no export"):
        import_hdf5(tmp_path / "text.h5", tmp_path)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(CorruptInput, match="is no export"):
        import_hdf5(tmp_path / "foreign.h5", tmp_path)
    export_hdf5(build(tmp_path / "a").path, tmp_path / "x.h5")
    data = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptInput, match=r"cut\.h5"):
        import_hdf5(tmp_path / "cut.h5", tmp_path)


def test_a_file_with_a_flipped_byte_gives_the_same_store_or_is_refused(tmp_path: Path) -> None:
    store = build(tmp_path / "a", num_samples=2, bad=(1,))
    export_hdf5(store.path, tmp_path / "x.h5")
    whole, expected = (tmp_path / "x.h5").read_bytes(), tree_digest(store.path)
    refused = 0
    for number, position in enumerate(range(0, len(whole), len(whole) // 24)):
        (tmp_path / "y.h5").write_bytes(
            whole[:position] + bytes([whole[position] ^ 1 << number % 8]) + whole[position + 1 :]
        )
        try:
            done = import_hdf5(tmp_path / "y.h5", tmp_path / "b")
        except (CorruptInput, DamagedStore):
            refused += 1
        else:
            assert tree_digest(done.store.path) == expected, position
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
    assert refused


def test_a_record_of_another_format_is_kept_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = grown(tmp_path / "a")
    export_hdf5(store.path, tmp_path / "x.h5")
    real = write_shard

    def newer(*words: object) -> object:
        written = real(*words)  # type: ignore[arg-type]
        path = record_path(words[0].path, words[1])  # type: ignore[attr-defined, arg-type]
        path.write_bytes(path.read_bytes() + b"\n")
        return written

    monkeypatch.setattr("unialign.cache.hdf5_import.write_shard", newer)
    assert tree_digest(import_hdf5(tmp_path / "x.h5", tmp_path / "b").store.path) == tree_digest(store.path)


def test_a_store_of_the_same_key_and_other_attributes_is_another_one(tmp_path: Path) -> None:
    store = build(tmp_path / "a", num_samples=0)
    export_hdf5(store.path, tmp_path / "x.h5")
    other = replace(store, path=tmp_path / "b" / store.path.relative_to(tmp_path / "a"), attributes={"licence": "MIT"})
    create_store(other)
    write_shard(other, 0, [Entry("one", "no-person")], [{}])
    with pytest.raises(UsageError, match="other samples"):
        import_hdf5(tmp_path / "x.h5", tmp_path / "b")
    assert open_store(other.path).attributes == {"licence": "MIT"}
    assert StoreReader(other.path).status("one") == "no-person"
