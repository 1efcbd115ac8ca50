"""What an extraction has to do: the samples of a dataset less those that valid records hold, cut into shards."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from unialign.cache.records import Entry
from unialign.stages.extraction.base import Source


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


def is_current(entry: Entry | None, digest: Callable[[], str], *, retry: bool) -> bool:
    """Whether a record's entry spares a sample.

    It does when it was made from the same bytes; `retry` asks for samples that failed to be tried again.
    """
    if entry is None or (retry and entry.status != "ok"):
        return False
    return entry.source == digest()


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
    entries: dict[str, Entry],
    taken: Iterable[int],
    digest: Callable[[Source], str],
    *,
    shard_samples: int,
    retry: bool = False,
) -> Plan:
    """The plan for one store.

    entries: what the store's records say, by sample id. taken: shard numbers that have a record.
    digest: the digest of a source as it is now; called only for samples that have an entry.
    """
    todo = [
        source
        for source in sources
        if not is_current(entries.get(source.id), lambda source=source: digest(source), retry=retry)  # type: ignore[misc]
    ]
    taken = set(taken)
    units = cut_units(todo, taken, shard_samples)
    highest = max([*taken, *(unit.shard for unit in units)], default=-1)
    return Plan(units, len(sources), len(sources) - len(todo), highest + 1)
