"""Contract of remote stores: the same answers as a local one, bounded patience, a bounded and honest disk cache."""

import errno
import logging
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from tests.cache.made_remote import Site, check_all, made, serving
from tests.cache.test_store import sample
from unialign.cache.batches.joined import Column
from unialign.cache.codecs import CODECS
from unialign.cache.index import forget_index, index_path
from unialign.cache.reader import StoreReader
from unialign.cache.records import record_path
from unialign.cache.remote import transport
from unialign.cache.remote.fetching import FetchingReader
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.cache.store import Store
from unialign.errors import CacheProblem, DamagedStore, MissingCache, UsageError

LIMIT = 1 << 30


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BACKOFF", 0.01)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    with serving(tmp_path / "site") as site:
        yield site


def url_of(site: Site, store: Store) -> str:
    return f"{site.url}/{store.path.relative_to(site.folder).as_posix()}"


@pytest.mark.parametrize("codec", CODECS)
def test_it_answers_as_the_reader_of_a_local_store(site: Site, codec: str, tmp_path: Path) -> None:
    local = StoreReader(made(site.folder, codec).path)
    url = url_of(site, local.store)
    for cache in (None, tmp_path / "blocks"):
        reader = RemoteReader(url + "/", cache, LIMIT)
        assert (reader.url, reader.where, reader.path.name) == (url, url, local.path.name)
        assert (reader.ids, reader.attributes, reader.sources()) == (local.ids, local.attributes, local.sources())
        assert (reader.store.key, reader.store.codec) == (local.store.key, codec)
        assert reader.array_attributes("feature") == local.array_attributes("feature")
        for name in (local.ids[0], local.ids[9]):
            assert (reader.status(name), reader.source(name)) == ("ok", local.source(name))
            assert (reader.place(name), reader.length(name, "frame")) == (
                local.place(name),
                local.length(name, "frame"),
            )
        assert reader.rows(reader.ids[3:5]).tolist() == [3, 4]
        check_all(reader)
        assert set(pickle.loads(pickle.dumps(reader)).read_one("clip004", ["count"])) == {"count"}
        with pytest.raises(MissingCache, match="never extracted"):
            reader.read_one("clip999")


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {"endpoint_url": f"http://{host}:{port}", "key": "made", "secret": "made-secret"}
    server.stop()


def test_a_store_in_s3_is_read_and_its_damage_found(s3: dict[str, Any], tmp_path: Path) -> None:
    system = fsspec.filesystem("s3", **s3)
    system.mkdir("features")
    store = made(tmp_path, "zstd")
    system.put(str(store.path), "features/stores/", recursive=True)
    url = f"s3://features/stores/{store.path.name}"
    reader = RemoteReader(url, options=s3)
    check_all(reader)
    batches = FetchingReader({"feature": Column(reader, "feature")}, reader.ids)
    np.testing.assert_array_equal(batches.read(np.array([9, 2]))["feature"][1], sample(2)["feature"])
    shard = f"features/stores/{store.path.name}/feature/c/1/0"
    whole = system.cat_file(shard)
    for content in (whole[:-1], whole[:9], whole[:5] + b"?" + whole[6:]):
        system.pipe(shard, content)
        with pytest.raises(DamagedStore, match=f"{url}/feature/c/1/0"):
            RemoteReader(url, options=s3).read_one("clip004")
    system.rm(shard)
    with pytest.raises(DamagedStore, match="does not exist"):
        RemoteReader(url, options=s3).read_one("clip004")
    with pytest.raises(MissingCache, match="it is not a store"):
        RemoteReader("s3://features/none.zarr", options=s3)
    assert "made-secret" not in f"{reader!r}{reader.remote!r}{reader.__dict__}"


def test_a_store_without_an_index_or_with_another_one_is_rejected(site: Site) -> None:
    store = made(site.folder, "none")
    url = url_of(site, store)
    with pytest.raises(MissingCache, match=r"nothing.zarr/zarr.json does not exist; it is not a store"):
        RemoteReader(f"{site.url}/nothing.zarr")
    data = index_path(store.path).read_bytes()
    for changed in (data[:-1], data[:40] + b"?" + data[41:], b""):
        index_path(store.path).write_bytes(changed)
        with pytest.raises(DamagedStore, match="not what an extraction wrote"):
            RemoteReader(url)
    forget_index(store.path)
    with pytest.raises(MissingCache, match=r"index.bin does not exist; .* run any extraction"):
        RemoteReader(url)
    store.path.joinpath("zarr.json").write_bytes(b"{}")
    with pytest.raises(DamagedStore, match=rf"{url}/zarr.json: the metadata cannot be read"):
        RemoteReader(url)


