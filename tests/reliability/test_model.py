"""R14: a store under everything that may happen to it, against a dictionary: {sample: the bytes it was made from}.

Samples come, change and break; extractions end, crash at a call, find the lock taken; files are damaged and repaired;
the store is pruned.
20 examples in the usual run, 200 of 30 steps with RELIABILITY=full; no difference.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.made_extractor import extract
from tests.reliability.conftest import Report
from tests.reliability.scenes import blind, check_equal, expected_arrays, files_of, sized, unit_of
from unialign.cache import atomic
from unialign.cache.lock import store_lock
from unialign.cache.reader import StoreReader
from unialign.cache.store import open_store
from unialign.cache.verify import verify_store
from unialign.errors import CacheProblem, DamagedStore, LockedStore, MissingCache
from unialign.pipeline.prune import prune_stores
from unialign.stages.extraction.base import Source

SHARED = Path("/dev/shm")
IDS = [f"clip{number:02d}" for number in range(6)]


class Killed(BaseException):
    """The process ends here: nothing after this runs, no cleaning up either."""


class Crashing:
    """Stands for `os` in `cache/atomic.py`: after `number` calls the process is dead."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counted(real) if callable(real) else real

    def _counted(self, real: Any) -> Any:
        def call(*given: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return real(*given)

        return call


class StoreMachine(RuleBasedStateMachine):
    """One cache. files: what each source holds now. stored: what the model says of each sample in the store.

    maybe: what a crashed extraction may have stored besides. damaged: whether a file was damaged since the last repair.
    """

    steps = 0

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(dir=SHARED if SHARED.is_dir() else None, prefix="unialign-"))
        self.cache = self.root / "cache"
        (self.root / "files").mkdir()
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.maybe: dict[str, set[bytes]] = {}
        self.damaged = False
        self.store: Path | None = None

    def teardown(self) -> None:
        atomic.system = os
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    def sources(self) -> list[Source]:
        return [Source(name, self.root / "files" / name) for name in self.files]

    def arrays(self, name: str, data: bytes) -> Any:
        """What the extractor makes of those bytes; nothing where they are bad."""
        path = self.root / "probe"
        path.write_bytes(data)
        return expected_arrays([Source(name, path)]).get(name)

    @rule(name=st.sampled_from(IDS), seed=st.integers(0, 200), bad=st.booleans())
    def add_or_change(self, name: str, seed: int, bad: bool) -> None:
        data = (b"bad" if bad else b"ok") + random.Random(seed).randbytes(20 + seed)
        (self.root / "files" / name).write_bytes(data)
        self.files[name] = data

    @precondition(lambda self: self.files)
    @rule(repair=st.booleans())
    def run(self, repair: bool) -> None:
        StoreMachine.steps += 1
        try:
            done = extract(self.cache, self.sources(), repair=repair)
        except DamagedStore:
            assert self.damaged
            assert not repair, "a repair gave up"
            return
        self.store = done.store
        if repair:
            self.damaged = False
        if not self.damaged:
            # Files that a crash left before their record; the next use of their shard, or a repair, replaces them.
            damage = verify_store(done.store)
            assert [each for each in damage if repair or "no record covers" not in each.problem] == []
            self.stored.update(self.files)
            self.maybe = {}
        else:
            self.remember()

    def remember(self) -> None:
        """An extraction may have stored any of the present files."""
        for name, data in self.files.items():
            self.maybe.setdefault(name, set()).add(data)

    @precondition(lambda self: self.files)
    @rule(calls=st.integers(0, 120), repair=st.booleans())
    def crash(self, calls: int, repair: bool) -> None:
        atomic.system = Crashing(calls)  # type: ignore[assignment]
        try:
            extract(self.cache, self.sources(), repair=repair)
        except (Killed, CacheProblem):
            pass
        finally:
            atomic.system = os
        self.remember()
        stores = list(self.cache.glob("made/poses/spectrum-*.zarr"))
        self.store = stores[0] if stores else None

    @precondition(lambda self: self.store and self.stored)
    @rule(place=st.integers(0, 10**6), kind=st.sampled_from(["flip", "cut", "delete", "empty"]))
    def damage(self, place: int, kind: str) -> None:
        assert self.store
        files = [path for path in files_of(self.store) if unit_of(path.relative_to(self.store).as_posix()) is not None]
        if not files:
            return
        path = files[place % len(files)]
        data = path.read_bytes()
        if kind == "delete":
            path.unlink()
        elif kind == "flip" and data:
            where = place // 7 % len(data)
            path.write_bytes(data[:where] + bytes([data[where] ^ (1 << place % 8)]) + data[where + 1 :])
        else:
            path.write_bytes(data[: len(data) // 2] if kind == "cut" else b"")
        self.damaged = True
        self.remember_stored()

    def remember_stored(self) -> None:
        """What is stored may be lost now, and an older shard's version of a sample may come to light."""
        for name, data in self.stored.items():
            self.maybe.setdefault(name, set()).add(data)

    @precondition(lambda self: self.store)
    @rule()
    def second_writer(self) -> None:
        assert self.store
        with store_lock(self.store, self.cache), pytest.raises(LockedStore):
            extract(self.cache, self.sources())

    @precondition(lambda self: self.store and not self.damaged)
    @rule(named=st.booleans())
    def prune(self, named: bool) -> None:
        assert self.store
        key = open_store(self.store).key.digest
        prune_stores(self.cache, {key} if named else set(), dry_run=False)
        assert self.store.exists() == named
        if not named:
            self.store, self.stored, self.maybe = None, {}, {}

    @invariant()
    def what_is_read_is_what_was_stored(self) -> None:
        if not getattr(self, "store", None):
            return
        assert self.store
        try:
            reader = StoreReader(self.store)
        except DamagedStore:
            assert self.damaged, "damage that nobody did"
            return
        for name in IDS:
            allowed = self.maybe.get(name, set()) | ({self.stored[name]} if name in self.stored else set())
            wanted = [self.arrays(name, data) for data in allowed]
            try:
                found = reader.read_one(name)
            except MissingCache:
                sure = name in self.stored and name not in self.maybe and wanted[0] is not None
                assert not sure or self.damaged, f"{name} is lost"
            except DamagedStore:
                assert self.damaged, "damage that nobody did"
            else:
                self.check_one_of(found, [each for each in wanted if each is not None], name)

    @staticmethod
    def check_one_of(found: Any, wanted: list[Any], name: str) -> None:
        for each in wanted:
            try:
                check_equal(found, each, list(each), name)
            except AssertionError:
                continue
            return
        raise AssertionError(f"{name}: arrays that nothing was ever stored as")


def check_model(examples: int, steps: int, *, shrink: bool = True) -> int:
    """Run the machine; returns how many extractions it made."""
    StoreMachine.steps = 0
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return StoreMachine.steps


@pytest.mark.timeout(1800)
def test_a_store_does_what_a_dictionary_does(report: Report) -> None:
    examples, steps = sized(20, 200), sized(15, 30)
    report("R14", examples=examples, steps_each=steps, extractions=check_model(examples, steps), differences=0)


def test_meta_a_store_that_keeps_old_samples_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever changed, the file is as it was: what `learn` remembers is never compared.
    monkeypatch.setattr(
        "unialign.pipeline.extraction.source_digests.SourceDigests.stamp", staticmethod(lambda _: [0, 0, 0])
    )
    with pytest.raises(AssertionError):
        check_model(200, 20, shrink=False)


def test_meta_an_unchecked_reader_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the machine's invariant, in the shortest history: few random ones flip a byte and read before a repair."""
    blind(monkeypatch)
    with pytest.raises(AssertionError, match="nothing was ever stored"):
        flip_and_read(range(0, 10_000, 101))


def flip_and_read(places: Iterable[int]) -> None:
    """For each place a store of one sample, one flipped bit there, and the check of all that is read."""
    for place in places:
        machine = StoreMachine()
        try:
            machine.begin()
            machine.add_or_change(name="clip00", seed=0, bad=False)
            machine.run(repair=False)
            machine.damage(place=place, kind="flip")
            machine.what_is_read_is_what_was_stored()
        finally:
            machine.teardown()


def test_no_flipped_bit_is_read_as_another_sample() -> None:
    flip_and_read(range(0, 3_000, 101))
