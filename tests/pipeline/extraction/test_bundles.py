"""Contract of bundles: every unit is in one, and those that are made from the same clips are together."""

from hypothesis import given
from hypothesis import strategies as st

from unialign.pipeline.extraction import bundles
from unialign.pipeline.extraction.bundles import all_of, bundled
from unialign.pipeline.extraction.planning import Plan, cut_units
from unialign.stages.extraction.base import Source


def plan(numbers: set[int], size: int) -> Plan:
    units = cut_units([Source(f"clip{number:04d}") for number in numbers], (), size)
    return Plan(units, len(numbers), 0, len(units))


PLANS = st.lists(
    st.builds(plan, st.sets(st.integers(0, 600), max_size=600), st.sampled_from([4, 16, 32])), min_size=1, max_size=3
)


@given(PLANS)
def test_every_unit_is_in_one_bundle_and_clips_are_divided_seldom(plans: list[Plan]) -> None:
    found = bundled(plans)
    for place, each in enumerate(plans):
        assert [unit for bundle in found for own, unit in bundle.units if own == place] == list(each.units)
    shared = sum(len(bundle) for bundle in found) - len(all_of(found))
    # At an end that does not lie between units of all stores, the clips of one unit of each are read twice.
    assert shared <= len(found) * 32 * len(plans)
    assert all(len(bundle) <= len(plans) * (bundles.MOST_SAMPLES + 32) for bundle in found)


def test_shards_of_two_sizes_that_begin_together_share_all_clips() -> None:
    numbers = set(range(100))
    found = bundled([plan(numbers, 16), plan(numbers, 32)])
    assert [bundle.name for bundle in found[:2]] == ["0:0-1:0-0:1", "0:2-1:1-0:3"]
    assert sum(len(bundle) for bundle in found) == 100
    assert {places for bundle in found for _, places in bundle.clips} == {(0, 1)}
