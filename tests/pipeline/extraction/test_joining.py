"""Contract of claimed work: each piece is done by one process, and nobody waits for others with work in hand."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.made_extractor import Spectrum, make_files
from unialign.cache.records import record_path
from unialign.cache.store import Store
from unialign.pipeline.extraction import joining, supply
from unialign.pipeline.extraction.bundles import Bundle
from unialign.pipeline.extraction.joining import Claimed, claim_bundle
from unialign.pipeline.extraction.planning import Unit
from unialign.pipeline.extraction.supply import Pile, groups
from unialign.stages.extraction.base import Source

UNITS = [Unit(number, (Source(f"clip{number}"),)) for number in range(40)]


class Shared:
    """What processes know of each other: who has claimed a unit, and which units are finished."""

    def __init__(self) -> None:
        self.owners: dict[int, int] = {}
        self.done: set[int] = set()

    def claim(self, process: int) -> Callable[[Unit], tuple[Unit | None, Unit | None]]:
        def claim(unit: Unit) -> tuple[Unit | None, Unit | None]:
            if unit.shard in self.done:
                return None, None
            return (unit, None) if self.owners.setdefault(unit.shard, process) == process else (None, unit)

        return claim


def test_several_are_claimed_at_once_but_none_is_waited_for_with_others_in_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared, counted = Shared(), list[int]()
    shared.owners = dict.fromkeys(range(2, 10), 7)
    units = Claimed(UNITS[:10], shared.claim(1), counted.append)
    monkeypatch.setattr(joining, "SHARE", 1)
    monkeypatch.setattr(joining.time, "sleep", lambda seconds: pytest.fail("it waits with units in hand"))
    assert units.take(8) == UNITS[:2]

    def others_die(seconds: float) -> None:
        shared.done, shared.owners = {2, 3}, {}

    monkeypatch.setattr(joining.time, "sleep", others_die)
    assert units.take(4) == UNITS[4:8]
    assert units.take(4) == UNITS[8:10]
    assert units.take(4) == []
    assert counted == [1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_processes_that_take_several_do_all_of_them_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, shared = random.Random(seed), Shared()
    working: list[Unit] = []

    def life(process: int) -> Iterator[list[Unit]]:
        units = Claimed(UNITS, shared.claim(process))
        while taken := units.take(chance.randrange(1, 9)):
            yield taken
            working.extend(taken)
            shared.done |= {unit.shard for unit in taken}

    processes = {number: life(number) for number in range(4)}

    def another_goes_on(seconds: float) -> None:
        # Not from within its own wait: one that holds nothing waits for one that works.
        ready = [each for each in processes.values() if not each.gi_running]  # type: ignore[attr-defined]
        assert ready, "all wait for one another"
        next(chance.choice(ready), None)

    monkeypatch.setattr(joining.time, "sleep", another_goes_on)
    while processes:
        number = chance.choice(list(processes))
        if next(processes[number], None) is None:
            del processes[number]
    assert sorted(working, key=lambda unit: unit.shard) == UNITS


def test_a_group_is_worked_on_before_the_next_one_is_taken() -> None:
    worked: list[Unit] = []

    class Watched(Pile[Unit]):
        def take(self, most: int) -> list[Unit]:
            assert len(worked) == min(len(UNITS), sum(sizes))
            sizes.append(most)
            return super().take(most)

    sizes: list[int] = []
    for group in groups(Watched(UNITS)):
        worked += group
    assert worked == UNITS
    assert sizes[:3] == [1, 2, 4]


def test_long_units_are_taken_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 11))
    monkeypatch.setattr(supply.time, "monotonic", lambda: next(clock))
    assert {len(group) for group in groups(Pile(UNITS))} == {1}


class Chair:
    """Like a `Seat`, with what others hold."""

    def __init__(self, others: set[int]) -> None:
        self.others, self.mine = others, set[int]()

    def claim(self, shard: int) -> bool:
        self.mine |= {shard} - self.others
        return shard not in self.others


def test_a_bundle_is_claimed_whole_or_as_far_as_it_is_left(tmp_path: Path) -> None:
    stores = [
        Store(tmp_path / name, "made", name, None, Spectrum().arrays(), 4, {})  # type: ignore[arg-type]
        for name in ("poses", "frames")
    ]
    sources = tuple(make_files(tmp_path / "files", 4))
    bundle = Bundle(((0, Unit(0, sources[:2])), (0, Unit(1, sources[2:])), (1, Unit(0, sources))))
    # Somebody is at its first unit, and will want the others.
    seats = [Chair({0}), Chair(set())]
    assert claim_bundle(stores, seats, bundle) == (None, bundle)  # type: ignore[arg-type]
    assert not seats[0].mine | seats[1].mine
    # That one has died after it had finished the first.
    record_path(stores[0].path, 0).parent.mkdir(parents=True)
    record_path(stores[0].path, 0).touch()
    left = Bundle(bundle.units[1:])
    assert claim_bundle(stores, [Chair(set()), Chair(set())], bundle) == (left, None)  # type: ignore[arg-type]
    for store, shard in ((stores[0], 1), (stores[1], 0)):
        record_path(store.path, shard).parent.mkdir(parents=True, exist_ok=True)
        record_path(store.path, shard).touch()
    assert claim_bundle(stores, seats, bundle) == (None, None)  # type: ignore[arg-type]
