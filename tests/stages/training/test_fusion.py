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
        weights = reliable_weights({"good": good, "bad": bad}, labels)
        found.append(weights["good"] / sum(weights.values()))
    assert found[0] == pytest.approx(0.5)
    assert found == sorted(found)
    assert found[-1] > 0.95


def test_a_head_that_is_wrong_and_sure_does_not_outvote_one_that_is_right_and_unsure() -> None:
    right, labels = head(0.8, 12, confidence=0.3)
    sure, _ = head(0.25, 12, confidence=0.999)
    weights = reliable_weights({"right": right, "sure": sure}, labels)
    assert (weighted({"right": right, "sure": sure}, weights).argmax(axis=1) == right.argmax(axis=1)).all()
    assert ((right + sure).argmax(axis=1) == sure.argmax(axis=1)).all()


def test_the_mixture_of_a_good_and_a_useless_head_answers_as_the_good_one() -> None:
    good, labels = head(1.0, 60, confidence=0.6)
    noise, _ = head(0.25, 60, confidence=0.99, seed=1)
    weights = reliable_weights({"good": good, "noise": noise}, labels)
    mixed = weighted({"good": good, "noise": noise}, weights)
    assert (mixed.argmax(axis=1) == labels).mean() > ((good + noise).argmax(axis=1) == labels).mean()
    assert np.allclose(mixed.sum(axis=1), 1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(0, 1000))
def test_whatever_the_samples_a_prediction_is_a_distribution(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    heads = {name: generator.dirichlet(np.ones(3), count) for name in ("a", "b", "c")}
    weights = reliable_weights(heads, generator.integers(0, 5, count).tolist())
    assert all(0 < weight < np.inf for weight in weights.values())
    assert np.allclose(weighted(heads, weights).sum(axis=1), 1)


def test_equal_heads_weigh_the_same_and_unknown_classes_do_not_count() -> None:
    scores, labels = head(0.5, 10)
    found = reliable_weights({"a": scores, "b": scores}, [*labels[:9], 4])
    assert found["a"] == pytest.approx(found["b"])
    assert found == pytest.approx(reliable_weights({"a": scores[:9], "b": scores[:9]}, labels[:9]), rel=1e-4)
