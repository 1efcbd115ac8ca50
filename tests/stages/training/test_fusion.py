"""Contract of the weights of heads: those of a reliable head grow with the evidence, and few samples say little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.training.fusion import reliable_weights, weighted


def head(right: float, count: int, confidence: float = 0.9, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Probabilities (count, 4) of a head that is right on a share of the samples, and the labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    guesses = np.where(np.arange(count) < right * count, labels, (labels + 1) % 4)
    scores = np.full((count, 4), (1 - confidence) / 3)
    scores[np.arange(count), guesses] = confidence
    return scores, labels.tolist()


def test_a_head_that_is_right_more_often_weighs_more_the_more_samples_say_so() -> None:
    found = []
    for count in (0, 4, 40, 400):
        good, labels = head(1.0, count)
        bad, _ = head(0.2, count)
        found.append(reliable_weights({"good": good, "bad": bad}, labels)["good"])
    assert found[0] == pytest.approx(0.5)
    assert found == sorted(found)
    assert found[-1] > 0.95


def test_the_mixture_of_a_good_and_a_useless_head_answers_as_the_good_one() -> None:
    good, labels = head(1.0, 60, confidence=0.6)
    noise, _ = head(0.25, 60, confidence=0.99, seed=1)
    weights = reliable_weights({"good": good, "noise": noise}, labels)
    mixed = weighted({"good": good, "noise": noise}, weights)
    assert (mixed.argmax(axis=1) == labels).mean() > ((good + noise).argmax(axis=1) == labels).mean()
    assert np.allclose(mixed.sum(axis=1), 1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(0, 1000))
def test_weights_are_shares(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    heads = {name: generator.dirichlet(np.ones(3), count) for name in ("a", "b", "c")}
    weights = reliable_weights(heads, generator.integers(0, 5, count).tolist())
    assert sum(weights.values()) == pytest.approx(1)
    assert all(weight > 0 for weight in weights.values())


def test_equal_heads_weigh_the_same_and_unknown_classes_do_not_count() -> None:
    scores, labels = head(0.5, 10)
    assert reliable_weights({"a": scores, "b": scores}, [*labels[:9], 4]) == pytest.approx({"a": 0.5, "b": 0.5})
