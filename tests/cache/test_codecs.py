"""Contract of compressed stores: the same values by every codec, plain Zarr, nothing decoded that was not checked."""

import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numcodecs
import numpy as np
import pytest
import tensorstore
import zarr
import zarrs  # noqa: F401 - registers the codec pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.cache.test_store import ARRAYS, sample, tree_digest
from tests.made_extractor import extract, make_files
from unialign.cache.arrays import ArraySpec
from unialign.cache.codecs import CODECS, chunk_payload, sample_checksum, trailer, zstd_size
from unialign.cache.keys import Key, digest
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry, read_record, record_path
from unialign.cache.shards import decode_sample, encode_shard, read_index, read_sample
from unialign.cache.store import Store, create_store, grow_store, json_bytes, open_store, write_shard
from unialign.cache.verify import verify_store
from unialign.cli import app
from unialign.errors import DamagedStore
from unialign.pipeline.config import ExtractSection

KEY = Key({"extractor": "made", "revision": 1})


def new_store(path: Path, codec: str, arrays: tuple[ArraySpec, ...] = ARRAYS, shard_samples: int = 4) -> Store:
    return create_store(Store(path, "made", "poses", KEY, arrays, shard_samples, {}, codec))


def build(path: Path, codec: str, num_samples: int = 6) -> Store:
    store = new_store(path, codec)
    grow_store(store, 2)
    for shard in range(2):
        numbers = range(shard * 4, min(shard * 4 + 4, num_samples))
        write_shard(store, shard, [Entry(f"clip{n:03d}", "ok") for n in numbers], [sample(n) for n in numbers])
    return store


@st.composite
def columns(draw: st.DrawFn) -> tuple[ArraySpec, list[np.ndarray]]:
    """An array of any kind with up to four samples: noise, zeros, NaN, or slow change that compresses well."""
    dtype = np.dtype(draw(st.sampled_from(["uint8", "int32", "int64", "float16", "float32", "float64"])))
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=4)))
    ragged = bool(shape) and draw(st.booleans())
    spec = ArraySpec("x", dtype.name, shape, tuple("abcd"[: len(shape)]), ragged, draw(st.integers(0, 9)))
    values = []
    for seed in range(draw(st.integers(1, 4))):
        size = (draw(st.integers(1, shape[0])), *shape[1:]) if ragged else shape
        noise = np.random.default_rng(seed).integers(0, 250, size=size)
        kind = draw(st.sampled_from(["noise", "zeros", "nan", "slow"]))
        value = {"noise": noise, "zeros": noise * 0, "slow": noise // 120, "nan": noise * np.nan}[kind]
        values.append(np.asarray(value if dtype.kind == "f" or kind != "nan" else noise).astype(dtype))
    return spec, values


@settings(max_examples=15, deadline=None)
@given(columns())
def test_every_codec_gives_back_the_same_values(column: tuple[ArraySpec, list[np.ndarray]]) -> None:
    spec, values = column
    ids = [f"clip{n}" for n in range(len(values))]
    for codec in CODECS:
        with tempfile.TemporaryDirectory() as folder:
            store = new_store(Path(folder, "x.zarr"), codec, (spec,))
            grow_store(store, 1)
            write_shard(store, 0, [Entry(name, "ok") for name in ids], [{"x": value} for value in values])
            reader = StoreReader(store.path)
            for name, value in zip(ids, values, strict=True):
                got = reader.read_one(name)["x"]
                assert (got.dtype, got.shape, got.tobytes()) == (value.dtype, value.shape, value.tobytes())
            assert verify_store(store.path) == []


@pytest.mark.parametrize("codec", CODECS)
def test_zarr_tensorstore_and_zarrs_read_the_same_numbers(tmp_path: Path, codec: str) -> None:
    store = build(tmp_path / "x.zarr", codec)
    for spec in ARRAYS:
        path = store.path / spec.name
        values = np.asarray(zarr.open_array(path, mode="r")[...])
        kvstore = {"driver": "file", "path": str(path)}
        other = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result().read().result()
        np.testing.assert_array_equal(values, other)
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            np.testing.assert_array_equal(values, np.asarray(zarr.open_array(path, mode="r")[...]))
        for n in range(6):
            expected = sample(n)[spec.name]
            np.testing.assert_array_equal(values[n][: len(expected)] if spec.ragged else values[n], expected)
            if spec.ragged and spec.dtype == "float16":
                assert np.isnan(values[n][len(expected) :]).all()


def test_a_store_says_its_codec_and_keeps_it(tmp_path: Path) -> None:
    for codec in CODECS:
        store = build(tmp_path / f"{codec}.zarr", codec)
        group = json.loads((store.path / "zarr.json").read_bytes())["attributes"]["unialign"]
        inner = json.loads((store.path / "feature" / "zarr.json").read_bytes())["codecs"][0]["configuration"]["codecs"]
        assert group["codec"] == codec
        assert group.get("numcodecs") == (None if codec == "none" else numcodecs.__version__)
        assert [each["name"] for each in inner] == {
            "none": ["bytes", "crc32c"],
            "zstd": ["bytes", "zstd"],
            "blosc": ["bytes", "blosc", "crc32c"],
        }[codec]
        assert open_store(store.path) == store
        assert create_store(replace(store, codec="none")).codec == codec
        assert open_store(store.path).attributes == {}


def test_an_unknown_codec_and_a_store_that_says_none(tmp_path: Path) -> None:
    path = new_store(tmp_path / "x.zarr", "none").path
    body = json.loads((path / "zarr.json").read_bytes())
    mine = body["attributes"]["unialign"]
    del mine["digest"], mine["codec"]
    body["attributes"]["unialign"] = {**mine, "digest": digest(mine)}
    (path / "zarr.json").write_bytes(json_bytes(body))
    assert open_store(path).codec == "none"
    mine["codec"] = "lzma"
    body["attributes"]["unialign"] = {**mine, "digest": digest(mine)}
    (path / "zarr.json").write_bytes(json_bytes(body))
    with pytest.raises(DamagedStore, match="unknown codec 'lzma'; known: none, zstd, blosc"):
        open_store(path)


def test_bytes_are_the_same_in_another_process_that_would_use_threads(tmp_path: Path) -> None:
    program = (
        "import hashlib, numpy, numcodecs.blosc; numcodecs.blosc.set_nthreads(4)\n"
        "from unialign.cache.codecs import CODECS\n"
        "data = numpy.cumsum(numpy.random.default_rng(0).integers(0, 3, size=1_000_000)).astype('int32').tobytes()\n"
        "print(*[hashlib.sha256(each.encode(data, 4)).hexdigest() for each in CODECS.values()])"
    )
    environment = {**os.environ, "BLOSC_NTHREADS": "4", "BLOSC_CLEVEL": "1"}
    runs = [
        subprocess.run([sys.executable, "-c", program], env=each, capture_output=True, text=True, check=True).stdout
        for each in (environment, environment, dict(os.environ))
    ]
    assert len(set(runs)) == 1
    for codec in CODECS:
        assert tree_digest(build(tmp_path / "a" / codec, codec).path) == tree_digest(
            build(tmp_path / "b" / codec, codec).path
        )


SPEC = ArraySpec("x", "float16", (8, 5), ("frame", "channel"), ragged=True, chunk=4)


def slow(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).integers(0, 3, size=(8, 5))).astype("float16")


