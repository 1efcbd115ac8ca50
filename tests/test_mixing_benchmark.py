"""Contract of the mixing figures: known orders have known values, and a full shuffle has what is expected of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from benchmarks.mixing import (
    distinct_classes,
    expected_classes,
    expected_neighbours,
    group_neighbours,
    position_correlation,
)


def test_correlation_of_storage_order_is_one_and_of_its_reverse_minus_one() -> None:
    assert position_correlation(np.arange(10)) == pytest.approx(1.0)
    assert position_correlation(np.arange(10)[::-1]) == pytest.approx(-1.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=40, unique=True))
def test_correlation_is_spearmans_also_for_a_part_of_the_collection(order: list[int]) -> None:
    expected = spearmanr(order, np.arange(len(order))).statistic
    assert position_correlation(np.array(order)) == pytest.approx(expected)


@pytest.mark.parametrize("order", [[], [3], [1, 2, 1]])
def test_correlation_refuses_what_is_no_order(order: list[int]) -> None:
    with pytest.raises(ValueError, match=r"two samples|comes twice"):
        position_correlation(np.array(order, dtype=np.int64))


def test_neighbors_of_storage_order_are_the_whole_batch_and_of_a_deal_none() -> None:
    groups = np.arange(64) // 8
    assert group_neighbours(np.arange(64), groups, batch_size=8) == 7
    assert group_neighbours(np.arange(64).reshape(8, 8).T.ravel(), groups, batch_size=8) == 0
    # Two halves of two shards in each batch: three of the seven others.
    assert group_neighbours(np.arange(64).reshape(2, 8, 4).transpose(1, 0, 2).ravel(), groups, batch_size=8) == 3


def test_a_last_batch_that_is_not_full_does_not_count() -> None:
    order, groups = np.array([0, 4, 1, 5, 2, 3]), np.arange(8) // 4
    assert group_neighbours(order, groups, batch_size=4) == group_neighbours(order[:4], groups, batch_size=4)
    assert distinct_classes(order, groups, batch_size=4) == 2


def test_classes_are_counted_batch_by_batch() -> None:
    labels = np.array([0, 0, 0, 0, 5, 5, 9, 9])
    assert distinct_classes(np.arange(8), labels, batch_size=4) == 1.5
    assert distinct_classes(np.array([0, 4, 6, 1, 2, 5, 7, 3]), labels, batch_size=4) == 3


def test_expectations_are_exact_for_batches_that_can_be_counted_by_hand() -> None:
    # Two classes of two: of the six batches of two, two hold one class.
    assert expected_classes(np.array([0, 0, 1, 1]), 2) == pytest.approx(1 + 4 / 6)
    assert expected_neighbours(np.array([0, 0, 1, 1]), 2) == pytest.approx(1 / 3)
    assert expected_classes(np.array([0, 0, 3, 3]), 4) == pytest.approx(2)
    assert expected_neighbours(np.array([7, 7, 7]), 3) == pytest.approx(2)


def test_full_shuffles_have_the_expected_values_on_average() -> None:
    generator = np.random.default_rng(0)
    labels = np.sort(generator.zipf(1.5, size=960) % 40)
    groups = np.arange(960) // 32
    orders = [generator.permutation(960) for _ in range(60)]
    classes = np.mean([distinct_classes(order, labels, 32) for order in orders])
    neighbours = np.mean([group_neighbours(order, groups, 32) for order in orders])
    assert classes == pytest.approx(expected_classes(labels, 32), abs=0.15)
    assert neighbours == pytest.approx(expected_neighbours(groups, 32), abs=0.05)
    assert abs(np.mean([position_correlation(order) for order in orders])) < 4 / np.sqrt(959 * 60)


def test_batches_that_cannot_be_filled_are_rejected() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        distinct_classes(np.arange(3), np.zeros(3, dtype=np.int64), 4)
    with pytest.raises(ValueError, match="cannot be drawn"):
        expected_classes(np.zeros(3, dtype=np.int64), 4)
    with pytest.raises(ValueError, match="at least two"):
        expected_neighbours(np.zeros(1, dtype=np.int64), 1)
