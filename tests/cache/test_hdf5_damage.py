"""What is no whole export is rejected in one sentence and leaves nothing behind: stores, files and disks gone bad."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cache.test_store import ARRAYS, build, sample, tree_digest
from tests.pipeline.exchange.test_hdf5_export import grown, left_over
from unialign.cache.atomic import PREFIX
from unialign.cache.keys import Key
from unialign.cache.records import Entry
from unialign.cache.store import Store, create_store, grow_store, store_path, write_shard
from unialign.errors import CorruptInput, DamagedStore, MissingCache, UnialignError, UsageError
from unialign.pipeline.exchange.hdf5_export import export_hdf5, head_digest
from unialign.pipeline.exchange.hdf5_import import import_hdf5


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

    monkeypatch.setattr("unialign.pipeline.exchange.hdf5_export._write_arrays", full)
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
        "none that this version of unialign reads",
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


def test_no_file_no_hdf5_and_a_cut_file_are_rejected(tmp_path: Path) -> None:
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


def test_a_file_with_a_flipped_byte_gives_the_same_store_or_is_rejected(tmp_path: Path) -> None:
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
