"""Contract of the interval: it holds the mean, mirrors with the sign, narrows with more samples, and is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.pipeline.ablation import bootstrap
from unialign.pipeline.ablation.bootstrap import mean_interval

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 30))


def tables(low: int = -1, high: int = 1) -> st.SearchStrategy[np.ndarray]:
    def filled(shape: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
        size = shape[0] * shape[1]
        return st.lists(st.integers(low, high), min_size=size, max_size=size).map(lambda v: np.reshape(v, shape))

    return SHAPES.flatmap(filled)


@settings(max_examples=30, deadline=None)
@given(tables())
def test_the_interval_holds_the_mean_and_stays_among_the_values(table: np.ndarray) -> None:
    found = mean_interval(table, draws=400)
    assert found.mean == pytest.approx(table.mean(), abs=1e-12)
    assert table.min() - 1e-12 <= found.low <= found.mean <= found.high <= table.max() + 1e-12


@settings(max_examples=30, deadline=None)
@given(tables(-50, 50))
def test_the_other_sign_gives_the_mirrored_interval(table: np.ndarray) -> None:
    found, other = mean_interval(table / 7, draws=400), mean_interval(-table / 7, draws=400)
    assert [other.mean, other.low, other.high] == pytest.approx([-found.mean, -found.high, -found.low], abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.floats(-1, 1))
def test_a_constant_has_an_interval_without_width(shape: tuple[int, int], value: float) -> None:
    found = mean_interval(np.full(shape, value), draws=100)
    assert (found.mean, found.low, found.high) == (value, value, value)


@settings(max_examples=20, deadline=None)
@given(tables().filter(lambda table: bool(np.ptp(table.mean(axis=0)))))
def test_sixteen_times_the_samples_make_it_about_a_quarter_as_wide(table: np.ndarray) -> None:
    # Of equal seeds, so that all that varies are samples.
    row = table[:1] if np.ptp(table[:1]) else table[np.ptp(table, axis=1).argmax()][None]
    once, often = (mean_interval(np.tile(row, (2, times)), draws=4000) for times in (16, 256))
    assert (often.high - often.low) / (once.high - once.low) == pytest.approx(0.25, rel=0.25)


def test_seeds_that_differ_keep_it_wide_however_many_samples_there_are() -> None:
    table = np.repeat([[1], [0], [-1]], 5000, axis=1)
    found = mean_interval(table)
    assert found.high - found.low > 1


def test_it_is_about_as_wide_as_the_normal_approximation_for_one_seed() -> None:
    table = np.random.default_rng(3).integers(-1, 2, size=(1, 2000))
    found = mean_interval(table)
    assert found.high - found.low == pytest.approx(2 * 1.96 * table.std() / 2000**0.5, rel=0.05)


def test_a_clip_that_is_hard_under_every_seed_counts_once() -> None:
    row = np.random.default_rng(4).integers(-1, 2, size=(1, 500))
    once, thrice = mean_interval(row), mean_interval(np.tile(row, (3, 1)))
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.1)


def test_it_is_the_same_each_time_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(5).integers(-1, 2, size=(3, 50))
    whole = mean_interval(table, draws=3000)
    assert mean_interval(table, draws=3000) == whole
    monkeypatch.setattr(bootstrap, "BLOCK", 1000)
    parts = mean_interval(table, draws=3000)
    assert [parts.low, parts.high] == pytest.approx([whole.low, whole.high], abs=0.02)


@pytest.mark.parametrize("table", [np.zeros((0, 3)), np.zeros(3), np.array([[np.nan]])])
def test_what_is_no_table_of_numbers_is_rejected(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no table of numbers"):
        mean_interval(table)
