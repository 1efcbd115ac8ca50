"""Classes without training samples, recognized by linear maps between features and the texts of classes.

Legend: N samples, F features per sample, L classes, E text embedding width, U candidates.

Both directions are tried. A map from texts to features makes fewer texts the nearest ones of most samples (hubs) than
one from features to texts: Shigeto et al., Ridge Regression, Hubness, and Zero-Shot Learning, ECML PKDD 2015.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unialign.stages.training.zero_shot import pseudo_unseen_classes

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
# (alpha, training features (N, F), their labels, texts (L, E), features to classify, candidates (U,)) -> labels.
Direction = Callable[[float, Features, Labels, Features, Features, Sequence[int]], Labels]

DRAWS = 8  # of seen classes that play unseen ones


@dataclass(frozen=True)
class Guessed:
    """What one baseline answers. guesses (N,): labels. chosen: its setting. seconds: to choose, fit and answer."""

    baseline: str
    guesses: Labels
    chosen: str
    seconds: float


def zero_shot_guesses(
    features: Features,
    labels: Labels,
    wanted: Features,
    texts: Mapping[str, Features],
    *,
    num_unseen: int,
    candidates: Sequence[int],
) -> Iterator[Guessed]:
    """The answers for `wanted` of every direction with every kind of text.

    features (N, F), labels (N,): of training. texts: embeddings of all classes (L, E) by kind. candidates: the classes
    to choose from. alpha is the one that is best on seen classes that play unseen ones, as many as `num_unseen`.
    """
    for name, embeddings in texts.items():
        for title, (alphas, direction) in DIRECTIONS.items():
            started = time.monotonic()
            alpha = _chosen(direction, alphas, features, labels, embeddings, num_unseen)
            guesses = direction(alpha, features, labels, embeddings, wanted, candidates)
            yield Guessed(title.format(name), guesses, f"alpha {alpha:g}", round(time.monotonic() - started, 3))


def _chosen(
    direction: Direction,
    alphas: Sequence[float],
    features: Features,
    labels: Labels,
    texts: Features,
    num_unseen: int,
) -> float:
    """The alpha with the best accuracy on held-out seen classes, over several draws of them; the first if tied."""
    seen = sorted(set(labels.tolist()))
    if len(seen) < 2:
        return alphas[0]
    right = np.zeros(len(alphas))
    for draw in range(DRAWS):
        held = pseudo_unseen_classes(seen, max(1, min(num_unseen, len(seen) - 1)), draw)
        out = np.isin(labels, held)
        for number, alpha in enumerate(alphas):
            guesses = direction(alpha, features[~out], labels[~out], texts, features[out], held)
            right[number] += (guesses == labels[out]).mean()
    return alphas[int(np.argmax(right))]


def to_texts(
    alpha: float, features: Features, labels: Labels, texts: Features, wanted: Features, candidates: Sequence[int]
) -> Labels:
    """Ridge regression from the features of samples to the texts of their classes; the most similar text answers."""
    predicted = _ridge(alpha, features, texts[labels], wanted)
    return _best(predicted @ texts[list(candidates)].T, candidates)


def from_texts(
    alpha: float, features: Features, labels: Labels, texts: Features, wanted: Features, candidates: Sequence[int]
) -> Labels:
    """Ridge regression from the texts of classes to their mean features; the closest prediction by cosine answers."""
    classes = np.unique(labels)
    center = features.mean(axis=0)
    means = np.stack([features[labels == label].mean(axis=0) for label in classes])
    predicted = _ridge(alpha, texts[classes], means, texts[list(candidates)]) - center
    lengths = np.maximum(np.linalg.norm(predicted, axis=1), 1e-12)
    return _best((wanted - center) @ (predicted / lengths[:, None]).T, candidates)


def _ridge(alpha: float, known: Features, targets: Features, wanted: Features) -> Features:
    from sklearn.linear_model import Ridge

    return np.asarray(Ridge(alpha=alpha).fit(known, targets).predict(wanted), np.float32)


def _best(scores: Features, candidates: Sequence[int]) -> Labels:
    best: Labels = np.asarray(candidates, np.int64)[scores.argmax(axis=1)]
    return best


# By the name of the row: the alphas to choose from, and the direction. Texts have unit length, features a scale of 1.
DIRECTIONS: Mapping[str, tuple[Sequence[float], Direction]] = {
    "ridge to {}": ((1.0, 10.0, 100.0, 1000.0, 10_000.0), to_texts),
    "ridge from {}": ((0.03, 0.1, 0.3, 1.0, 3.0, 10.0), from_texts),
}
