"""R5: a disk that is really full. The error says so, no unit is tried twice, what was finished is whole; with more room
the same command ends with the same bytes.
"""

import errno
import resource
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import extract
from tests.reliability.conftest import Report
from tests.reliability.scenes import SHARD_SAMPLES, Bulky, make_scene, read_everything, sized, temporaries
from unialign.cache import atomic
from unialign.cache.verify import verify_store

NUM_SAMPLES = 48


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size at a folder; the test is skipped where none may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def more_room(disk: Path) -> None:
    """Give the small disk 64 MB."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


def check_full_disk(folder: Path, megabytes: int) -> tuple[int, int]:
    """Fill a disk, look at what is there, make room, continue; returns (samples kept, samples in all)."""
    calls = folder / "calls"
    calls.mkdir(parents=True)
    extractor = Bulky()
    scene = make_scene(folder, NUM_SAMPLES, extractor=extractor)
    with small_disk(folder / "disk", megabytes) as disk:
        store = disk / "cache" / scene.store.relative_to(scene.cache)
        with pytest.raises(OSError, match="No space left") as raised:
            extract(disk / "cache", scene.sources, replace(extractor, calls=calls))
        assert raised.value.errno == errno.ENOSPC
        tried = Counter(path.name.split("-")[0] for path in calls.iterdir())
        assert max(tried.values()) == 1, "a unit was tried again on a full disk"
        kept = len(scene.expected) - read_everything(store, scene.expected, "full disk")
        assert all(found.shard is None for found in verify_store(store)), "a finished unit is damaged"
        # At most the units in hand are lost: the one that is stored, and the one that is extracted meanwhile.
        assert len(tried) - 2 * SHARD_SAMPLES <= kept < NUM_SAMPLES
        assert not temporaries(disk / "cache"), "the full disk keeps a temporary"
        more_room(disk)
        extract(disk / "cache", scene.sources, extractor)
        assert verify_store(store) == []
        assert tree_digest(store) == scene.whole
    return kept, NUM_SAMPLES


@pytest.mark.parametrize("megabytes", [1, 2, 3][: sized(2, 3)])
def test_a_full_disk_costs_the_units_in_hand_only(memory: Path, report: Report, megabytes: int) -> None:
    kept, total = check_full_disk(memory / "work", megabytes)
    report("R5", megabytes=megabytes, samples_kept=kept, of=total, units_tried_twice=0)


def test_a_file_that_may_not_grow_is_an_error_and_no_damage(memory: Path) -> None:
    """The same without the right to mount: the limit on the size of a file."""
    scene = make_scene(memory, 8, extractor=Bulky(size=1 << 18))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            extract(memory / "again", scene.sources, Bulky(size=1 << 18))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not temporaries(memory / "again")
    assert tree_digest(extract(memory / "again", scene.sources, Bulky(size=1 << 18)).store) == scene.whole


def test_meta_a_temporary_left_on_a_full_disk_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeps:
        """The operating system, but deleting does nothing."""

        def __getattr__(self, name: str) -> object:
            return (lambda _: None) if name == "unlink" else getattr(__import__("os"), name)

    monkeypatch.setattr(atomic, "system", Keeps())
    with pytest.raises(AssertionError, match="temporary"):
        check_full_disk(memory / "work", 1)
