"""What `cache du` counts is what lies on the disk, file by file."""

import os
from pathlib import Path

import pytest

from tests.cache.test_store import ARRAYS, build
from unialign.cache.atomic import PREFIX
from unialign.cache.index import write_index
from unialign.cache.lock import store_lock
from unialign.cache.usage import Usage, cache_usage


def measured(paths: list[Path]) -> Usage:
    found = [path.lstat() for path in paths if path.is_symlink() or path.is_file()]
    return Usage(len(found), sum(each.st_size for each in found), sum(each.st_blocks * 512 for each in found))


def filled(cache: Path) -> Path:
    """A cache with a store, a damaged one, a lock, and temporaries in a store and beside it."""
    store = build(cache, bad=(3,))
    path = store.path
    write_index(store)
    other = build(cache / "second").path
    other.rename(path.with_name("other-0123456789ab.zarr"))
    (path.with_name("other-0123456789ab.zarr") / "zarr.json").write_text("{}")
    with store_lock(path, cache):
        pass
    (path / "feature" / "c" / f"{PREFIX}0-1").write_bytes(b"x" * 5000)
    beside = path.parent / f"{PREFIX}0123456789abcdef-{path.name}"
    beside.mkdir()
    (beside / "zarr.json").write_text("{}")
    return path


def test_every_file_is_counted_once_and_in_its_place(tmp_path: Path) -> None:
    path = filled(tmp_path)
    seen: list[tuple[int, int]] = []
    found = cache_usage(tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert found.total == measured(list(tmp_path.rglob("*")))
    assert found.temporaries == measured(list(path.parent.glob(f"{PREFIX}*/*")))
    assert found.other == measured([tmp_path / ".locks" / name for name in os.listdir(tmp_path / ".locks")])
    store = found.stores[0]
    assert store.path == path
    assert store.total == measured(list(path.rglob("*")))
    assert (store.shards, set(store.arrays)) == (3, {spec.name for spec in ARRAYS})
    for name, usage in store.arrays.items():
        files = [each for each in (path / name / "c").rglob("*") if not each.name.startswith(PREFIX)]
        assert usage == measured(files)
    assert store.records == measured(list((path / "records").glob("*.json")))
    assert store.temporaries.bytes == 5000
    assert store.metadata == measured([path / "zarr.json", path / "records" / "index.bin", *path.glob("*/zarr.json")])


def test_the_object_adds_up(tmp_path: Path) -> None:
    filled(tmp_path)
    result = cache_usage(tmp_path).result()
    parts = [*result["stores"], result["other"], result["temporaries"]]
    for name in ("files", "bytes", "on_disk"):
        assert sum(part[name] for part in parts) == result[name]
    assert 0 < sum(store["percent"] for store in result["stores"]) < 100
    assert [store["name"] for store in result["stores"]] == ["fake-64fe3a490223", "other-0123456789ab"]


@pytest.mark.parametrize("root", ["nothing there", "."])
def test_an_empty_cache_takes_nothing(tmp_path: Path, root: str) -> None:
    assert cache_usage(tmp_path / root).result() == {
        "stores": [],
        "other": {"files": 0, "bytes": 0, "on_disk": 0},
        "temporaries": {"files": 0, "bytes": 0, "on_disk": 0},
        "files": 0,
        "bytes": 0,
        "on_disk": 0,
    }


def test_links_count_as_themselves_and_lead_nowhere(tmp_path: Path) -> None:
    path = build(tmp_path / "cache").path
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    (path / "link").symlink_to(tmp_path / "big")
    (path / "up").symlink_to(tmp_path)
    assert cache_usage(tmp_path / "cache").total == measured(list((tmp_path / "cache").rglob("*")))
    assert cache_usage(tmp_path / "cache").total.bytes < 100_000


def test_a_file_that_vanishes_meanwhile_does_not_count(tmp_path: Path) -> None:
    path = build(tmp_path).path
    before = cache_usage(tmp_path).total
    victim = path / "records" / "000000.json"
    size = victim.stat().st_size

    def vanish(done: int, total: int) -> None:
        victim.unlink(missing_ok=True)

    assert cache_usage(tmp_path, vanish).total.bytes == before.bytes - size
