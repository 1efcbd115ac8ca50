"""Videos behind a URL: the bytes of a local extraction, fetched once, into a bounded folder, by safe names."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from tests.cache.made_remote import Site, serving
from tests.cache.s3_server import SECRET, USER, s3_server
from tests.cache.test_store import tree_digest
from tests.stages.made_videos import moving_frames
from unialign.cache import bounded_http
from unialign.cache.remote import transport
from unialign.cli import app
from unialign.errors import CacheProblem, UnialignError, UsageError
from unialign.stages import remote_files
from unialign.stages.datasets.remote_tree import make_tree, remote_url
from unialign.stages.frame_files import content_digest
from unialign.stages.remote_files import FOLDER, Pointer, RemotePath, Spool, read_pointer
from unialign.stages.video import encode_clip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BACKOFF", 0.01)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A server that speaks S3, found as any other: by the environment."""
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", USER)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield fsspec.filesystem("s3")
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of two classes, one of them cut."""
    root = tmp_path_factory.mktemp("local") / "videos"
    for number, name in enumerate(["wave/a", "wave/b c", "jump/a", "jump/b"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        encode_clip(root / f"{name}.mp4", moving_frames(4 + number), fps=20)
    cut = root / "jump" / "b.mp4"
    cut.write_bytes(cut.read_bytes()[:900])
    return root


def extracted(root: Path | str, cache: Path, *more: str) -> dict[str, Any]:
    words = ["extract", "frames", "--dataset", "folder", "--root", str(root), "--cache", str(cache), "--json"]
    done = CliRunner().invoke(app, [*words, "--short-side", "32", *more])
    if isinstance(done.exception, UnialignError):
        raise done.exception
    assert done.exit_code in (0, 3), done.output
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def fetched(cache: Path) -> set[str]:
    """The names of the videos in the spool."""
    return {path.name for path in (cache / FOLDER / "spool").glob("*/*")}


def test_videos_in_s3_give_the_bytes_of_local_ones_and_are_fetched_once(
    s3: Any, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "BLOCK", 1000)
    s3.mkdir("clips")
    s3.put(f"{videos}/", "clips/some/videos/", recursive=True)
    local = extracted(videos, tmp_path / "local")
    remote = extracted("s3://clips/some/videos", tmp_path / "cache")
    assert (local["extracted"], local["quarantined"]) == (3, {"unreadable": 1})
    assert {**local, "store": "", "seconds": 0, "speed": 0} == {**remote, "store": "", "seconds": 0, "speed": 0}
    assert tree_digest(Path(local["store"])) == tree_digest(Path(remote["store"]))
    assert fetched(tmp_path / "cache") == {"a.mp4", "b c.mp4", "b.mp4"}
    # Nothing has changed: nothing is fetched, from wherever the command is started.
    shutil.rmtree(tmp_path / "cache" / FOLDER / "spool")
    monkeypatch.chdir(tmp_path)
    again = extracted("s3://clips/some/videos/", tmp_path / "cache")
    assert (again["attempted"], again["reused"]) == (0, 3)
    assert not fetched(tmp_path / "cache")
    # One is replaced and one removed: one is extracted.
    s3.put(str(videos / "wave" / "a.mp4"), "clips/some/videos/jump/b.mp4")
    s3.rm("clips/some/videos/wave/a.mp4")
    changed = extracted("s3://clips/some/videos", tmp_path / "cache")
    assert (changed["total"], changed["extracted"], changed["quarantined"]) == (3, 1, {})
    assert fetched(tmp_path / "cache") == {"b.mp4"}


@pytest.fixture
def site(videos: Path, tmp_path: Path) -> Iterator[Site]:
    """The same on a web server, with a list that names a video which is not there."""
    shutil.copytree(videos, tmp_path / "site" / "videos")
    names = [path.relative_to(videos).as_posix() for path in sorted(videos.rglob("*.mp4"))]
    rows = [
        f"{name.replace(' ', '%20') if False else name},{name.partition('/')[0]}" for name in [*names, "jump/z.mp4"]
    ]
    (tmp_path / "site" / "videos" / "labels.csv").write_text("\n".join(["path,label", *rows]))
    with serving(tmp_path / "site") as site:
        yield site


def test_a_web_server_needs_a_list_and_what_is_not_there_is_missing(site: Site, videos: Path, tmp_path: Path) -> None:
    found = extracted(f"{site.url}/videos", tmp_path / "cache")
    assert (found["extracted"], found["quarantined"]) == (3, {"missing-file": 1, "unreadable": 1})
    local = extracted(site.folder / "videos", tmp_path / "local")
    assert tree_digest(Path(local["store"])) == tree_digest(Path(found["store"]))
    (site.folder / "videos" / "labels.csv").unlink()
    with pytest.raises(UsageError, match=r"needs a labels\.csv"):
        extracted(f"{site.url}/videos", tmp_path / "cache")


def test_a_server_that_fails_ends_the_command_and_quarantines_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pointer: Pointer) -> Iterator[bytes]:
        raise CacheProblem("the server is gone")

    url, cache = f"{site.url}/videos", tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(remote_files, "_fetched", refused)
        with pytest.raises(CacheProblem, match="the server is gone"):
            extracted(url, cache)
    assert extracted(url, cache)["quarantined"] == {"missing-file": 1, "unreadable": 1}


@pytest.mark.parametrize(("fault", "message"), [("refused", "status 403"), ("range", "ignores ranges")])
def test_a_video_that_cannot_be_fetched_in_parts_is_one_clear_error(
    site: Site, fault: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "BLOCK", 1000)
    (site.folder / "a.bin").write_bytes(b"a" * 5000)
    site.faults, site.only = {fault: 100}, ".bin"
    with pytest.raises(CacheProblem, match=message):
        list(remote_files._fetched(Pointer(site.url, "a.bin", 5000)))


def test_a_video_that_changes_while_it_is_fetched_is_not_used(site: Site, tmp_path: Path) -> None:
    (site.folder / "a.bin").write_bytes(b"a" * 1000)
    spool = Spool(tmp_path / "spool", 3000)
    for listed in (Pointer(site.url, "a.bin", 1000, "another"), Pointer(site.url, "a.bin", 1000, start=1)):
        with pytest.raises(CacheProblem, match=r"has changed since it was listed|gave 999 bytes"):
            spool.hold(listed, "a.bin").__enter__()
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    parts = remote_files._fetched(Pointer(site.url, "a.bin", 1000))
    assert next(parts) == b"a" * 1000
    site.faults, site.only = {"refused": 100}, ".bin"
    with pytest.raises(CacheProblem, match="cannot be looked at"):
        next(parts)


def test_a_server_elsewhere_does_not_lead_inside(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (site.folder / "a.bin").write_bytes(b"a" * 1000)
    site.faults, site.only = {"elsewhere": 1}, ".bin"
    port = site.url.rpartition(":")[2]
    # Both are this machine, which may redirect to itself.
    pointer = Pointer(f"http://localhost:{port}", "a.bin", 1000)
    assert list(remote_files._fetched(pointer)) == [b"a" * 1000]

    async def is_inside(host: str) -> bool:
        return host == "127.0.0.1"

    monkeypatch.setattr(bounded_http, "is_inside", is_inside)
    site.faults = {"elsewhere": 100}
    with pytest.raises(CacheProblem, match=r"redirects to 127\.0\.0\.1, which is inside this network"):
        list(remote_files._fetched(pointer))


def test_addresses_of_this_machine_and_its_network_are_inside() -> None:
    found = [
        asyncio.run(bounded_http.is_inside(host)) for host in ("127.0.0.1", "10.1.2.3", "::1", "9.9.9.9", "no..host")
    ]
    assert found == [True, True, True, False, False]


def test_the_spool_stays_below_its_limit_and_keeps_what_is_held(site: Site, tmp_path: Path) -> None:
    for name in "abcde":
        (site.folder / f"{name}.bin").write_bytes(name.encode() * 1000)
    pointers = {name: Pointer(site.url, f"{name}.bin", 1000) for name in "abcde"}
    spool = Spool(tmp_path / "spool", 3000)

    def there() -> set[str]:
        return {path.stem for path in (tmp_path / "spool").glob("*/*")}

    with spool.hold(pointers["a"], "a.bin") as held:
        assert held.read_bytes() == b"a" * 1000
        for name in "bcde":
            with spool.hold(pointers[name], f"{name}.bin") as other:
                assert other.read_bytes() == name.encode() * 1000
            assert "a" in there()
            assert len(there()) <= 3
    asked = len(site.asked)
    with spool.hold(pointers["a"], "a.bin"):
        assert len(site.asked) == asked
    with pytest.raises(UsageError, match=r"more than the whole spool; raise extract\.spool_gb"):
        spool.hold(Pointer(site.url, "a.bin", 3001), "a.bin").__enter__()
    # A killed writer's file goes, one that is being written stays.
    for name, age in (("old", 2 * remote_files.ABANDONED), ("new", 0)):
        path = tmp_path / "spool" / name / f".tmp-{name}-x.bin"
        path.parent.mkdir()
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age, time.time() - age))
    with spool.hold(pointers["b"], "b.bin"):
        pass
    assert (tmp_path / "spool" / "new").exists()
    assert not (tmp_path / "spool" / "old").exists()


def test_a_file_that_was_cut_is_fetched_again(site: Site, tmp_path: Path) -> None:
    (site.folder / "a.bin").write_bytes(b"a" * 1000)
    pointer, spool = Pointer(site.url, "a.bin", 1000), Spool(tmp_path / "spool", 3000)
    with spool.hold(pointer, "a.bin") as path:
        pass
    path.write_bytes(b"a")
    with spool.hold(pointer, "a.bin") as path:
        assert path.read_bytes() == b"a" * 1000


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../outside.mp4", "wave/a.mp4"], "outside"),
        (["wave/a\\b.mp4"], "backslash"),
        (["wave/a.mp4", "wave/a.mp4/b.mp4"], "is a file, and a folder of others"),
        ([], "no such folder, or nothing in it"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    system = fsspec.filesystem("memory")
    system.store.clear()
    for name in names:
        system.store[f"/bucket/videos/{name}"] = made_memory_file(system, f"/bucket/videos/{name}")
    with pytest.raises(UsageError, match=message):
        make_tree("memory://bucket/videos", tmp_path / "trees", tmp_path / "spool", 10**9)
    assert not list(tmp_path.rglob("*outside*"))
    system.store.clear()


def made_memory_file(system: Any, path: str) -> Any:
    from fsspec.implementations.memory import MemoryFile

    return MemoryFile(system, path, b"data")


def test_only_what_the_tree_made_is_read_as_a_pointer(tmp_path: Path, site: Site) -> None:
    (site.folder / "a.bin").write_bytes(b"a" * 10)
    hostile = tmp_path / FOLDER / "x" / "videos" / "a.mp4"
    hostile.parent.mkdir(parents=True)
    hostile.write_text(Pointer(site.url, "a.bin", 10).text())
    content_digest(hostile)
    assert not site.asked
    hostile.write_text("[1, 2]")
    with pytest.raises(CacheProblem, match="is no pointer"):
        read_pointer(RemotePath(hostile))


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket/a b/videos", "s3://bucket/a b/videos"),
        ("https://host:8000/x", "https://host:8000/x"),
        ("memory://videos", "memory://videos"),
        ("file:///data/videos", "file:///data/videos"),
        ("s3://bucket/s-{000..099}.tar", "s3://bucket/s-{000..099}.tar"),
        ("clips/videos", ""),
        ("/data/a:b/c", ""),
        ("C:/videos", ""),
    ],
)
def test_a_url_survives_being_a_path(given: str, url: str) -> None:
    assert remote_url(Path(given)) == url


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "https://host/x?signature=1"])
def test_a_url_with_credentials_is_refused(url: str, tmp_path: Path) -> None:
    refused: Callable[[], object] = lambda: make_tree(url, tmp_path, tmp_path / "spool", 10**9)  # noqa: E731
    with pytest.raises(UsageError, match="holds credentials or a query"):
        refused()
