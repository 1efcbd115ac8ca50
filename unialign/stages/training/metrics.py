"""Metrics of a split, from all its scores at once: one row of `METRICS` each.

Legend: N samples, L classes. Scores may be logits, log-probabilities or probabilities: only their order counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray


def top_k_accuracy(scores: NDArray[np.floating], labels: NDArray[np.int64], k: int) -> float:
    """Fraction of samples whose label is among the k best classes, in [0, 1]. scores (N, L), labels (N,).

    Classes with equal scores rank in class order, so a constant output gains nothing by chance.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # (N, k)
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion_matrix(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Counts (L, L): row the true class, column the predicted one."""
    cells = np.asarray(labels, dtype=np.int64) * num_classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def confused_pairs(
    confusion: NDArray[np.int64], classes: Sequence[str], most: int = 10
) -> list[dict[str, str | int | float]]:
    """The most frequent errors of a confusion matrix (L, L): {"true", "predicted", "samples", "share"}.

    share: of the samples of the true class. Most samples first, then the larger share, then in class order; at most
    `most` pairs.
    """
    wrong = confusion - np.diag(np.diag(confusion))
    shares = wrong / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    pairs = sorted(np.argwhere(wrong).tolist(), key=lambda pair: (-wrong[*pair], -shares[*pair], pair))
    return [
        {
            "true": classes[true],
            "predicted": classes[guess],
            "samples": int(wrong[true, guess]),
            "share": float(shares[true, guess]),
        }
        for true, guess in pairs[:most]
    ]


def mean_class_accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Mean over the classes in the labels of the accuracy on their samples, in [0, 1]. Both (N,).

    The class list is that of the labels, whatever is predicted: with "labels or predictions", which some programs use,
    the denominator would depend on the model.
    """
    guesses, truth = np.asarray(predictions), np.asarray(labels)
    if not truth.size:
        raise ValueError("there are no samples to score")
    return float(np.mean([np.mean(guesses[truth == label] == label) for label in np.unique(truth)]))


@dataclass(frozen=True, eq=False)
class Scored:
    """One part of a split, as the input of a metric: scores (N, L) and labels (N,) of the samples that have scores.

    missing (M,): labels of the others (no usable video, no cache entry). unknown: number of classes for which the model
    has no column; they are labels from L on. choices: number of columns that are chosen among, if not all.
    """

    scores: NDArray[np.floating]
    labels: NDArray[np.int64]
    missing: NDArray[np.int64]
    unknown: int = 0
    choices: int = 0

    @cached_property
    def guesses(self) -> NDArray[np.int64]:
        """The best class of each sample, (N,)."""
        return np.asarray(self.scores.argmax(axis=1), dtype=np.int64)

    @cached_property
    def all_labels(self) -> NDArray[np.int64]:
        """Labels of the whole part, (N + M,)."""
        return np.concatenate([self.labels, self.missing])

    @cached_property
    def all_guesses(self) -> NDArray[np.int64]:
        """Predictions for the whole part, (N + M,); -1, which is always wrong, without scores."""
        return np.concatenate([self.guesses, np.full(len(self.missing), -1)])


@dataclass(frozen=True)
class Metric:
    """One row of `METRICS`; everything that shows metrics uses them.

    compute: a number; None if it has no meaning; or, with `per_class`, an array with a number for each of the L +
        unknown classes, NaN for a class without samples. title: of its column. percent: tables show percent with one
        decimal; otherwise the number with three. if_missing: only meaningful if samples are missing, so tables leave it
        out if none is.
    """

    title: str
    compute: Callable[[Scored], float | NDArray[np.floating] | None]
    percent: bool = True
    per_class: bool = False
    if_missing: bool = False

    def text(self, value: float) -> str:
        """A value, or a spread of values, as tables show it."""
        return f"{100 * value:.1f}" if self.percent else f"{value:.3f}"

    def spoken(self, value: float) -> str:
        """A value by itself, with its unit."""
        return f"{self.text(value)}%" if self.percent else self.text(value)


def accuracy_by_class(scored: Scored) -> NDArray[np.floating]:
    """Accuracy on the samples of each class that have scores; NaN for a class without any."""
    num_classes = scored.scores.shape[1] + scored.unknown
    counts = np.bincount(scored.labels, minlength=num_classes)
    right = np.bincount(scored.labels[scored.guesses == scored.labels], minlength=num_classes)
    return np.where(counts, right / np.maximum(counts, 1), np.nan)


# All metrics of a split, in the order in which they are shown. A new one is a function and a row.
METRICS: dict[str, Metric] = {
    "top1": Metric("top-1", lambda scored: top_k_accuracy(scored.scores, scored.labels, 1)),
    "top5": Metric(
        "top-5",
        lambda scored: (
            top_k_accuracy(scored.scores, scored.labels, 5) if (scored.choices or scored.scores.shape[1]) > 5 else None
        ),
    ),
    "mean_class": Metric("mean class", lambda scored: mean_class_accuracy(scored.guesses, scored.labels)),
    "coverage": Metric("coverage", lambda scored: len(scored.labels) / len(scored.all_labels), if_missing=True),
    "top1_missing_wrong": Metric(
        "top-1, missing as wrong",
        lambda scored: float((scored.all_guesses == scored.all_labels).mean()),
        if_missing=True,
    ),
    "mean_class_missing_wrong": Metric(
        "mean class, missing as wrong",
        lambda scored: mean_class_accuracy(scored.all_guesses, scored.all_labels),
        if_missing=True,
    ),
    "accuracy": Metric("accuracy", accuracy_by_class, per_class=True),
}


def evaluation(
    scores: ArrayLike, labels: ArrayLike, missing_labels: Sequence[int] = (), *, unknown: int = 0, choices: int = 0
) -> dict[str, float]:
    """All numbers of one split, by their names in `METRICS`; see `Scored` for the arguments.

    top1, top5 (only with more than 5 choices), mean_class: over the samples that have scores;
    coverage: their share of the split;
    top1_missing_wrong, mean_class_missing_wrong: over the whole split, a sample without scores counted as wrong.
    """
    return evaluation_overall(scored_part(scores, labels, missing_labels, unknown=unknown, choices=choices))


def evaluation_overall(scored: Scored) -> dict[str, float]:
    """The metrics that are one number, by their names in `METRICS`; without those that have no meaning here."""
    found = {name: metric.compute(scored) for name, metric in METRICS.items() if not metric.per_class}
    return {name: float(value) for name, value in found.items() if value is not None}


def evaluation_by_class(scored: Scored) -> dict[str, list[float | None]]:
    """The metrics that have a value for each class, by their names in `METRICS`; None for a class without samples."""
    found = {name: metric.compute(scored) for name, metric in METRICS.items() if metric.per_class}
    return {
        name: [None if np.isnan(value) else float(value) for value in np.asarray(values, dtype=np.float64)]
        for name, values in found.items()
        if values is not None
    }


def scored_part(
    scores: ArrayLike, labels: ArrayLike, missing_labels: Sequence[int] = (), *, unknown: int = 0, choices: int = 0
) -> Scored:
    """The input of metrics. Raises ValueError for arrays that do not fit, no samples, and scores that are NaN."""
    values, truth = _checked(scores, labels, unknown)
    return Scored(values, truth, np.asarray(missing_labels, dtype=np.int64), unknown, choices)


def shown(metrics: Mapping[str, float]) -> dict[str, str]:
    """Metrics for people, by their titles; also those computed by an earlier version.

    Those that only mean something if samples are missing are left out if none is.
    """
    whole = metrics.get("coverage") == 1
    return {
        METRICS[name].title if name in METRICS else name.replace("_", " "): (
            METRICS[name].spoken(value) if name in METRICS else f"{value:.4f}"
        )
        for name, value in metrics.items()
        if not (whole and name in METRICS and METRICS[name].if_missing)
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