def test_urls_with_credentials_and_unknown_schemes_are_rejected() -> None:
    for url in ("https://me:hidden@host/x.zarr", "https://host/x.zarr?token=hidden"):
        with pytest.raises(UsageError, match=r"https://host/x\.zarr holds credentials") as refused:
            RemoteReader(url)
        assert "hidden" not in str(refused.value)
    with pytest.raises(UsageError, match="cannot be opened"):
        RemoteReader("nosuch://host/x.zarr")


def test_troubles_that_pass_are_waited_for_and_others_end_in_a_sentence(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(site, made(site.folder, "blosc"))
    for fault in ("busy", "cut"):
        site.faults = {fault: 3}
        check_all(RemoteReader(url))
        assert site.faults == {fault: 0}
    monkeypatch.setattr(transport, "TIMEOUT", 0.2)
    site.faults = {"slow": 1}
    check_all(RemoteReader(url))
    monkeypatch.setattr(transport, "TIMEOUT", 0.05)
    for fault, kind, reason in (
        ("busy", CacheProblem, "status 503"),
        ("cut", CacheProblem, "ClientPayloadError"),
        ("slow", CacheProblem, "TimeoutError"),
        ("refused", CacheProblem, "status 403"),
        ("gone", DamagedStore, "does not exist, but the index"),
        ("range", UsageError, "ignores ranges"),
    ):
        reader = RemoteReader(url)
        site.faults, before = {fault: 1000}, len(site.asked)
        with pytest.raises(kind, match=rf"{url}/feature/c/0/0.*{reason}") as found:
            reader.read_one("clip000", ["feature"])
        assert str(found.value).count("http") == 1
        # A missing file may be seen once more: `read_one` tries again past the cache where something is damaged.
        assert len(site.asked) - before == (1 if fault in ("refused", "range") else 2 if fault == "gone" else 4)
        site.faults = {}
        reader.read_one("clip000", ["feature"])


def test_a_server_that_is_down_is_not_asked_once_for_each_part(tmp_path: Path) -> None:
    store = made(tmp_path, "none")
    with serving(tmp_path) as site:
        url = url_of(site, store)
        reader = RemoteReader(url)
    started = time.monotonic()
    with pytest.raises(CacheProblem, match=r"cannot be read \((Client|Server)"):
        FetchingReader({"count": Column(reader, "count")}, reader.ids).read(np.arange(11))
    with pytest.raises(CacheProblem, match=r"zarr\.json cannot be read"):
        RemoteReader(url)
    assert time.monotonic() - started < 5


def test_access_that_is_rejected_by_a_file_system_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(tmp_path, "none")
    reader = RemoteReader(f"file://{store.path}")
    check_all(reader)
    system, _ = reader.remote.system()

    def refuse(*args: object, **options: object) -> bytes:
        raise PermissionError(errno.EACCES, "secret")

    monkeypatch.setattr(system, "cat_file", refuse)
    with pytest.raises(CacheProblem, match="access is denied"):
        reader.read_one("clip010")


def test_a_shard_that_no_record_names_is_not_asked_for(site: Site) -> None:
    reader = RemoteReader(url_of(site, made(site.folder, "none")))
    with pytest.raises(DamagedStore, match="no record covers"):
        reader.file("feature", 7)
    assert record_path(Path("x"), 0) == Path("x/records/000000.json")


def test_an_absent_chunk_is_rejected(site: Site) -> None:
    reader = RemoteReader(url_of(site, made(site.folder, "none")))
    reader.read_one("clip000")
    shard = reader.held("feature", 0)
    assert shard is not None
    changed = shard.index.copy()
    changed[0] = 2**64 - 1
    reader.hold("feature", 0, type(shard)(shard.file, changed))
    # The second attempt reads the index again.
    reader.read_one("clip000")
    with pytest.raises(DamagedStore, match="missing"):
        type(shard)(shard.file, changed).ranges(0, 1)
