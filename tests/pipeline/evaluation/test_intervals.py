import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from unialign.pipeline.evaluation.intervals import wilson_interval


@pytest.mark.parametrize(("right", "total"), [(8, 10), (0, 10), (10, 10), (120, 150), (1, 1), (2999, 3000)])
def test_intervals_are_those_of_scipy(right: int, total: int) -> None:
    found = binomtest(right, total).proportion_ci(method="wilson")
    assert wilson_interval(right, total) == pytest.approx((found.low, found.high), abs=1e-12)


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_an_interval_lies_in_0_to_1_around_its_share_and_shrinks_with_more_clips(counts: tuple[int, int]) -> None:
    right, total = counts
    low, high = wilson_interval(right, total)
    assert 0 <= low <= right / total <= high <= 1
    narrow = wilson_interval(4 * right, 4 * total)
    assert narrow[1] - narrow[0] < high - low


def test_without_clips_everything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
