"""Contract of the sum of bytes: exact, whatever their number and values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unialign.stages.training.byte_sums import byte_sum


@given(arrays(np.uint8, st.integers(0, 300)))
def test_it_is_the_sum(values: np.ndarray) -> None:
    assert byte_sum(values) == sum(values.tolist())


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1, 2**25])
def test_the_largest_bytes_do_not_overflow(size: int) -> None:
    assert byte_sum(np.full(size, 255, np.uint8)) == 255 * size
