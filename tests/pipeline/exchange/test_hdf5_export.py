"""Contract of the HDF5 files: h5py alone reads them, the store comes back byte for byte, and damage is rejected."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cache.test_store import ARRAYS, build, sample, tree_digest
from unialign.cache.atomic import PREFIX
from unialign.cache.index import write_index
from unialign.cache.inventory import iterate_stores
from unialign.cache.keys import Key
from unialign.cache.lock import store_lock
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry, record_path
from unialign.cache.store import Store, create_store, grow_store, open_store, store_path, write_shard
from unialign.cache.verify import verify_store
from unialign.errors import DamagedStore, LockedStore, UsageError
from unialign.pipeline.exchange.hdf5_export import export_hdf5
from unialign.pipeline.exchange.hdf5_import import STAGING, import_hdf5


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
    write_index(open_store(path))
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
    write_index(store)
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


KILLED = """
import os, signal, sys
from pathlib import Path
from unialign.pipeline.exchange.hdf5_import import import_hdf5
def kill(done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
import_hdf5(Path(sys.argv[1]), Path(sys.argv[2]), kill)
"""


def test_a_killed_import_never_shows_a_part_of_the_store(tmp_path: Path) -> None:
    store = grown(tmp_path / "a")
    export_hdf5(store.path, tmp_path / "x.h5")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "x.h5"), str(tmp_path / "b")]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    final = tmp_path / "b" / store.path.relative_to(tmp_path / "a")
    assert not final.exists()
    assert len(left_over(final.parent)) > 0
    assert list(iterate_stores(tmp_path / "b")) == []
    import_hdf5(tmp_path / "x.h5", tmp_path / "b")
    assert tree_digest(final) == tree_digest(store.path)
    assert left_over(tmp_path / "b") == []


def test_a_store_that_somebody_writes_is_not_imported_into(tmp_path: Path) -> None:
    store = grown(tmp_path / "a")
    export_hdf5(store.path, tmp_path / "x.h5")
    with store_lock(store.path, tmp_path / "a"), pytest.raises(LockedStore):
        import_hdf5(tmp_path / "x.h5", tmp_path / "a")


def test_a_record_of_another_format_is_kept_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = grown(tmp_path / "a")
    export_hdf5(store.path, tmp_path / "x.h5")
    real = write_shard

    def newer(*words: object) -> object:
        written = real(*words)  # type: ignore[arg-type]
        path = record_path(words[0].path, words[1])  # type: ignore[attr-defined, arg-type]
        path.write_bytes(path.read_bytes() + b"\n")
        return written

    monkeypatch.setattr("unialign.pipeline.exchange.hdf5_import.write_shard", newer)
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
