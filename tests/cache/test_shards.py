"""Contract of a shard file: what is encoded is read back, and an index that was changed is rejected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.cache.arrays import ArraySpec
from unialign.cache.shards import encode_shard, read_index, read_sample
from unialign.errors import DamagedStore


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(1, 40)), max_size=5), st.integers(1, 17))
def test_shard_codec_round_trip(lengths: list[int | None], chunk: int) -> None:
    spec = ArraySpec("x", "float32", (40, 3), ("frame", "channel"), ragged=True, chunk=chunk)
    values = [None if n is None else np.random.default_rng(n).normal(size=(n, 3)).astype("float32") for n in lengths]
    parts, checksums = encode_shard(spec, values, 6)
    assert list(checksums) == [slot for slot, value in enumerate(values) if value is not None]
    data = memoryview(b"".join(parts))
    index = read_index(spec, data, 6, "x")
    for slot, value in enumerate(values):
        if value is None:
            with pytest.raises(DamagedStore, match="missing"):
                read_sample(spec, data, index[slot], 1)
        else:
            np.testing.assert_array_equal(read_sample(spec, data, index[slot], len(value)), value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.zeros((3, 4), "float64"), "array x: float64 given, float32 declared"),
        (np.zeros((0, 4), "float32"), "shape .0, 4. given"),
        (np.zeros((6, 4), "float32"), "shape .6, 4. given"),
        (np.zeros((3, 5), "float32"), "shape .3, 5. given"),
        (np.zeros(3, "float32"), "shape .3,. given"),
    ],
)
def test_a_value_that_does_not_fit_its_array_is_rejected(value: np.ndarray, why: str) -> None:
    spec = ArraySpec("x", "float32", (5, 4), ("frame", "channel"), ragged=True)
    with pytest.raises(ValueError, match=why):
        encode_shard(spec, [value], 1)


def test_a_shard_index_that_was_changed_or_cut_is_rejected() -> None:
    spec = ArraySpec("x", "float32", (5,), ("channel",))
    data = b"".join(encode_shard(spec, [np.ones(5, "float32")], 2)[0])
    with pytest.raises(DamagedStore, match="x/c/0/0: shorter than its index"):
        read_index(spec, memoryview(data[-35:]), 2, "x/c/0/0")
    with pytest.raises(DamagedStore, match="x/c/0/0: the shard index does not match its checksum"):
        read_index(spec, memoryview(data[:-20] + b"?" + data[-19:]), 2, "x/c/0/0")
