"""Zero-shot accuracies against literal loops, and choices that never see the unseen test classes."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.errors import UsageError
from unialign.stages.training.zero_shot import (
    Calibration,
    choose_calibration,
    generalised_accuracy,
    pseudo_unseen_classes,
    select_epoch,
)

SEEN, UNSEEN = (0, 2, 3), (1, 4)
CASES = st.integers(0, 2**32 - 1)


def case(seed: int, num_samples: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties and labels of both kinds; the seen classes' scores are higher, as in practice."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], generator.integers(0, 5, num_samples - 2)])
    scores = generator.integers(-3, 4, (num_samples, 5)).astype(float)
    scores[np.arange(num_samples), labels] += generator.integers(0, 4, num_samples)
    scores[:, SEEN] += 2
    return scores, labels


def literal(scores: np.ndarray, labels: np.ndarray, value: float) -> tuple[float, float]:
    """Accuracies of both kinds: subtract from the seen classes, take the best; equal ones go to the unseen classes."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    for row, label in zip(scores, labels, strict=True):
        lowered = {c: row[c] - value if c in SEEN else row[c] for c in range(5)}
        best = max([*UNSEEN, *SEEN], key=lambda c: lowered[c])
        right[label in SEEN].append(best == label)
    return float(np.mean(right[True])), float(np.mean(right[False]))


def harmonic(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second else 0.0


@settings(max_examples=60, deadline=None)
@given(CASES, st.sampled_from([-4.0, -0.5, 0.0, 1.0, 2.5, 9.0]))
def test_generalised_accuracy_equals_literal_loops(seed: int, value: float) -> None:
    scores, labels = case(seed)
    found = generalised_accuracy(scores, labels, seen=SEEN, unseen=UNSEEN, calibration=Calibration(value, ()))
    expected = literal(scores, labels, value)
    assert (found["seen"], found["unseen"]) == pytest.approx(expected)
    assert found["harmonic"] == pytest.approx(harmonic(*expected))


@settings(max_examples=20, deadline=None)
@given(CASES)
def test_the_area_and_the_best_calibration_equal_a_sweep(seed: int) -> None:
    scores, labels = case(seed)
    sweep = [literal(scores, labels, value) for value in np.arange(-14, 14, 0.5)]  # seen falls, unseen rises
    area = sum((b[1] - a[1]) * (a[0] + b[0]) / 2 for a, b in pairwise(sweep))
    assert generalised_accuracy(scores, labels, seen=SEEN, unseen=UNSEEN)["area"] == pytest.approx(area)
    chosen = choose_calibration(scores, labels, seen=SEEN, pseudo_unseen=UNSEEN)
    assert harmonic(*literal(scores, labels, chosen.value)) == pytest.approx(max(harmonic(*each) for each in sweep))


def test_a_calibration_that_saw_test_classes_is_rejected() -> None:
    scores, labels = case(0)
    chosen = choose_calibration(scores, labels, seen=SEEN, pseudo_unseen=UNSEEN)
    assert chosen.classes == UNSEEN
    with pytest.raises(ValueError, match=r"chosen on classes \[1, 4\], which are tested as unseen"):
        generalised_accuracy(scores, labels, seen=SEEN, unseen=UNSEEN, calibration=chosen)


def test_a_fair_calibration_helps_unseen_classes_of_a_biased_model() -> None:
    """Classes 0 to 3 are trained, 2 and 3 play unseen ones, 4 and 5 are the test: the bias is the same for both."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 6, 600)
    scores = generator.normal(size=(600, 6)) * 0.3
    scores[np.arange(600), labels] += 1.5
    held_out = np.isin(labels, [0, 1, 2, 3])
    validation, test = scores.copy(), scores.copy()
    validation[:, :2] += 2
    test[:, :4] += 2
    chosen = choose_calibration(validation[held_out], labels[held_out], seen=(0, 1), pseudo_unseen=(2, 3))
    arguments: dict[str, Any] = {"seen": (0, 1, 2, 3), "unseen": (4, 5)}
    plain = generalised_accuracy(test, labels, **arguments)
    calibrated = generalised_accuracy(test, labels, **arguments, calibration=chosen)
    assert plain["harmonic"] < 0.5 < 0.9 < calibrated["harmonic"]
    assert plain["area"] == calibrated["area"]


def test_labels_of_neither_kind_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"labels \[2\] are not among the candidate classes"):
        generalised_accuracy(np.eye(3), [0, 1, 2], seen=(0,), unseen=(1,))


HISTORY = [
    {"epoch": 1, "validation": 0.5, "unseen": 0.2},
    {"epoch": 2, "validation": 0.7, "unseen": 0.4},
    {"epoch": 3, "validation": 0.7, "unseen": 0.9},
]


def test_the_epoch_is_chosen_without_the_test_unless_the_published_rule_is_asked_for() -> None:
    clean = select_epoch(HISTORY)
    assert (clean.row["epoch"], clean.rule, clean.clean) == (2, "validation", True)
    changed = select_epoch([{**row, "unseen": 1 - row["unseen"]} for row in HISTORY])
    assert changed.row["epoch"] == 2
    published = select_epoch(HISTORY, published_rule=True)
    assert (published.row["epoch"], published.clean) == (3, False)
    assert "unseen test" in published.rule


def test_without_validation_the_last_epoch_is_taken() -> None:
    rows = [{"epoch": row["epoch"], "unseen": row["unseen"]} for row in HISTORY]
    last = select_epoch([*rows[:2], {"epoch": 3, "unseen": 0.0}])
    assert (last.row["epoch"], last.rule, last.clean) == (3, "last epoch", True)
    with pytest.raises(UsageError, match="published rule cannot be applied"):
        select_epoch([{"epoch": 1}], published_rule=True)
    with pytest.raises(UsageError, match="no epoch to choose from"):
        select_epoch([])


@given(st.sets(st.integers(0, 119), min_size=2, max_size=40), st.data())
def test_pseudo_unseen_classes_are_some_of_the_seen_ones(seen: set[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(seen) - 1))
    chosen = pseudo_unseen_classes(tuple(seen), count)
    assert len(chosen) == count
    assert set(chosen) < seen
    assert chosen == pseudo_unseen_classes(sorted(seen, reverse=True), count)
    with pytest.raises(ValueError, match="cannot play unseen ones"):
        pseudo_unseen_classes(tuple(seen), len(seen))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((0, 5)), [], "no samples"),
        (np.zeros((2, 5)), [1], r"are not \(N, L\) and \(N,\)"),
        (np.full((2, 5), np.nan), [1, 4], "not finite"),
        (np.zeros((2, 5)), [1, 4], "both needed"),
    ],
)
def test_scores_that_cannot_be_judged_are_rejected(scores: np.ndarray, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generalised_accuracy(scores, labels, seen=SEEN, unseen=UNSEEN)
    with pytest.raises(ValueError, match="both seen and unseen"):
        generalised_accuracy(*case(0), seen=(0, 1), unseen=(1, 4))
