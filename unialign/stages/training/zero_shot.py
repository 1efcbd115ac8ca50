"""Zero-shot accuracies, and choosing a calibration and an epoch without using the unseen classes.

Legend: N samples, L classes. Scores (N, L) are logits or log-probabilities, one column per class; calibration subtracts
from them, so probabilities are not suitable. "Seen" classes had samples in training, "unseen" ones did not.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unialign.errors import UsageError

VALIDATION, PUBLISHED = "validation", "best epoch on the unseen test classes"


@dataclass(frozen=True)
class Calibration:
    """The value subtracted from the scores of seen classes, and the classes on whose samples it was chosen.

    classes: all that served as unseen ones; a test on any of them would not be clean.
    """

    value: float
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Selected:
    """A row of a run's history and the rule that chose it. clean: no unseen test sample was used for the choice."""

    row: Mapping[str, float]
    rule: str
    clean: bool


def generalised_accuracy(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    seen: Sequence[int],
    unseen: Sequence[int],
    calibration: Calibration | None = None,
) -> dict[str, float]:
    """All classes are candidates: "seen", "unseen" (top-1 of the samples of each kind) and "harmonic" 2SU / (S + U).

    Also "area" under the curve of seen over unseen accuracy, over all calibrations (AUSUC).
    Source: calibrated stacking and AUSUC, W.-L. Chao et al., ECCV 2016 (there with means over classes, here over
    samples as in SynSE). Without a calibration nothing is subtracted.
    Raises ValueError for a calibration that was chosen on one of the unseen classes, and if either kind has no samples.
    """
    leaked = sorted(set(unseen) & set(calibration.classes)) if calibration else []
    if leaked:
        raise ValueError(f"the calibration was chosen on classes {leaked}, which are tested as unseen")
    curve = _Curve.of(scores, labels, seen, unseen)
    right_seen, right_unseen = curve.at(calibration.value if calibration else 0.0)
    return {
        "seen": right_seen,
        "unseen": right_unseen,
        "harmonic": _harmonic(right_seen, right_unseen),
        "area": curve.area(),
    }


def choose_calibration(
    scores: ArrayLike, labels: ArrayLike, *, seen: Sequence[int], pseudo_unseen: Sequence[int]
) -> Calibration:
    """The calibration with the best harmonic mean on held-out samples of seen and pseudo-unseen classes.

    scores: of a model trained without the pseudo-unseen classes, which are training classes (see
        `pseudo_unseen_classes`). All values that make a difference are tried; the result is the middle of the best
        interval.
    """
    curve = _Curve.of(scores, labels, seen, pseudo_unseen)
    steps = np.unique(curve.gaps)
    # Between two neighboring gaps nothing changes; beyond the ends all samples fall to one side.
    tried = np.concatenate([[steps[0] - 1.0], (steps[:-1] + steps[1:]) / 2, [steps[-1] + 1.0]])
    means = [_harmonic(first, second) for first, second in zip(*curve.points(), strict=True)]
    return Calibration(float(tried[int(np.argmax(means))]), tuple(sorted(pseudo_unseen)))


def pseudo_unseen_classes(seen: Sequence[int], count: int, seed: int = 0) -> tuple[int, ...]:
    """`count` of the seen classes, ascending, that serve as unseen ones for choosing settings; deterministic.

    Raises ValueError unless at least one is chosen and one remains.
    """
    if not 1 <= count < len(seen):
        raise ValueError(f"{count} of {len(seen)} seen classes cannot play unseen ones")
    order = sorted(seen, key=lambda label: hashlib.sha256(f"{seed}/pseudo/{label}".encode()).digest())
    return tuple(sorted(order[:count]))


def select_epoch(history: Sequence[Mapping[str, float]], *, published_rule: bool = False) -> Selected:
    """The epoch to report: the one with the best "validation", or the last one if no epoch was validated.

    history: rows with "validation", a score on classes or samples that are not part of the test, and optionally
        "unseen", top-1 on the unseen test classes. Ties go to the first epoch.
    published_rule: the one with the best "unseen" instead, as in DVTA's code; the result is marked as not clean. Raises
    `UsageError` for a history without what the rule needs.
    """
    if not history:
        raise UsageError("no epoch to choose from; train for at least one.")
    rule, name = (PUBLISHED, "unseen") if published_rule else (VALIDATION, "validation")
    rows = [row for row in history if name in row]
    if rows:
        return Selected(max(rows, key=lambda row: row[name]), rule, clean=not published_rule)
    if published_rule:
        raise UsageError("no epoch was evaluated on the unseen classes; the published rule cannot be applied.")
    return Selected(history[-1], "last epoch", clean=True)


@dataclass(frozen=True, eq=False)
class _Curve:
    """Each sample's best seen score minus its best unseen one, and whether the label is the best of its own kind.

    A sample is assigned to the seen classes if its difference is above the calibration (ties: to the unseen ones).
    """

    gaps: NDArray[np.float64]
    hits: NDArray[np.bool_]
    is_seen: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: ArrayLike, labels: ArrayLike, seen: Sequence[int], unseen: Sequence[int]) -> "_Curve":
        values, truth = _checked(scores, labels)
        if set(seen) & set(unseen):
            raise ValueError(f"classes {sorted(set(seen) & set(unseen))} are both seen and unseen")
        is_seen = np.isin(truth, list(seen))
        if is_seen.all() or not is_seen.any():
            raise ValueError("samples of seen and of unseen classes are both needed")
        hits = np.empty(len(truth), dtype=bool)
        hits[is_seen] = _hits(values[is_seen], truth[is_seen], seen)
        hits[~is_seen] = _hits(values[~is_seen], truth[~is_seen], unseen)
        gaps = values[:, list(seen)].max(axis=1) - values[:, list(unseen)].max(axis=1)
        return cls(gaps, hits, is_seen)

    def at(self, calibration: float) -> tuple[float, float]:
        """Accuracies of seen and unseen samples."""
        to_seen = self.gaps > calibration
        seen = (self.hits & to_seen)[self.is_seen].mean()
        unseen = (self.hits & ~to_seen)[~self.is_seen].mean()
        return float(seen), float(unseen)

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Accuracies of seen and unseen samples below the lowest gap, between neighbors, and above the highest."""
        steps, place = np.unique(self.gaps, return_inverse=True)
        right = [np.bincount(place[who & self.hits], minlength=len(steps)) for who in (self.is_seen, ~self.is_seen)]
        below = [np.concatenate([[0], counts.cumsum()]) for counts in right]
        return (below[0][-1] - below[0]) / self.is_seen.sum(), below[1] / (~self.is_seen).sum()

    def area(self) -> float:
        """Area under seen (y) over unseen (x) accuracy, by trapezoids over all calibrations."""
        seen, unseen = self.points()
        return float(np.trapezoid(seen, unseen))


def _harmonic(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second else 0.0


def _hits(values: NDArray[np.float64], truth: NDArray[np.int64], candidates: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each label is the best of the candidates, (N,)."""
    classes = np.asarray(candidates, dtype=np.int64)
    outside = np.setdiff1d(truth, classes)
    if len(outside):
        raise ValueError(f"labels {outside.tolist()} are not among the candidate classes")
    return np.asarray(classes[values[:, classes].argmax(axis=1)] == truth)


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if not len(values):
        raise ValueError("there are no samples to score")
    if values.ndim != 2 or truth.shape != (len(values),):
        raise ValueError(f"scores {values.shape} and labels {truth.shape} are not (N, L) and (N,)")
    if not np.isfinite(values).all():
        raise ValueError("some scores are not finite")
    return values, truth
