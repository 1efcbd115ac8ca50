"""Accuracies against torchmetrics and literal counts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from unialign.stages.training.metrics import (
    confused_pairs,
    confusion_matrix,
    evaluation,
    mean_class_accuracy,
    shown,
    top_k_accuracy,
)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), num_samples=st.integers(1, 40), num_classes=st.integers(2, 9))
def test_all_agree_with_torchmetrics(seed: int, num_samples: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((num_samples, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, num_samples)
    guesses = scores.argmax(axis=1)
    tensors = torch.from_numpy(scores), torch.from_numpy(labels)
    for k in range(1, num_classes + 1):
        expected = multiclass_accuracy(*tensors, num_classes=num_classes, top_k=k, average="micro")
        assert top_k_accuracy(scores, labels, k) == pytest.approx(float(expected))
    expected = multiclass_confusion_matrix(*tensors, num_classes=num_classes)
    assert confusion_matrix(guesses, labels, num_classes).tolist() == expected.tolist()
    per_class = multiclass_accuracy(*tensors, num_classes=num_classes, average="none")
    present = np.unique(labels)
    assert mean_class_accuracy(guesses, labels) == pytest.approx(float(per_class[torch.from_numpy(present)].mean()))


def test_mean_class_counts_only_classes_of_the_labels() -> None:
    # Class 2 is predicted but has no samples; class 3 is neither. Both leave the mean alone.
    assert mean_class_accuracy([0, 2, 1, 1], [0, 0, 1, 1]) == pytest.approx((0.5 + 1.0) / 2)


def test_equal_scores_rank_in_class_order() -> None:
    scores = np.zeros((4, 4))
    assert top_k_accuracy(scores, np.arange(4), 1) == 0.25
    assert top_k_accuracy(scores, np.arange(4), 2) == 0.5


def test_confusion_rows_are_true_classes() -> None:
    assert confusion_matrix([1, 1, 0], [0, 0, 2], 3).tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


def test_missing_samples_count_as_wrong() -> None:
    scores = np.eye(6)[[0, 1, 2, 5]]
    result = evaluation(scores, [0, 1, 2, 3], missing_labels=[0, 4])
    assert result == {
        "top1": 0.75,
        "top5": pytest.approx(1.0),  # class 3 is fourth in class order
        "mean_class": 0.75,
        "coverage": pytest.approx(4 / 6),
        "top1_missing_wrong": 0.5,
        "mean_class_missing_wrong": pytest.approx((0.5 + 1 + 1 + 0 + 0) / 5),
    }


def test_nothing_missing_gives_the_same_numbers_and_few_classes_have_no_top5() -> None:
    result = evaluation([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], [0, 1, 1])
    assert "top5" not in result
    assert result["coverage"] == 1.0
    assert result["top1_missing_wrong"] == result["top1"] == pytest.approx(2 / 3)
    assert result["mean_class_missing_wrong"] == result["mean_class"] == 0.75


def test_people_read_percent_and_what_only_matters_if_clips_are_missing_only_then() -> None:
    scores, labels = np.eye(2)[[0, 1, 1]], np.array([0, 1, 0])
    assert shown(evaluation(scores, labels)) == {"top-1": "66.7%", "mean class": "75.0%"}
    with_missing = shown(evaluation(scores, labels, [0]))
    assert with_missing["coverage"] == "75.0%"
    assert with_missing["top-1, missing as wrong"] == "50.0%"
    # An earlier version's metric, whose unit is not known.
    assert shown({"old_metric": 0.5}) == {"old metric": "0.5000"}


def test_bad_input_is_rejected() -> None:
    with pytest.raises(ValueError, match="no samples"):
        evaluation(np.zeros((0, 3)), [])
    with pytest.raises(ValueError, match="not a number"):
        evaluation([[0.0, float("nan")]], [0])
    with pytest.raises(ValueError, match="labels run from 2 to 2, but there are 2 classes"):
        evaluation([[0.0, 1.0]], [2])
    with pytest.raises(ValueError, match=r"not \(N, L\) and \(N,\)"):
        evaluation([[0.0, 1.0]], [0, 1])
    with pytest.raises(ValueError, match="no samples"):
        mean_class_accuracy([], [])


def test_confused_pairs_are_the_largest_errors_first() -> None:
    confusion = np.array([[5, 2, 0], [1, 0, 2], [0, 0, 0]])
    assert confused_pairs(confusion, ["a", "b", "c"]) == [
        {"true": "b", "predicted": "c", "samples": 2, "share": pytest.approx(2 / 3)},
        {"true": "a", "predicted": "b", "samples": 2, "share": pytest.approx(2 / 7)},
        {"true": "b", "predicted": "a", "samples": 1, "share": pytest.approx(1 / 3)},
    ]
    assert confused_pairs(confusion, ["a", "b", "c"], most=1)[0]["predicted"] == "c"
    assert confused_pairs(np.eye(3, dtype=np.int64), ["a", "b", "c"]) == []
