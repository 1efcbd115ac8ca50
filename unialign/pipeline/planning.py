"""What an extraction has to do: the samples of a dataset less those that valid records hold, cut into shards."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from unialign.cache.table import SampleTable
from unialign.stages.extraction.base import Source

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Unit:
    """One work unit: the samples of one shard, for one writer."""

    shard: int
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Plan:
    """units: what is to do. reused: samples that records hold. num_shards: length of the sample axis afterwards."""

    units: tuple[Unit, ...]
    total: int
    reused: int
    num_shards: int

    @property
    def to_do(self) -> int:
        """Samples that the units hold."""
        return sum(len(unit.sources) for unit in self.units)


def cut_units(todo: Sequence[Source], taken: Iterable[int], shard_samples: int) -> tuple[Unit, ...]:
    """The samples in order of id, `shard_samples` to a shard, on the lowest shard numbers that are not taken.

    Because finished shards are whole, an interrupted extraction that is cut again gets the same samples under the same
    numbers, so the finished store is the same bytes.
    """
    ordered = sorted(todo, key=lambda source: source.id)
    groups = [tuple(ordered[start : start + shard_samples]) for start in range(0, len(ordered), shard_samples)]
    used = set(taken)
    units, number = [], 0
    for group in groups:
        while number in used:
            number += 1
        units.append(Unit(number, group))
        number += 1
    return tuple(units)


def make_plan(
    sources: Sequence[Source],
    table: SampleTable | None,
    digest: Callable[[Source], str],
    *,
    shard_samples: int,
    retry: bool = False,
    lost: Collection[str] = (),
) -> Plan:
    """The plan for one store.

    A record's entry spares a sample when it was made from the same bytes; `retry` asks for samples that failed to be
    tried again. table: what the store's records say; None for a store that is not there. lost: samples of shards that
    were withdrawn; what an older shard says of them does not count. digest: of a source as it is now; called only for
    samples that have an entry.
    """
    if table is None or not len(table):
        todo, taken = list(sources), []
    else:
        spared = _spared(sources, table, digest, retry=retry, lost=lost)
        todo = [source for source, done in zip(sources, spared, strict=True) if not done]
        taken = table.shards.numbers.tolist()
    units = cut_units(todo, taken, shard_samples)
    highest = max(max(taken, default=-1), max((unit.shard for unit in units), default=-1))
    return Plan(units, len(sources), len(sources) - len(todo), highest + 1)


def _spared(
    sources: Sequence[Source],
    table: SampleTable,
    digest: Callable[[Source], str],
    *,
    retry: bool,
    lost: Collection[str],
) -> Iterator[bool]:
    # A block at a time: the lists that this needs would otherwise take 50 MB for a million samples.
    for start in range(0, len(sources), _BLOCK):
        block = sources[start : start + _BLOCK]
        rows = table.find([source.id for source in block])
        held = rows >= 0
        if retry:
            held &= table.ok[rows]
        recorded = table.sources_of(rows[held])
        for source, known in zip(block, held.tolist(), strict=True):
            yield known and next(recorded) == digest(source) and source.id not in lost
