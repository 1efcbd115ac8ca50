"""Contract of the weights of heads: those of a reliable head grow with the evidence, and few samples say little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.training.fusion import joint_weights, reliable_weights, weighted


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


def test_a_head_without_errors_answers_alone_beside_one_that_is_often_wrong() -> None:
    good, labels = head(1.0, 28, confidence=0.6)
    poor, _ = head(0.5, 28, confidence=0.9)
    poor[14:] = 0.25  # where it does not know, it says so
    heads = {"good": good, "poor": poor}
    # Likelihood alone still gives the poor head a say: the good one has no errors that would tell what it is worth.
    fitted = reliable_weights(heads, labels)
    assert fitted["poor"] > 0.2 * fitted["good"]
    found = joint_weights(heads, labels)
    assert found == {"good": 1.0, "poor": 0.0}
    assert weighted(heads, found) == pytest.approx(good, abs=1e-6)


def test_heads_that_complement_each_other_are_joined() -> None:
    labels = np.arange(40) % 4
    first, second = np.full((40, 4), 0.25), np.full((40, 4), 0.25)
    # The first head knows classes 0 and 1 and half of the rest, the second one classes 2 and 3.
    for scores, known in ((first, (labels < 2) | (np.arange(40) < 20)), (second, labels >= 2)):
        scores[known] = 0.05
        scores[known, labels[known]] = 0.85
    heads = {"first": first, "second": second}
    found = joint_weights(heads, labels.tolist())
    assert found == reliable_weights(heads, labels.tolist())
    assert (weighted(heads, found).argmax(axis=1) == labels).all()


def test_heads_that_few_samples_cannot_tell_apart_are_joined() -> None:
    good, labels = head(0.6, 10)
    other, _ = head(0.5, 10)
    heads = {"a": good, "b": other}
    assert joint_weights(heads, labels) == reliable_weights(heads, labels)
    assert joint_weights({name: scores[:0] for name, scores in heads.items()}, []) == {"a": 0.5, "b": 0.5}
