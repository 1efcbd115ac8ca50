"""Contract of fetched batches: the numbers of a local uncompressed store, wherever the bytes come from, or an error."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.made_remote import Site, made, serving, window
from tests.cache.test_store import sample
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Column
from unialign.cache.codecs import CODECS
from unialign.cache.reader import StoreReader
from unialign.cache.remote import block_cache, ranges
from unialign.cache.remote.fetching import FetchingReader
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.cache.shards import encode_shard
from unialign.cache.store import Store
from unialign.errors import DamagedStore, MissingCache

IDS = [f"clip{n:03d}" for n in range(11)]
LIMIT = 1 << 30


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    for codec in CODECS:
        made(folder / codec, codec)
    with serving(folder) as site:
        yield site


def url_of(site: Site, store: Store) -> str:
    return f"{site.url}/{store.path.relative_to(site.folder).as_posix()}"


def store_of(site: Site, codec: str) -> Path:
    return next((site.folder / codec).glob("*/*/*.zarr"))


def columns(reader: StoreReader | RemoteReader, name: str, length: int = 9) -> dict[str, Column]:
    windows = {"keypoints": length, "pictures": 50}
    return {f"{name}-{spec.name}": Column(reader, spec.name, windows.get(spec.name, 0)) for spec in reader.store.arrays}


@pytest.fixture(scope="module")
def everywhere(site: Site, tmp_path_factory: pytest.TempPathFactory) -> FetchingReader:
    """Each codec locally, by HTTP, and by HTTP with a disk cache, all in one batch."""
    joined: dict[str, Column] = {}
    for codec in CODECS:
        path = store_of(site, codec)
        url = f"{site.url}/{path.relative_to(site.folder).as_posix()}"
        joined |= columns(StoreReader(path), f"{codec}-local")
        joined |= columns(RemoteReader(url), f"{codec}-http")
        joined |= columns(RemoteReader(url, tmp_path_factory.mktemp("blocks"), LIMIT), f"{codec}-cached")
    return FetchingReader(joined, IDS)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.floats(0, 1), st.floats(0, 1)), max_size=9))
def test_every_codec_and_place_gives_any_entries_of_the_samples(
    everywhere: FetchingReader, asked: list[tuple[int, float, float]]
) -> None:
    loose = FetchingReader(everywhere.columns, IDS, by_entry=everywhere.columns)
    assert pickle.loads(pickle.dumps(loose)).by_entry == loose.by_entry
    positions = np.array([position for position, _, _ in asked], dtype=np.int64)
    for number, name in enumerate(loose.columns):
        lengths = loose.lengths[positions, number]
        starts = (lengths * [start for _, start, _ in asked]).astype(np.int64)
        counts = ((lengths - starts) * [share for _, _, share in asked]).astype(np.int64)
        found = loose.entries(name, positions, starts, counts)
        for place, position in enumerate(positions.tolist()):
            expected = np.atleast_1d(sample(position)[name.rpartition("-")[2]])
            part = expected[starts[place] : starts[place] + counts[place]]
            np.testing.assert_array_equal(found[place], part)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.floats(0, 0.99)), max_size=12))
def test_every_codec_and_place_gives_the_windows_of_the_samples(
    everywhere: FetchingReader, picks: list[tuple[int, float]]
) -> None:
    positions = np.array([position for position, _ in picks], dtype=np.int64)
    where = np.array([part for _, part in picks]).reshape(-1, 1)
    starts = (everywhere.lengths[positions] * where).astype(np.int64)
    found = everywhere.read(positions, starts)
    for column, (name, array) in enumerate(found.items()):
        spec = name.rpartition("-")[2]
        assert array.shape == (len(picks), *everywhere.columns[name].shape)
        for row, position in enumerate(positions.tolist()):
            value = sample(position)[spec]
            if value.shape:
                value = window(value, int(starts[row, column]), array.shape[1])
            assert array.dtype == value.dtype
            np.testing.assert_array_equal(array[row], value)


def test_it_is_a_batch_reader_with_another_source(everywhere: FetchingReader, site: Site) -> None:
    mapped = BatchReader(columns(StoreReader(store_of(site, "none")), "x"), IDS)
    fetched = FetchingReader(
        columns(RemoteReader(f"{site.url}/{store_of(site, 'zstd').relative_to(site.folder)}"), "x"), IDS
    )
    assert (len(fetched), fetched.ids, fetched.sample_bytes) == (len(mapped), mapped.ids, mapped.sample_bytes)
    np.testing.assert_array_equal(fetched.lengths, mapped.lengths)
    memory = fetched.buffers(4)
    positions = np.array([3, 1, 10])
    for name, array in fetched.read(positions, buffers=memory).items():
        assert np.shares_memory(array, memory.arrays[name])
        np.testing.assert_array_equal(array, mapped.read(positions)[name])
    with pytest.raises(ValueError, match="do not fit"):
        fetched.read(np.arange(5), buffers=memory)
    with pytest.raises(IndexError):
        fetched.read(np.array([11]))
    again = pickle.loads(pickle.dumps(everywhere))
    for name, array in again.read(positions).items():
        np.testing.assert_array_equal(array, everywhere.read(positions)[name])


def test_threads_share_one_reader(everywhere: FetchingReader) -> None:
    fresh = pickle.loads(pickle.dumps(everywhere))
    expected = everywhere.read(np.arange(11))
    wrong: list[str] = []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(3):
            positions = generator.integers(0, 11, 6)
            found = fresh.read(positions)
            wrong.extend(name for name in found if found[name].tobytes() != expected[name][positions].tobytes())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_and_a_spawned_process_read_on(site: Site, tmp_path: Path) -> None:
    url = f"{site.url}/{store_of(site, 'zstd').relative_to(site.folder)}"
    code = f"""
