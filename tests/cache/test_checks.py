"""Contract of the checks of a table: a shard is found by its number, however the numbers are spread."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unialign.cache.checks import _places_of


@given(st.sets(st.integers(0, 30), min_size=1), st.sampled_from([0, 1 << 20]), st.data())
def test_a_shards_place_is_where_its_number_stands(numbers: set[int], gap: int, data: st.DataObject) -> None:
    ordered = np.array(sorted(numbers)) + np.where(np.array(sorted(numbers)) > 15, gap, 0)
    shards = np.array(data.draw(st.lists(st.sampled_from(ordered.tolist()), min_size=1)))
    assert (ordered[_places_of(shards, ordered)] == shards).all()
