"""Contract of HDF5 files from elsewhere: what does not lie in the file as an export leaves it is rejected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.cache.test_store import build
from tests.forged import forge_record
from unialign.errors import CorruptInput, DamagedStore
from unialign.pipeline.exchange.hdf5_export import export_hdf5, head_digest
from unialign.pipeline.exchange.hdf5_import import import_hdf5


def replaced(name: str, *arguments: Any, **options: Any) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, *arguments, **options)

    return change


def soft(file: h5py.File) -> None:
    file.move("metadata", "elsewhere")
    file["metadata"] = h5py.SoftLink("/elsewhere")


def group(file: h5py.File) -> None:
    del file["metadata"]
    file.create_group("metadata")


CHANGES: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "a link": (soft, "is a link to another place"),
    "a group": (group, "is no dataset"),
    "chunks": (replaced("records/shard", data=np.arange(3), chunks=(1,)), "cut into chunks"),
    "rows that were never written": (replaced("records/shard", (3,), "i8"), "not all in the file"),
    "numbers that are none": (replaced("records/shard", data=np.array([0.0, 1.0, 2.0])), "numbers of its shards"),
    "numbers below 0": (replaced("records/shard", data=np.array([-1, 1, 2])), "numbers of its shards"),
    "numbers twice": (replaced("records/shard", data=np.array([1, 1, 2])), "numbers of its shards"),
    "too many shards": (lambda file: file.attrs.update(num_shards=2**40), "room for"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_no_export_is_rejected_also_when_it_is_signed_again(tmp_path: Path, kind: str) -> None:
    change, sentence = CHANGES[kind]
    export_hdf5(build(tmp_path / "a").path, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        change(file)
        file.flush()
        try:
            file.attrs["digest"] = head_digest(file)
        except (ValueError, TypeError):
            file.attrs["digest"] = "none"
    with pytest.raises(CorruptInput, match=sentence):
        import_hdf5(tmp_path / "x.h5", tmp_path / "b")
    assert not list(tmp_path.glob("b/*/*/*.zarr"))


def test_texts_that_are_longer_than_the_file_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_hdf5(build(tmp_path / "a").path, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        texts = file["records/text"]
        place = texts.id.get_offset()
        size = texts.id.get_storage_size()
        texts[0] = b"x" * 200_000
    data = bytearray((tmp_path / "x.h5").read_bytes())
    data[place : place + size] = bytes(data[place : place + 16]) * (size // 16)
    (tmp_path / "x.h5").write_bytes(data)
    with pytest.raises(CorruptInput, match="longer than the file"):
        import_hdf5(tmp_path / "x.h5", tmp_path / "b")


def test_a_record_that_no_store_has_is_not_exported(tmp_path: Path) -> None:
    store = build(tmp_path)

    def meddle(done: int, total: int) -> None:
        if done == 0:
            forge_record(store.path, 0, lambda body: body["samples"][0]["lengths"].update(frame=99))

    with pytest.raises(DamagedStore, match="a length of axis frame"):
        export_hdf5(store.path, tmp_path / "x.h5", meddle)
