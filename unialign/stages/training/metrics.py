"""Accuracies of a split, from all its scores at once.

Legend: N samples, L classes. Scores may be logits, log-probabilities or probabilities: only their order counts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Share of samples whose label is among the k best classes, in [0, 1]. scores (N, L), labels (N,).

    Classes with equal scores rank in class order, so a constant output is no lucky hit.
    Raises ValueError for no samples, scores that are NaN, labels out of range, or k outside 1 to L.
    """
    values, truth = _checked(scores, labels)
    if not 1 <= k <= values.shape[1]:
        raise ValueError(f"top-{k} needs at least {k} classes, there are {values.shape[1]}")
    return _top_k(values, truth, k)


def _top_k(values: NDArray[np.floating], truth: NDArray[np.int64], k: int) -> float:
    best = np.argsort(-values, axis=1, kind="stable")[:, :k]  # (N, k)
    return float((best == truth[:, None]).any(axis=1).mean())


def confusion_matrix(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Counts (L, L): row the true class, column the predicted one."""
    cells = np.asarray(labels, dtype=np.int64) * num_classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_class_accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Mean over the classes of the labels of the share of their samples that is right, in [0, 1]. Both (N,).

    The class list is that of the labels, whatever is predicted: a list of "labels or predictions", which some
    programs use, moves the denominator with the model.
    """
    guesses, truth = np.asarray(predictions), np.asarray(labels)
    if not truth.size:
        raise ValueError("there are no samples to score")
    return float(np.mean([np.mean(guesses[truth == label] == label) for label in np.unique(truth)]))


def evaluation(
    scores: ArrayLike, labels: ArrayLike, missing_labels: Sequence[int] = (), *, unknown: int = 0
) -> dict[str, float]:
    """All numbers of one split. scores (N, L), labels (N,).

    missing_labels: labels of the split's samples that have no scores (no usable video, no cache entry). unknown:
    classes that the model has no column for; they are labels from L on, and their samples are wrong.

    top1, top5 (only where L > 5), mean_class: over the samples that have scores;
    coverage: their share of the split;
    top1_missing_wrong, mean_class_missing_wrong: over the whole split, a sample without scores counted as wrong.
    """
    values, truth = _checked(scores, labels, unknown)
    num_samples, num_classes = values.shape
    guesses = values.argmax(axis=1)
    absent = np.asarray(missing_labels, dtype=np.int64)
    all_guesses = np.concatenate([guesses, np.full(len(absent), -1)])
    all_labels = np.concatenate([truth, absent])
    result = {"top1": _top_k(values, truth, 1)}
    if num_classes > 5:
        result["top5"] = _top_k(values, truth, 5)
    return result | {
        "mean_class": mean_class_accuracy(guesses, truth),
        "coverage": num_samples / len(all_labels),
        "top1_missing_wrong": float((all_guesses == all_labels).mean()),
        "mean_class_missing_wrong": mean_class_accuracy(all_guesses, all_labels),
    }


def _checked(scores: ArrayLike, labels: ArrayLike, unknown: int = 0) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    values, truth = np.asarray(scores), np.asarray(labels, dtype=np.int64)
    if not len(values):
        raise ValueError("there are no samples to score")
    if values.ndim != 2 or truth.shape != (len(values),):
        raise ValueError(f"scores {values.shape} and labels {truth.shape} are not (N, L) and (N,)")
    if np.isnan(values).any():
        raise ValueError("some scores are not a number")
    if truth.min() < 0 or truth.max() >= values.shape[1] + unknown:
        raise ValueError(f"labels run from {truth.min()} to {truth.max()}, but there are {values.shape[1]} classes")
    return values, truth
