"""A store copied to object storage: the same bytes, once, in an order in which it may be interrupted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.cache.made_remote import check_all, made
from tests.cache.test_store import tree_digest
from tests.pipeline.extraction.test_remote_sources import quick, s3
from unialign.cache.remote import putting
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.cli import app
from unialign.errors import CacheProblem, DamagedStore, UsageError
from unialign.pipeline.exchange import remote_export
from unialign.pipeline.exchange.remote_export import export_remote

__all__ = ["quick", "s3"]


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    """The URL of an empty folder."""
    name = f"b{abs(hash(request.node.name)) % 10**9}"
    s3.mkdir(name)
    return f"s3://{name}/stores"


def copied(s3: Any, url: str, folder: Path) -> str:
    """Digest of what is there."""
    s3.invalidate_cache()
    s3.get(url, str(folder), recursive=True)
    return tree_digest(folder)


def test_the_copy_has_the_same_bytes_and_is_sent_once(s3: Any, bucket: str, tmp_path: Path) -> None:
    store = made(tmp_path / "cache", "none", bad=[5])
    words = ["cache", "export", str(store.path), bucket, "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["file"] == f"{bucket}/{store.path.name}"
    whole = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert (found["format"], found["bytes"]) == ("store", whole)
    assert copied(s3, found["file"], tmp_path / "copy") == tree_digest(store.path)
    reader = RemoteReader(found["file"])
    assert reader.ids[0] == "clip000"
    # Again: only the index, which is always sent.
    again = json.loads(CliRunner().invoke(app, words).stdout.splitlines()[-1])
    assert again["bytes"] == (store.path / "records" / "index.bin").stat().st_size


@pytest.mark.parametrize("number", [0, 7, 16])
def test_an_interrupted_copy_is_no_store_and_goes_on(
    s3: Any, bucket: str, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_export, "AT_ONCE", 1)
    store = made(tmp_path / "cache", "none")
    real, calls = remote_export.put, [0]

    def failing(*given: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] > number:
            raise KeyboardInterrupt
        real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(remote_export, "put", failing)
        with pytest.raises(KeyboardInterrupt):
            export_remote(store.path, bucket)
    s3.invalidate_cache()
    with pytest.raises(CacheProblem):
        RemoteReader(f"{bucket}/{store.path.name}")
    url, _ = export_remote(store.path, bucket)
    check_all(RemoteReader(url))
    assert copied(s3, url, tmp_path / "copy") == tree_digest(store.path)


def test_larger_files_go_in_parts(s3: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(putting, "PART", 5 << 20)  # S3 takes no smaller ones
    parts: list[str] = []
    real = type(s3)._call_s3

    async def watched(self: Any, method: str, *given: Any, **options: Any) -> Any:
        parts.append(method)
        return await real(self, method, *given, **options)

    monkeypatch.setattr(type(s3), "_call_s3", watched)
    (tmp_path / "large").write_bytes(bytes(range(256)) * (11 << 12))
    (tmp_path / "store").mkdir()
    shutil.move(tmp_path / "large", tmp_path / "store" / "large")
    target = remote_export._Target(remote_export.Remote(f"{bucket}/x"), tmp_path / "store", overwrite=False)
    assert target.put(tmp_path / "store" / "large") == 11 << 20
    assert parts.count("upload_part") >= 2
    s3.invalidate_cache()
    assert s3.cat(f"{bucket}/x/large") == (tmp_path / "store" / "large").read_bytes()


def test_another_store_under_the_same_name_is_not_mixed_with_it(s3: Any, bucket: str, tmp_path: Path) -> None:
    first = made(tmp_path / "one", "none")
    other = made(tmp_path / "two", "none", shift=3)
    url, _ = export_remote(first.path, bucket)
    with pytest.raises(UsageError, match="is there and says something else"):
        export_remote(other.path, bucket)
    check_all(RemoteReader(url))
    # A writer that comes between the look and the write is found by the storage itself.
    target = remote_export._Target(remote_export.Remote(url), other.path, overwrite=False)
    target.known.clear()
    with pytest.raises(UsageError, match="is there and says something else"):
        target.put(other.path / "records" / "000000.json")
    export_remote(other.path, bucket, overwrite=True)
    assert copied(s3, url, tmp_path / "copy") == tree_digest(other.path)


def test_a_damaged_store_is_not_copied(bucket: str, tmp_path: Path) -> None:
    store = made(tmp_path / "cache", "none")
    shard = next(path for path in sorted(store.path.rglob("*")) if "/c/1" in str(path) and path.is_file())
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedStore, match="is not what its record says"):
        export_remote(store.path, bucket)
    (store.path / "records" / "index.bin").unlink()
    with pytest.raises(UsageError, match="has no index yet"):
        export_remote(store.path, bucket)


def test_what_takes_no_files_is_one_clear_error(s3: Any, tmp_path: Path) -> None:
    store = made(tmp_path / "cache", "none")
    with pytest.raises(CacheProblem, match=r"cannot be written \(\w+\); check the address"):
        export_remote(store.path, "s3://bucket-that-nobody-made/stores")
    with pytest.raises(UsageError, match="a web server takes no files"):
        export_remote(store.path, "https://host/stores")
    done = CliRunner().invoke(app, ["cache", "export", str(store.path), "s3://b/x", "--format", "npy"])
    assert "--format does not go with s3://b/x" in str(done.exception)


def test_any_storage_of_fsspec_will_do(tmp_path: Path) -> None:
    store = made(tmp_path / "cache", "none")
    url, _ = export_remote(store.path, f"file://{tmp_path}/copies")
    assert tree_digest(tmp_path / "copies" / store.path.name) == tree_digest(store.path)
    assert url.endswith(store.path.name)