@pytest.mark.parametrize("codec", CODECS)
def test_every_flipped_bit_and_every_cut_of_a_chunk_is_found(codec: str) -> None:
    payload = CODECS[codec].encode(slow(1)[:4].tobytes(), 2)
    stored = payload + trailer(codec, payload)
    np.testing.assert_array_equal(decode_sample(SPEC, [stored], 4, codec=codec), slow(1)[:4])
    flipped = [
        stored[:n] + bytes([stored[n] ^ (1 << bit)]) + stored[n + 1 :] for n in range(len(stored)) for bit in range(8)
    ]
    for damaged in (*flipped, *(stored[:n] for n in range(len(stored))), stored + b"x"):
        # A few bits of a zstd header mean nothing; the values are right or nothing is given.
        with suppress(DamagedStore):
            got = decode_sample(SPEC, [damaged], 4, codec=codec)
            assert (codec, got.tobytes()) == ("zstd", slow(1)[:4].tobytes())
        with pytest.raises(DamagedStore, match=r"^x: .*unialign extract MODALITY --repair"):
            decode_sample(SPEC, [damaged], 4, codec=codec, checksum=sample_checksum([payload]))


@pytest.mark.parametrize("codec", ["zstd", "blosc"])
def test_a_chunk_that_unpacks_to_too_much_is_rejected_before_memory_is_taken(codec: str) -> None:
    bomb = CODECS[codec].encode(bytes(64 << 20), 2)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(DamagedStore, match="67108864 bytes instead of 40"):
            decode_sample(SPEC, [bomb + trailer(codec, bomb)], 4, codec=codec)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_chunk_of_another_size_is_rejected_by_every_codec() -> None:
    for codec in CODECS.values():
        for size in (38, 42):
            with pytest.raises(ValueError, match=f"{size} bytes instead of 40"):
                codec.decode(codec.encode(bytes(size), 2), 40)
    with pytest.raises(ValueError, match="blosc"):
        # The header says more than there is: the library would read on behind the end.
        CODECS["blosc"].decode(CODECS["blosc"].encode(bytes(40), 2)[:-1], 40)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 1 << 20])
