"""Contract of the disk cache of blocks: within its limit, whole blocks or none, and never a reason to fail."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.cache.made_remote import check_all, made
from unialign.cache import atomic
from unialign.cache.remote import block_cache, ranges
from unialign.cache.remote.block_cache import FOLDERS, BlockCache
from unialign.cache.remote.ranges import kept_share
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.errors import UsageError

LIMIT = 1 << 30


def key(number: int) -> str:
    return f"{number:064x}"


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_disk_cache_keeps_to_its_limit_and_the_least_recently_used_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_cache, "TOUCH_SECONDS", 0.0)
    cache = BlockCache(tmp_path, FOLDERS * 3 * 104, 100)
    # All in one folder, which has room for three.
    for number in range(5):
        cache.write(key(number * FOLDERS), bytes([number]) * 100)
        time.sleep(0.01)
        assert (number < 3) or cache.read(key(0), 0, 100) == bytes(100)
        assert total(tmp_path) <= cache.limit // FOLDERS
        if number >= 1:
            assert cache.read(key(0), 0, 1) == b"\0"
            time.sleep(0.01)
    held = [number for number in range(5) if cache.read(key(number * FOLDERS), 0, 100)]
    assert held == [0, 3, 4]
    assert cache.read(key(4 * FOLDERS), 90, 101) is None
    with pytest.raises(UsageError, match="too small"):
        BlockCache(tmp_path, 1000)


def test_a_block_that_is_not_what_was_written_is_not_held(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, LIMIT, 100)
    cache.write(key(5), b"five" * 25)
    cache.write(key(6), b"six!" * 25)
    five, six = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    whole = five.read_bytes()
    for content in (whole[:-1], whole[:2], b"", b"x" + whole[1:], six.read_bytes()):
        five.write_bytes(content)
        assert BlockCache(tmp_path, LIMIT, 100).read(key(5), 0, 4) is None
    five.unlink()
    five.mkdir()
    assert BlockCache(tmp_path, LIMIT, 100).read(key(5), 0, 4) is None
    five.rmdir()
    cache.write(key(5), b"five" * 25)
    assert pickle.loads(pickle.dumps(cache)).read(key(5), 4, 8) == b"five"


def test_killed_writers_leave_nothing_that_counts_or_is_served(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from unialign.cache.remote.block_cache import FOLDERS, BlockCache
cache = BlockCache(Path({str(tmp_path / "blocks")!r}), FOLDERS * 5 * 4100, 4096)
generator = __import__("random").Random(int(sys.argv[1]))
print("ready", flush=True)
while True:
    number = generator.randrange(40)
    key = f"{{number * FOLDERS:064x}}"
    found = cache.read(key, 0, 4096)
    assert found in (None, bytes([number]) * 4096)
    cache.write(key, bytes([number]) * 4096)
"""
    for _ in range(2):
        writers = [
            subprocess.Popen([sys.executable, "-c", code, str(seed)], stdout=subprocess.PIPE, cwd=os.getcwd())
            for seed in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        for writer in writers:
            assert writer.poll() is None
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        assert total(tmp_path / "blocks") <= 6 * 4100
        cache = BlockCache(tmp_path / "blocks", FOLDERS * 5 * 4100, 4096)
        for number in range(40):
            assert cache.read(key(number * FOLDERS), 0, 4096) in (None, bytes([number]) * 4096)
        cache.write(key(99 * FOLDERS), b"x" * 4096)
        assert total(tmp_path / "blocks") <= 5 * 4100
        assert not list((tmp_path / "blocks").rglob(f"{atomic.PREFIX}*"))


def test_a_full_disk_means_one_warning_and_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{made(tmp_path / 'made', 'zstd').path}"

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def write(self, handle: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "system", Full())
    reader = RemoteReader(url, tmp_path / "blocks", LIMIT)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        check_all(reader)
    assert [str(each.message) for each in shown if each.category is RuntimeWarning] == [
        f"{tmp_path / 'blocks'} takes no more blocks (No space left on device); "
        "remote stores are read without keeping more."
    ]


def test_threads_that_find_a_disk_full_at_once_warn_once(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, LIMIT, 100)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for _ in range(2):
            cache._stop(OSError(errno.ENOSPC, "No space left on device"))
    assert len(shown) == 1
    cache.write(key(1), b"x")
    assert cache.read(key(1), 0, 1) is None


def test_times_of_another_users_blocks_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "TOUCH_SECONDS", 0.0)
    cache = BlockCache(tmp_path, LIMIT, 100)
    cache.write(key(1), b"x" * 100)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.read(key(1), 0, 3) == b"xxx"

    def broken(*args: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    assert cache.read(key(1), 0, 3) is None


def test_a_store_that_does_not_fit_has_a_fixed_part_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_share(100, []) == kept_share(100, [None]) == 0.0
    small, large = BlockCache(tmp_path, FOLDERS * 204, 100), BlockCache(tmp_path, LIMIT, 100)
    assert kept_share(10, [None, small, large]) == kept_share(0, [small]) == 1.0
    assert kept_share(2 * small.limit, [small, large]) == 0.4
    assert {small.admits(f"{n:08x}" + 56 * "0", 0.5) for n in range(0, 1 << 31, 1 << 27)} == {True}
    monkeypatch.setattr(block_cache, "BLOCK", 64)
    monkeypatch.setattr(ranges, "IN_FLIGHT", 300)
    url = f"file://{made(tmp_path / 'made', 'none').path}"
    reader = RemoteReader(url, tmp_path / "blocks", FOLDERS * 100)
    assert 0 < reader.share < 1
    for _ in range(2):
        check_all(reader)
        assert 0 < total(tmp_path / "blocks") <= FOLDERS * 100
    held = {path.name for path in (tmp_path / "blocks").rglob("*") if path.is_file()}
    assert all(reader.cache and reader.cache.admits(name, reader.share) for name in held)
