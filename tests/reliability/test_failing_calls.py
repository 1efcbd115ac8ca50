"""R4: the n-th call to the operating system fails, for every n: a typed error or success, and the same bytes later.

Once the call alone fails, once it and all that follow; EIO, ENOSPC, EINTR, writes that take half of what they get,
and reads that give EIO. Every 12th call in the usual run, every one with RELIABILITY=full.
"""

import errno
import io
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import extract
from tests.reliability.conftest import Report
from tests.reliability.scenes import Scene, damaged_copy, make_scene, read_everything, sized, temporaries
from unialign.cache import atomic
from unialign.cache.verify import verify_store
from unialign.errors import UnialignError

CALLS = ("open", "write", "fsync", "close", "replace", "mkdir", "unlink", "rmdir")
FAULTS: dict[str, int] = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EINTR": errno.EINTR, "short": 0}


class Failing:
    """Stands for `os` in `cache/atomic.py`: call `number`, counted from 1, fails; `lasting`: later ones too."""

    def __init__(self, number: int, fault: int, *, lasting: bool) -> None:
        self.number, self.fault, self.lasting = number, fault, lasting
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return (lambda *given: self._call(name, real, given)) if name in CALLS else real

    def _call(self, name: str, real: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        self.calls += 1
        if self.calls == self.number or (self.lasting and self.calls > self.number):
            if not self.fault:
                return real(given[0], given[1][: max(1, len(given[1]) // 2)]) if name == "write" else real(*given)
            if name == "close":
                real(*given)
            raise OSError(self.fault, os.strerror(self.fault))
        return real(*given)

    def __enter__(self) -> "Failing":
        atomic.system = self  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        atomic.system = os


class FailingReads:
    """The same for opening files of a cache in order to read them."""

    def __init__(self, number: int, root: Path, *, lasting: bool) -> None:
        self.number, self.root, self.lasting = number, root, lasting
        self.calls = 0

    def _open(self, path: Any, *given: Any, **named: Any) -> Any:
        if isinstance(path, Path) and path.is_relative_to(self.root):
            self.calls += 1
            if self.calls == self.number or (self.lasting and self.calls > self.number):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return self._real(path, *given, **named)

    def __enter__(self) -> "FailingReads":
        self._real = io.open
        io.open = self._open  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        io.open = self._real


def check_fault(scene: Scene, cache: Path, fault: Failing | FailingReads, repair: bool) -> tuple[bool, bool]:
    """Extract with a failing call, then without; returns whether the fault was met, and whether it was reported."""
    store = cache / scene.store.relative_to(scene.cache)
    what = f"{type(fault).__name__} {fault.number} {getattr(fault, 'fault', '')} {fault.lasting}"
    reported = False
    with fault:
        try:
            extract(cache, scene.sources, repair=repair)
        except (UnialignError, OSError):
            reported = True
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__} instead of a typed error") from error
    if store.is_dir():
        read_everything(store, scene.expected, what)
    extract(cache, scene.sources, repair=repair)
    assert verify_store(store) == [], what
    assert tree_digest(store) == scene.whole, f"{what}: another store"
    assert not temporaries(cache), what
    return fault.calls >= fault.number, reported


def check_faults(scene: Scene, cache: Path, step: int, *, repair: bool) -> dict[str, int]:
    """Every kind of fault at every `step`-th call, until a run meets none."""
    counts = {"faults": 0, "reported": 0}
    kinds: list[Callable[[int, bool], Failing | FailingReads]] = [
        lambda number, lasting, fault=fault: Failing(number, fault, lasting=lasting)  # type: ignore[misc]
        for fault in FAULTS.values()
    ]
    kinds.append(lambda number, lasting: FailingReads(number, cache, lasting=lasting))
    for place, make in enumerate(kinds):
        for lasting in (False, True):
            # Each kind begins elsewhere, so that together they meet more calls.
            number = 1 + (7 * place + 3 * lasting) % step
            while True:
                shutil.rmtree(cache, ignore_errors=True)
                if repair:
                    damaged_copy(scene, cache)
                met, reported = check_fault(scene, cache, make(number, lasting), repair)
                if not met:
                    break
                counts["faults"] += 1
                counts["reported"] += reported
                number += step
    return counts


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("repair", [False, True], ids=["extraction", "repair"])
def test_whatever_call_fails_the_store_is_finished_later(memory: Path, report: Report, repair: bool) -> None:
    scene = make_scene(memory, 7, (2,))
    counts = check_faults(scene, memory / "work", sized(12, 1), repair=repair)
    assert counts["reported"] > counts["faults"] // 2
    report("R4", during="a repair" if repair else "an extraction", **counts, different_stores=0)


def short_write(handle: int, data: bytes) -> None:
    """One call, whatever its arguments."""
    atomic.system.write(handle, data)


def deaf_write(handle: int, data: bytes) -> None:
    """All calls, whatever their arguments."""
    with suppress(OSError):
        os.write(handle, data[:1])
        atomic.system.write(handle, data[1:])


@pytest.mark.parametrize(("careless", "fault"), [(short_write, 0), (deaf_write, errno.EIO)])
def test_meta_careless_writing_is_caught(
    memory: Path, monkeypatch: pytest.MonkeyPatch, careless: Callable[[int, bytes], None], fault: int
) -> None:
    scene = make_scene(memory, 7)
    monkeypatch.setattr(atomic, "write_all", careless)

    def check_all() -> None:
        for number in range(1, 200):
            shutil.rmtree(memory / "work", ignore_errors=True)
            check_fault(scene, memory / "work", Failing(number, fault, lasting=False), repair=False)

    with pytest.raises((AssertionError, UnialignError, ValueError)):
        check_all()
