"""Units of several stores that are made from the same clips, put together so that a clip is decoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from unialign.pipeline.extraction.planning import Plan, Unit
from unialign.stages.extraction.base import Source

# Samples of a bundle, unless one unit has more. Where the shards of two stores begin with other samples all along, as
# after one of them was extracted for some of the clips, the last clips of a bundle are decoded twice.
MOST_SAMPLES = 128


@dataclass(frozen=True)
class Bundle:
    """Some units, each with the place of its store among those that are extracted together. Its length: of its clips.

    What one process works on at once, and loses if it is killed; the units of each store are in order of their samples.
    """

    units: tuple[tuple[int, Unit], ...]

    def __len__(self) -> int:
        return len(self.clips)

    @cached_property
    def clips(self) -> tuple[tuple[Source, tuple[int, ...]], ...]:
        """Each sample with the places of the stores that lack it, in order of id."""
        wanted: dict[str, tuple[Source, list[int]]] = {}
        for place, unit in self.units:
            for source in unit.sources:
                wanted.setdefault(source.id, (source, []))[1].append(place)
        return tuple((source, tuple(sorted(places))) for _, (source, places) in sorted(wanted.items()))

    @property
    def name(self) -> str:
        """Such as "0:5-1:2": shard 5 of the first store and shard 2 of the second."""
        return "-".join(f"{place}:{unit.shard}" for place, unit in self.units)


def bundled(plans: Sequence[Plan]) -> list[Bundle]:
    """All units of the plans of several stores; those that share clips are in one bundle, as far as it does not get
    larger than `MOST_SAMPLES`.
    """
    units = [(place, unit) for place, plan in enumerate(plans) for unit in plan.units]
    bundles: list[list[tuple[int, Unit]]] = []
    last, counts = "", dict[int, int]()
    for place, unit in sorted(units, key=lambda each: (each[1].sources[0].id, each[0])):
        full = max(counts.values(), default=0) >= MOST_SAMPLES
        if not bundles or unit.sources[0].id > last or full:
            bundles.append([])
            last, counts = "", {}
        bundles[-1].append((place, unit))
        last = max(last, unit.sources[-1].id)
        counts[place] = counts.get(place, 0) + len(unit)
    return [Bundle(tuple(each)) for each in bundles]


def all_of(bundles: Sequence[Bundle]) -> Bundle:
    """Several bundles as one."""
    return Bundle(tuple(each for bundle in bundles for each in bundle.units))