import multiprocessing, os, pathlib
import numpy as np
from unialign.cache.remote.fetching import FetchingReader
from unialign.cache.batches.joined import Column
from unialign.cache.remote.remote_reader import RemoteReader

def total(reader):
    return float(sum(np.nan_to_num(array.astype("float64")).sum() for array in reader.read(np.arange(11)).values()))

if __name__ == "__main__":
    remote = RemoteReader({url!r}, pathlib.Path({str(tmp_path)!r}), {LIMIT})
    columns = {{"feature": Column(remote, "feature"), "keypoints": Column(remote, "keypoints", 9)}}
    reader = FetchingReader(columns, {IDS})
    expected = total(reader)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(total, [reader] * 3) == [expected] * 3, method
    uncached = RemoteReader({url!r})
    for reader in (reader, FetchingReader({{**columns, "pictures": Column(uncached, "pictures", 5)}}, {IDS})):
        expected = total(reader)
        child = os.fork()
        if not child:
            os._exit(total(reader) != expected)
        assert os.waitpid(child, 0)[1] == 0
        assert total(reader) == expected
"""
    script = tmp_path / "forks.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_only_what_the_samples_need_is_fetched_neighbors_at_once_and_blocks_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "GAP", 0)
    store = made(tmp_path, "zstd")
    with serving(tmp_path) as site:
        reader = RemoteReader(url_of(site, store))
        FetchingReader({"keypoints": Column(reader, "keypoints", 5)}, IDS).read(np.array([5, 4, 0]))
        index = [asked for asked in site.shards_asked if asked[0].endswith("c/0/0/0/0/0")]
        # Shard 0: its index, then the chunks of sample 0. Shard 1: its index, then those of 4 and 5 in one request.
        assert len(index) == 2
        assert len(site.shards_asked) == 4
        size = sum(int(stop) - int(start) + 1 for start, stop in (each[1][6:].split("-") for each in site.shards_asked))
        assert size < sum(reader.table.shards.bytes["keypoints"].tolist()[:2])
        cached = FetchingReader({"count": Column(RemoteReader(reader.url, tmp_path / "blocks", LIMIT), "count")}, IDS)
        site.asked.clear()
        cached.read(np.arange(11))
        assert len(site.shards_asked) == 3
        pickle.loads(pickle.dumps(cached)).read(np.arange(11))
        assert len(site.shards_asked) == 3


@contextmanager
def in_memory(store: Store) -> Iterator[str]:
    """A store in fsspec's own memory, under its name."""
    system = fsspec.filesystem("memory")
    root = f"/made/{store.path.name}"
    for path in store.path.rglob("*"):
        if path.is_file():
            system.pipe(f"{root}/{path.relative_to(store.path).as_posix()}", path.read_bytes())
    yield f"memory:/{root}"
    system.rm("/made", recursive=True)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("blocks", [False, True])
def test_a_flipped_byte_at_the_other_end_never_gives_a_number(tmp_path: Path, codec: str, blocks: bool) -> None:
    store = made(tmp_path, codec, 4)
    whole = store.shard_path("feature", 0).read_bytes()
    expected = sample(1)["feature"].tobytes()
    step = 17 if blocks else 1
    with in_memory(store) as url:
        name = f"{url.removeprefix('memory://')}/feature/c/0/0"
        refused = []
        for at in range(0, len(whole), step):
            data = bytearray(whole)
            data[at] ^= 1 << at % 8
            fsspec.filesystem("memory").pipe(name, bytes(data))
            reader = RemoteReader(url, tmp_path / f"blocks{at}" if blocks else None, LIMIT)
            batches = FetchingReader({"feature": Column(reader, "feature")}, ["clip001"])
            try:
                assert batches.read(np.array([0]))["feature"].tobytes() == expected
            except DamagedStore as error:
                refused.append(str(error))
    # The chunk itself and the index; flips in other samples' chunks do not matter here.
    assert len(refused) > len(whole) // step // 3
    assert all(f"{url}/feature/c/0/0" in each for each in refused)


