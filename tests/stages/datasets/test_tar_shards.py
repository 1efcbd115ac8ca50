"""WebDataset's tar files as a data root: the videos inside give the bytes of the same videos in folders."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cache.made_remote import Site, serving
from tests.pipeline.extraction.test_remote_sources import extracted, quick, videos
from unialign.cache.reader import StoreReader
from unialign.errors import UsageError
from unialign.stages.datasets.remote_tree import make_tree
from unialign.stages.datasets.tar_shards import WINDOW
from unialign.stages.remote_files import FOLDER, read_pointer

__all__ = ["quick", "videos"]


def shard(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site" / "shards").mkdir(parents=True)
    with serving(tmp_path / "site") as site:
        yield site


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_videos_in_tar_files_give_the_bytes_of_loose_ones(site: Site, videos: Path, tmp_path: Path, form: int) -> None:
    a, b, c, d = ((videos / name).read_bytes() for name in ("wave/a.mp4", "wave/b c.mp4", "jump/a.mp4", "jump/b.mp4"))
    long = "deep/" * 12 + "x" * 80
    told = json.dumps({"label": 1, "class": "jump"}).encode()
    shard(
        site.folder / "shards" / "s-000.tar",
        [("0.mp4", a), ("0.cls", b"wave"), (".hidden.mp4", a), ("0.txt", b"a text"), ("1.json", told), ("1.MP4", c)],
        form,
    )
    shard(site.folder / "shards" / "s-001.tar", [(f"{long}.mp4", b), (f"{long}.cls", b"wave\n"), ("9.cls", b"z")], form)
    shard(site.folder / "shards" / "s-002.tar", [("n.mp4", d), ("n.cls", b"jump")], form)
    found = extracted(f"{site.url}/shards/s-{{000..003}}.tar", tmp_path / "cache")
    assert (found["extracted"], found["quarantined"]) == (3, {"unreadable": 1})
    remote, local = StoreReader(Path(found["store"])), StoreReader(Path(extracted(videos, tmp_path / "l")["store"]))
    flat = long.replace("/", "-")
    pairs = {"wave/s-000-0": "wave/a", f"wave/s-001-{flat}": "wave/b c", "jump/s-000-1": "jump/a"}
    for name, other in pairs.items():
        assert remote.source(name) == local.source(other)
        for array, value in remote.read_one(name).items():
            assert value.tobytes() == local.read_one(other)[array].tobytes()
    # The same from a storage that lists its files.
    listed = extracted(f"file://{site.folder}/shards", tmp_path / "listed")
    assert StoreReader(Path(listed["store"])).sources() == remote.sources()


def test_headers_are_read_once_and_not_the_videos(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(40 * WINDOW)
    shard(site.folder / "shards" / "s.tar", [("0.mp4", data), ("0.cls", b"a"), ("1.mp4", data), ("1.cls", b"b")])
    url, spool = f"file://{site.folder}/shards", tmp_path / "spool"
    tree = make_tree(url, tmp_path / FOLDER, spool, 10**9)
    pointer = read_pointer(tree / "b" / "s-1.mp4")
    assert (pointer.size, pointer.start % 512, pointer.path) == (len(data), 0, "s.tar")
    monkeypatch.setattr("tarfile.open", None)
    assert make_tree(url, tmp_path / FOLDER, spool, 10**9) == tree
    assert not spool.exists()


def raw(**changes: Any) -> bytes:
    """A tar file of one member whose header was changed and signed again."""
    member = tarfile.TarInfo("0.mp4")
    member.size = 10
    for name, value in changes.items():
        setattr(member, name, value)
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(512) + bytes(1024)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no tar file" * 100, "is no whole tar file"),
        (raw(size=10**9), "is no whole tar file"),
        (raw(size=-512), "is no whole tar file"),
        (raw(type=b"L", size=2 << 20) + bytes(3 << 20), "is no whole tar file"),
        (raw(), "has no class"),
    ],
)
def test_a_file_that_is_none_is_one_clear_error(site: Site, tmp_path: Path, data: bytes, message: str) -> None:
    (site.folder / "shards" / "s-0.tar").write_bytes(data)
    with pytest.raises(UsageError, match=message):
        make_tree(f"file://{site.folder}/shards", tmp_path / FOLDER, tmp_path / "spool", 10**9)


@pytest.mark.parametrize("label", [b"", b"../x", b"a/b", b".hidden", b"\xff", b"x" * 101])
def test_a_label_that_is_none_is_one_clear_error(site: Site, tmp_path: Path, label: bytes) -> None:
    shard(site.folder / "shards" / "s.tar", [("0.mp4", b"x"), ("0.cls", label)])
    with pytest.raises(UsageError, match=r"the \.cls of the video"):
        make_tree(f"file://{site.folder}/shards", tmp_path / FOLDER, tmp_path / "spool", 10**9)


@pytest.mark.parametrize("told", [b"[1]", b"{}", b"{", b'{"class": true}', b"[" * 100_00])
def test_json_without_a_class_is_one_clear_error(site: Site, tmp_path: Path, told: bytes) -> None:
    shard(site.folder / "shards" / "s.tar", [("0.mp4", b"x"), ("0.json", told)])
    with pytest.raises(UsageError, match=r"the \.json of the video"):
        make_tree(f"file://{site.folder}/shards", tmp_path / FOLDER, tmp_path / "spool", 10**9)


def test_a_pattern_of_too_many_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are no names of tar files"):
        make_tree("memory://x/s-{5..1}.tar", tmp_path, tmp_path / "spool", 10**9)
