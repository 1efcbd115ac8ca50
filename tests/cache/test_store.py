"""Contract of a store: plain Zarr, nothing served that no record covers, growth without rewriting."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
import zarrs  # noqa: F401 - registers the codec pipeline

from unialign.cache.arrays import ArraySpec
from unialign.cache.index import forget_shard
from unialign.cache.keys import Key
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry, record_path
from unialign.cache.repair import restore_metadata
from unialign.cache.store import (
    Store,
    create_store,
    grow_store,
    open_store,
    store_path,
    write_shard,
)
from unialign.cache.verify import damage_rows, verify_store
from unialign.errors import DamagedStore, MissingCache

ARRAYS = (
    ArraySpec("keypoints", "float16", (40, 2, 3, 3), ("frame", "person", "joint", "coordinate"), ragged=True, chunk=16),
    ArraySpec("feature", "float32", (5,), ("channel",)),
    ArraySpec("count", "int64", (), ()),
    ArraySpec("pictures", "uint8", (100,), ("byte",), ragged=True, chunk=32),
)


def sample(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "keypoints": generator.normal(size=(int(generator.integers(1, 41)), 2, 3, 3)).astype("float16"),
        "feature": generator.normal(size=5).astype("float32"),
        "count": np.asarray(seed, dtype="int64"),
        "pictures": generator.integers(0, 255, size=int(generator.integers(1, 101)), dtype="uint8"),
    }


def build(
    cache: Path, num_samples: int = 10, shard_samples: int = 4, bad: tuple[int, ...] = (), codec: str = "none"
) -> Store:
    key = Key({"extractor": "fake", "revision": 1})
    store = create_store(
        Store(
            store_path(cache, "made", "poses", key),
            "made",
            "poses",
            key,
            ARRAYS,
            shard_samples,
            {"licence": "none"},
            codec,
        )
    )
    num_shards = -(-num_samples // shard_samples)
    grow_store(store, num_shards)
    for shard in range(num_shards):
        numbers = range(shard * shard_samples, min((shard + 1) * shard_samples, num_samples))
        entries = [Entry(f"clip{n:03d}", "truncated" if n in bad else "ok", f"sha256:{n}") for n in numbers]
        write_shard(store, shard, entries, [{} if n in bad else sample(n) for n in numbers])
    return store


def tree_digest(path: Path) -> str:
    checksum = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            checksum.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return checksum.hexdigest()


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    reader = StoreReader(build(tmp_path).path)
    assert reader.ids == tuple(f"clip{n:03d}" for n in range(10))
    for n in range(10):
        for name, value in sample(n).items():
            got = reader.read_one(f"clip{n:03d}")[name]
            assert got.dtype == value.dtype
            np.testing.assert_array_equal(got, value)


def test_zarr_tensorstore_and_zarrs_read_the_same_numbers(tmp_path: Path) -> None:
    store = build(tmp_path)
    for spec in ARRAYS:
        path = store.path / spec.name
        plain = zarr.open_array(path, mode="r")
        assert plain.metadata.dimension_names == ("sample", *spec.dims)
        values = np.asarray(plain[...])
        other = (
            tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, read=True)
            .result()[...]
            .read()
            .result()
        )
        np.testing.assert_array_equal(values, other)
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            np.testing.assert_array_equal(values, np.asarray(zarr.open_array(path, mode="r")[...]))
        assert values.shape[0] == 12
        for n in range(10):
            expected = sample(n)[spec.name]
            np.testing.assert_array_equal(values[n][: len(expected)] if spec.ragged else values[n], expected)
            if spec.ragged and spec.dtype == "float16":
                assert np.isnan(values[n][len(expected) :]).all()


def test_all_fill_valued_samples_are_still_stored(tmp_path: Path) -> None:
    key = Key({"extractor": "fake", "revision": 2})
    specs = (ArraySpec("feature", "float32", (5,), ("channel",)), ArraySpec("count", "int64", (), ()))
    store = create_store(Store(store_path(tmp_path, "made", "text", key), "made", "text", key, specs, 2, {}))
    grow_store(store, 1)
    write_shard(store, 0, [Entry("zero", "ok")], [{"feature": np.full(5, np.nan, "float32"), "count": np.asarray(0)}])
    read = StoreReader(store.path).read_one("zero")
    assert np.isnan(read["feature"]).all()
    assert read["count"] == 0


def test_quarantined_and_unknown_samples_are_rejected(tmp_path: Path) -> None:
    reader = StoreReader(build(tmp_path, bad=(3,)).path)
    assert "clip003" not in reader.ids
    with pytest.raises(MissingCache, match="quarantined as truncated"):
        reader.read_one("clip003")
    with pytest.raises(MissingCache, match="never extracted"):
        reader.read_one("clip999")


def test_growing_adds_shards_and_rewrites_none(tmp_path: Path) -> None:
    store = build(tmp_path, num_samples=6)
    before = {path: path.read_bytes() for path in store.path.rglob("c/*/**/*") if path.is_file()}
    grow_store(store, 3)
    write_shard(store, 2, [Entry("later", "ok", "sha256:x")], [sample(77)])
    assert all(path.read_bytes() == data for path, data in before.items())
    assert "later" in StoreReader(store.path).ids
    assert verify_store(store.path) == []


def test_a_later_shard_supersedes_an_earlier_sample(tmp_path: Path) -> None:
    store = build(tmp_path, num_samples=4, bad=(1,))
    grow_store(store, 2)
    write_shard(store, 1, [Entry("clip001", "ok", "sha256:new")], [sample(42)])
    np.testing.assert_array_equal(StoreReader(store.path).read_one("clip001")["feature"], sample(42)["feature"])


def test_two_builds_are_byte_identical(tmp_path: Path) -> None:
    assert tree_digest(build(tmp_path / "a").path) == tree_digest(build(tmp_path / "b").path)


@pytest.mark.parametrize("kind", ["delete", "empty", "cut", "append", "flip", "swap", "foreign"])
def test_damage_is_rejected_by_reads_and_named_by_verify(tmp_path: Path, kind: str) -> None:
    store = build(tmp_path)
    victim, sibling = store.shard_path("feature", 1), store.shard_path("feature", 0)
    data = victim.read_bytes()
    match kind:
        case "delete":
            victim.unlink()
        case "empty":
            victim.write_bytes(b"")
        case "cut":
            victim.write_bytes(data[: len(data) // 2])
        case "append":
            victim.write_bytes(data + b"x")
        case "flip":
            victim.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        case "swap":
            victim.write_bytes(sibling.read_bytes())
        case "foreign":
            victim.write_bytes(build(tmp_path / "other", num_samples=12).shard_path("feature", 2).read_bytes())
    named = verify_store(store.path)
    assert [(found.shard, found.file) for found in named] == [(1, "feature/c/1/0")]
    with pytest.raises(DamagedStore):
        StoreReader(store.path).read_one("clip005")


def test_every_flipped_byte_of_a_record_is_found(tmp_path: Path) -> None:
    store = build(tmp_path, num_samples=4)
    path = record_path(store.path, 0)
    data = path.read_bytes()
    for position in range(0, len(data) - 1, 5):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        assert verify_store(store.path), position
        with pytest.raises(DamagedStore):
            StoreReader(store.path)


def test_changed_metadata_is_named(tmp_path: Path) -> None:
    store = build(tmp_path)
    path = store.path / "feature" / "zarr.json"
    body = json.loads(path.read_bytes())
    body["fill_value"] = 0.0
    path.write_text(json.dumps(body))
    assert [found.file for found in verify_store(store.path)] == ["feature/zarr.json"]


def test_a_shard_without_a_record_is_served_to_nobody(tmp_path: Path) -> None:
    store = build(tmp_path)
    record_path(store.path, 2).unlink()
    assert "clip009" not in StoreReader(store.path).ids
    assert {found.file for found in verify_store(store.path)} == {
        f"{spec.name}/c/2" + "/0" * len(spec.shape) for spec in ARRAYS
    }
    forget_shard(store, 2)
    assert verify_store(store.path) == []


def test_a_store_of_another_key_is_not_taken_over(tmp_path: Path) -> None:
    store = build(tmp_path)
    other = Store(store.path, "made", "poses", Key({"extractor": "fake", "revision": 9}), ARRAYS, 4, {})
    with pytest.raises(DamagedStore, match="another key"):
        create_store(other)
    assert open_store(store.path).key == store.key


def test_arrays_entries_and_shards_that_make_no_sense_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="array x: 2 axes but 1 names"):
        ArraySpec("x", "float32", (5, 4), ("frame",))
    with pytest.raises(ValueError, match="array x: a scalar cannot be ragged"):
        ArraySpec("x", "float32", (), (), ragged=True)
    with pytest.raises(ValueError, match="sample a: unknown status 'fine'"):
        Entry("a", "fine")
    store = build(tmp_path)
    with pytest.raises(ValueError, match="a shard holds 1 to 4 samples, 5 given"):
        write_shard(store, 3, [Entry(str(n), "timeout") for n in range(5)], [{}] * 5)
    with pytest.raises(MissingCache, match="no array 'speed'; it has keypoints, feature, count, pictures"):
        store.array("speed")
    with pytest.raises(MissingCache, match="is not a store; `unialign cache ls`"):
        open_store(tmp_path / "none.zarr")


def test_a_record_in_the_place_of_another_is_rejected(tmp_path: Path) -> None:
    store = build(tmp_path)
    record_path(store.path, 1).write_bytes(record_path(store.path, 0).read_bytes())
    with pytest.raises(DamagedStore, match=r"000001.json: the record belongs to another shard or format"):
        StoreReader(store.path)


def test_shards_without_features_have_a_record_and_no_files(tmp_path: Path) -> None:
    store = build(tmp_path, num_samples=4, bad=(0, 1, 2, 3))
    assert StoreReader(store.path).ids == ()
    assert verify_store(store.path) == []
    assert not (store.path / "feature" / "c").exists()


def test_growing_never_shrinks_and_metadata_is_restored(tmp_path: Path) -> None:
    store = build(tmp_path)
    whole = tree_digest(store.path)
    grow_store(store, 1)
    restore_metadata(store)
    assert tree_digest(store.path) == whole
    (store.path / "feature" / "zarr.json").unlink()
    (store.path / "count" / "zarr.json").write_text("{}")
    body = json.loads((store.path / "keypoints" / "zarr.json").read_bytes())
    (store.path / "keypoints" / "zarr.json").write_text(
        json.dumps({**body, "shape": [4, *body["shape"][1:]]}, indent=2) + "\n"
    )
    named = [(found.file, found.problem.partition(" (")[0]) for found in verify_store(store.path)]
    unreadable = "the array's metadata cannot be read"
    assert ("count/zarr.json", unreadable) in named
    assert ("feature/zarr.json", unreadable) in named
    assert ("keypoints/zarr.json", "the sample axis is shorter than the records") in named
    restore_metadata(store)
    assert tree_digest(store.path) == whole


def test_verify_names_what_is_no_part_of_the_store(tmp_path: Path) -> None:
    store = build(tmp_path)
    (store.path / "notes.txt").write_text("mine")
    (store.path / "records" / ".tmp-0123-000009.json").write_text("cut")
    named = verify_store(store.path)
    assert [(found.file, found.shard) for found in named] == [
        ("notes.txt", None),
        ("records/.tmp-0123-000009.json", None),
    ]
    assert [found.problem.split()[0] for found in named] == ["not", "a"]
    assert damage_rows(named)[0] == {"shard": None, "file": "notes.txt", "problem": "not a file of this store"}
    body = json.loads((store.path / "zarr.json").read_bytes())
    body["attributes"]["unialign"]["collection"] = "other"
    (store.path / "zarr.json").write_text(json.dumps(body))
    (found,) = verify_store(store.path)
    assert (found.file, "does not match its own digest" in found.problem) == ("zarr.json", True)


def test_arrays_of_one_sample_that_differ_in_length_are_rejected(tmp_path: Path) -> None:
    specs = tuple(ArraySpec(name, "float32", (9,), ("frame",), ragged=True) for name in ("one", "two"))
    key = Key({"extractor": "fake", "revision": 3})
    store = create_store(Store(store_path(tmp_path, "made", "poses", key), "made", "poses", key, specs, 2, {}))
    with pytest.raises(ValueError, match="disagree on the length of axis 'frame'"):
        write_shard(
            store, 0, [Entry("a", "ok")], [{name: np.zeros(n, "float32") for name, n in (("one", 4), ("two", 5))}]
        )


def test_making_a_store_leaves_no_thread_behind(tmp_path: Path) -> None:
    """Zarr's own is joined for a fifth of a second at exit, and on a loaded machine a traceback followed."""
    code = (
        "import threading; from pathlib import Path; from tests.cache.test_store import build\n"
        "from unialign.cache.reader import StoreReader\n"
        f"store = build(Path({str(tmp_path)!r})); StoreReader(store.path).read_one('clip001')\n"
        "print([thread.name for thread in threading.enumerate() if 'unialign' not in thread.name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout, done.stderr) == ("['MainThread']\n", "")