@pytest.mark.parametrize("codec", CODECS)
def test_swapped_samples_and_shards_are_found(tmp_path: Path, codec: str) -> None:
    store, other = made(tmp_path, codec), made(tmp_path / "other", codec, shift=100)
    ours = store.shard_path("feature", 0)
    values = [sample(n)["feature"] for n in (1, 0, 2, 3)]
    for swapped in (
        b"".join(encode_shard(store.array("feature"), values, 4, codec)[0]),
        other.shard_path("feature", 0).read_bytes(),
        store.shard_path("feature", 1).read_bytes(),
    ):
        ours.write_bytes(swapped)
        with serving(tmp_path) as site:
            for blocks in (None, tmp_path / "blocks"):
                reader = RemoteReader(url_of(site, store), blocks, LIMIT)
                batches = FetchingReader({"feature": Column(reader, "feature")}, IDS)
                with pytest.raises(DamagedStore, match=r"not those in its record|bytes long"):
                    batches.read(np.array([5, 0]))
                with pytest.raises(DamagedStore, match=r"not those in its record|bytes long"):
                    reader.read_one("clip000", ["feature"])
                assert batches.read(np.array([5]))["feature"].tobytes() == sample(5)["feature"].tobytes()
    local = FetchingReader({"feature": Column(StoreReader(other.path), "feature")}, IDS)
    path = other.shard_path("feature", 1)
    path.write_bytes(path.read_bytes().swapcase())
    local.read(np.array([0]))
    with pytest.raises(DamagedStore, match="not what was written"):
        local.read(np.array([0, 4]))


def test_cut_and_longer_and_missing_shards_are_rejected(tmp_path: Path) -> None:
    store = made(tmp_path, "zstd")
    path = store.shard_path("feature", 0)
    whole = path.read_bytes()
    with serving(tmp_path) as site:
        for content in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"x", whole[1:]):
            path.write_bytes(content)
            for blocks in (None, tmp_path / f"blocks{len(content)}"):
                reader = RemoteReader(url_of(site, store), blocks, LIMIT)
                with pytest.raises(DamagedStore, match=f"not {len(whole)} bytes long"):
                    FetchingReader({"feature": Column(reader, "feature")}, IDS).read(np.array([1]))
        path.unlink()
        reader = RemoteReader(url_of(site, store))
        with pytest.raises(DamagedStore, match="does not exist, but the index of the store names it"):
            FetchingReader({"feature": Column(reader, "feature")}, IDS).read(np.array([1]))


def test_a_damaged_disk_cache_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "BLOCK", 256)
    store = made(tmp_path / "site", "none")
    with serving(tmp_path / "site") as site:
        reader = RemoteReader(url_of(site, store), tmp_path / "blocks", LIMIT)
        batches = FetchingReader(columns(reader, "x"), IDS)
        expected = batches.read(np.arange(11))
        site.asked.clear()
        for name, array in batches.read(np.arange(11)).items():
            np.testing.assert_array_equal(array, expected[name])
        assert not site.shards_asked
        # Behind the back of a process that has checked the blocks already: chunks, then indexes too.
        for closed in (False, True):
            for path in (tmp_path / "blocks").glob("*/*"):
                data = bytearray(path.read_bytes())
                data[len(data) // 3] ^= 8
                path.write_bytes(data)
            if closed:
                reader._open.clear()
            site.asked.clear()
            for name, array in batches.read(np.arange(11)).items():
                np.testing.assert_array_equal(array, expected[name])
            assert site.shards_asked


def test_a_sample_that_is_not_stored_is_rejected(tmp_path: Path) -> None:
    store = made(tmp_path, "blosc", bad=(2,))
    with serving(tmp_path) as site:
        reader = RemoteReader(url_of(site, store))
        with pytest.raises(MissingCache, match="quarantined"):
            FetchingReader({"feature": Column(reader, "feature")}, IDS)


@pytest.mark.parametrize("codec", CODECS)
def test_a_chunk_that_went_bad_after_its_shard_was_checked_is_found(tmp_path: Path, codec: str) -> None:
    store = made(tmp_path, codec)
    reader = StoreReader(store.path)
    batches = FetchingReader({"feature": Column(reader, "feature")}, IDS)
    batches.read(np.array([0]))
    changed = reader.shard("feature", 0).index.copy()
    for bad in (2**64 - 1, changed[0, 0, 0] + 1):
        changed[1, 0] = bad, 10
        batches._sources[0].opened[0] = type(reader.shard("feature", 0))(reader.shard("feature", 0).data, changed)
        assert batches.read(np.array([0]))["feature"].tobytes() == sample(0)["feature"].tobytes()
        with pytest.raises(DamagedStore, match=f"{store.shard_path('feature', 0)}: a chunk"):
            batches.read(np.array([0, 1]))