def test_the_size_in_a_zstd_header_is_read_in_every_width(size: int) -> None:
    data = np.random.default_rng(0).bytes(size)
    assert zstd_size(CODECS["zstd"].encode(data, 1)) == size
    with pytest.raises(ValueError, match="checksum"):
        zstd_size(bytes(numcodecs.Zstd(level=3, checksum=False).encode(data)))


@pytest.mark.parametrize("codec", CODECS)
def test_chunks_of_another_sample_are_found_without_reading_the_shard(codec: str) -> None:
    parts, checksums = encode_shard(SPEC, [slow(1), slow(2), None], 4, codec)
    data = memoryview(b"".join(parts))
    index = read_index(SPEC, data, 4, "x")
    assert list(checksums) == [0, 1]
    read = {"codec": codec, "name": "x/c/0/0"}
    np.testing.assert_array_equal(read_sample(SPEC, data, index[1], 8, checksum=checksums[1], **read), slow(2))
    # Whole chunks with right checksums of their own: only what the record says of the sample can tell.
    np.testing.assert_array_equal(read_sample(SPEC, data, index[1], 8, **read), slow(2))
    for rows in (index[1], index[0][::-1], np.stack([index[0][0], index[1][1]])):
        with pytest.raises(DamagedStore, match=r"x/c/0/0: the chunks of a sample are not those .* --repair"):
            read_sample(SPEC, data, rows, 8, checksum=checksums[0], **read)


def test_the_checksum_of_a_sample_is_that_of_its_payloads_without_the_checksums_between(tmp_path: Path) -> None:
    for codec in CODECS:
        store = build(tmp_path / f"{codec}.zarr", codec)
        record = read_record(record_path(store.path, 0))
        for spec in ARRAYS:
            data = memoryview(store.shard_path(spec.name, 0).read_bytes())
            for entry, rows in zip(record.entries, read_index(spec, data, 4, "x"), strict=True):
                stored = [bytes(data[at : at + size]) for at, size in rows.tolist() if at < 2**64 - 1]
                assert entry.checksums[spec.name] == sample_checksum([chunk_payload(codec, each) for each in stored])
        if codec == "none":
            value = sample(0)["feature"]
            assert record.entries[0].checksums["feature"] == sample_checksum([value.tobytes()])


def test_an_index_that_wraps_around_is_rejected() -> None:
    parts, _ = encode_shard(SPEC, [slow(1)], 1)
    index = np.array([[2**64 - 2, 3], [0, 44]], dtype="<u8").tobytes()
    with pytest.raises(DamagedStore, match="outside the file"):
        read_index(SPEC, memoryview(b"".join([*parts[:-2], index, trailer("none", index)])), 1, "x")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", ["flip", "swap"])
def test_damage_of_compressed_stores_is_named_and_rejected(tmp_path: Path, codec: str, kind: str) -> None:
    store = build(tmp_path / "x.zarr", codec, num_samples=8)
    victim = store.shard_path("keypoints", 1)
    data = victim.read_bytes()
    victim.write_bytes(
        bytes([data[0] ^ 1]) + data[1:] if kind == "flip" else store.shard_path("keypoints", 0).read_bytes()
    )
    assert [(found.shard, found.file) for found in verify_store(store.path)] == [(1, "keypoints/c/1/0/0/0/0")]
    with pytest.raises(DamagedStore):
        StoreReader(store.path).read_one("clip005")


@pytest.mark.parametrize("codec", CODECS)
def test_an_extraction_makes_the_same_values_by_every_codec(tmp_path: Path, codec: str) -> None:
    sources = make_files(tmp_path / "files", 6, bad=(2,))
    plain, done = extract(tmp_path / "plain", sources), extract(tmp_path / "cache", sources, codec=codec)
    assert (done.key, open_store(done.store).codec) == (plain.key, codec)
    one, two = StoreReader(plain.store), StoreReader(done.store)
    for name in one.ids:
        for array, value in one.read_one(name).items():
            np.testing.assert_array_equal(two.read_one(name)[array], value)
    # A store that exists keeps its codec.
    more = extract(tmp_path / "cache", make_files(tmp_path / "files", 9), codec="none")
    assert (more.extracted, open_store(more.store).codec, verify_store(more.store)) == (3, codec, [])


def test_the_command_line_takes_the_codecs_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_args(ExtractSection.model_fields["codec"].annotation) == tuple(CODECS)
    for name in ("jump", "wave"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        (tmp_path / "clips" / name / "broken.mp4").write_bytes(b"not a video")
    monkeypatch.chdir(tmp_path)
    command = ["extract", "frames", "--dataset", "folder", "--root", "clips", "--json"]
    made = CliRunner().invoke(app, [*command, "--codec", "zstd"])
    assert made.exit_code == 3, made.output
    assert open_store(Path(json.loads(made.stdout.splitlines()[-1])["store"])).codec == "zstd"
    refused = CliRunner().invoke(app, [*command, "--codec", "lzma"])
    assert refused.exit_code != 0
