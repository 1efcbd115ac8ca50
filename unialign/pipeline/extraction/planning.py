"""What an extraction has to do: the samples of a dataset minus those in valid records, cut into shards."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unialign.cache.table import SampleTable
from unialign.stages.extraction.base import Source

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Unit:
    """One work unit: the samples of one shard, for one writer. Its length is their number."""

    shard: int
    sources: tuple[Source, ...]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def name(self) -> str:
        """Such as "5"."""
        return str(self.shard)


@dataclass(frozen=True)
class Plan:
    """units: what to extract. reused: samples that records hold. num_shards: length of the sample axis afterwards."""

    units: tuple[Unit, ...]
    total: int
    reused: int
    num_shards: int

    @property
    def to_do(self) -> int:
        """Number of samples in the units."""
        return sum(len(unit.sources) for unit in self.units)


def cut_units(
    todo: Sequence[Source], taken: Iterable[int], shard_samples: int, floors: Mapping[str, int] | None = None
) -> tuple[Unit, ...]:
    """The samples in order of id, `shard_samples` per shard, each shard with the lowest possible number.

    floors: for samples that have an older entry, the shard that holds it. A later shard supersedes an earlier one, so
        the number of the new shard is above it, even if a lower one is free.
    Because finished shards are complete, cutting the rest of an interrupted extraction again puts the same samples into
    the same shards, so the finished store has the same bytes.
    """
    ordered = sorted(todo, key=lambda source: source.id)
    floors = floors or {}
    following = {number: number + 1 for number in taken}
    units = []
    for start in range(0, len(ordered), shard_samples):
        group = tuple(ordered[start : start + shard_samples])
        number = _free(1 + max(floors.get(source.id, -1) for source in group), following)
        following[number] = number + 1
        units.append(Unit(number, group))
    return tuple(units)


def _free(number: int, following: dict[int, int]) -> int:
    """The lowest free number from this one on; for taken numbers, `following` holds a higher one."""
    passed = []
    while number in following:
        passed.append(number)
        number = following[number]
    for each in passed:
        following[each] = number
    return number


def make_plan(
    sources: Sequence[Source],
    table: SampleTable | None,
    digest: Callable[[Source], str],
    *,
    shard_samples: int,
    retry: bool = False,
    lost: Collection[str] = (),
    older: str = "",
) -> Plan:
    """The plan for one store.

    A record's entry makes extraction unnecessary if it was made from the same bytes; with `retry`, failed samples are
    tried again. table: what the store's records say; None if there is no store. lost: samples of withdrawn shards; what
    older shards say about them does not count. digest: of a source as it is now; called only for samples that have an
    entry. older: digest that old records may hold instead while nothing has changed.
    """
    todo: list[Source] = []
    floors: dict[str, int] = {}
    taken: list[int] = []
    if table is None or not len(table):
        todo = list(sources)
    else:
        taken = table.shards.numbers.tolist()
        held = _held(sources, table, digest, retry=retry, lost=lost, older=older)
        for source, (spared, shard) in zip(sources, held, strict=True):
            if not spared:
                todo.append(source)
                if shard >= 0:
                    floors[source.id] = shard
    units = cut_units(todo, taken, shard_samples, floors)
    highest = max(max(taken, default=-1), max((unit.shard for unit in units), default=-1))
    return Plan(units, len(sources), len(sources) - len(todo), highest + 1)


def _held(
    sources: Sequence[Source],
    table: SampleTable,
    digest: Callable[[Source], str],
    *,
    retry: bool,
    lost: Collection[str],
    older: str,
) -> Iterator[tuple[bool, int]]:
    """For each source, whether its entry is current, and the shard of that entry (-1: there is none)."""
    # In blocks: otherwise the lists needed here take 50 MB for a million samples.
    for start in range(0, len(sources), _BLOCK):
        block = sources[start : start + _BLOCK]
        rows = table.find([source.id for source in block])
        held = rows >= 0
        shards = np.where(held, table.shard[rows], -1)
        if retry:
            held &= table.ok[rows]
        recorded = table.sources_of(rows[held])
        for source, known, shard in zip(block, held.tolist(), shards.tolist(), strict=True):
            said = next(recorded) if known else ""
            yield known and source.id not in lost and (said == digest(source) or said == older != ""), shard
