"""Contract of the order: a function of its arguments, every sample once, whoever asks and wherever one resumes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.training.order import epoch_order, process_seed, rank_slice, sample_generator, sample_words


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_only() -> None:
    first = epoch_order(50, seed=3, epoch=7)
    np.testing.assert_array_equal(np.sort(first), np.arange(50))
    np.random.default_rng(0).normal(size=10)
    np.testing.assert_array_equal(first, epoch_order(50, seed=3, epoch=7))
    assert not np.array_equal(first, epoch_order(50, seed=3, epoch=8))
    assert not np.array_equal(first, epoch_order(50, seed=4, epoch=7))


def test_the_order_of_a_seed_never_changes() -> None:
    # Golden values: an order that changes between versions would make a resumed run skip and repeat samples.
    assert epoch_order(8, seed=0, epoch=0).tolist() == [4, 1, 3, 6, 0, 5, 2, 7]
    assert sample_generator(0, 1, 2).integers(0, 1000, size=3).tolist() == [626, 378, 837]


def test_samples_draw_from_streams_of_their_own() -> None:
    draws = {sample_generator(0, epoch, index).random() for epoch in range(10) for index in range(50)}
    assert len(draws) == 500
    assert sample_generator(1, 2, 3).random() == sample_generator(1, 2, 3).random()
    seeds = {process_seed(0, epoch, done, rank) for epoch in range(3) for done in range(3) for rank in range(3)}
    assert len(seeds) == 27


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(0, 60),
    batch_size=st.integers(1, 17),
    worlds=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    batches_done=st.integers(0, 70),
)
def test_resuming_on_another_world_size_continues_the_same_batches(
    num_samples: int, batch_size: int, worlds: tuple[int, int], batches_done: int
) -> None:
    order = epoch_order(num_samples, seed=1, epoch=2)
    whole = [set(order[start : start + batch_size].tolist()) for start in range(0, num_samples, batch_size)]

    def batches(world_size: int, start: int) -> list[set[int]]:
        shares = [
            rank_slice(order, rank=rank, world_size=world_size, batch_size=batch_size, start=start)
            for rank in range(world_size)
        ]
        assert len({len(each) for each in shares}) == 1
        joined = [np.concatenate(parts).tolist() for parts in zip(*shares, strict=True)]
        assert sum(map(len, joined)) == max(0, num_samples - start)  # nobody has a sample twice
        return [set(each) for each in joined]

    batches_done = min(batches_done, len(whole))
    before = batches(worlds[0], 0)[:batches_done]
    after = batches(worlds[1], batches_done * batch_size)
    assert before + after == whole


def test_shares_of_a_batch_differ_by_one_sample_at_most() -> None:
    shares = [rank_slice(np.arange(23), rank=rank, world_size=4, batch_size=10) for rank in range(4)]
    for parts in zip(*shares, strict=True):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_drop_last_leaves_out_a_batch_that_is_not_full() -> None:
    assert [len(each) for each in rank_slice(np.arange(23), rank=0, world_size=1, batch_size=5, drop_last=True)] == [
        5
    ] * 4
    assert [len(each) for each in rank_slice(np.arange(23), rank=0, world_size=1, batch_size=5)] == [5] * 4 + [3]


@pytest.mark.parametrize(("rank", "world_size", "batch_size"), [(2, 2, 1), (-1, 2, 1), (0, 1, 0)])
def test_impossible_shares_are_rejected(rank: int, world_size: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match=r"processes|batch size"):
        rank_slice(np.arange(4), rank=rank, world_size=world_size, batch_size=batch_size)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**140),
    epoch=st.integers(0, 2**40),
    samples=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20),
)
def test_the_words_of_many_samples_are_those_of_their_generators(seed: int, epoch: int, samples: list[int]) -> None:
    first, second = sample_words(seed, epoch, np.array(samples, dtype=np.int64))
    for place, sample in enumerate(samples):
        expected = sample_generator(seed, epoch, sample).bit_generator.random_raw(2)
        assert [first[place], second[place]] == expected.tolist()
