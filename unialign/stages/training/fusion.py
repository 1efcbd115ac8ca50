"""Weights of a mixture of a system's heads, fitted on samples that it was not trained on.

Legend: N samples, L classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# As if each head had been right on this many more samples; with few val samples the weights stay nearly equal.
PRIOR = 1.0
ROUNDS = 200
LEAST = 1e-12


def reliable_weights(heads: Mapping[str, NDArray[np.floating]], labels: Sequence[int]) -> dict[str, float]:
    """Weights of the heads, summing to 1, that maximize the likelihood of the labels under the mixture.

    heads: (N, L) probabilities of each. labels: (N,); those without a column in the heads (from L on) are ignored.
    Expectation maximization of mixture weights (the problem is concave, so it converges to the optimum), with a prior
    that pulls them towards equal. Without samples all are equal.
    """
    truth = np.asarray(labels, np.int64)
    known = truth < next(iter(heads.values())).shape[1]
    places = np.flatnonzero(known)
    likelihood = np.stack([np.maximum(scores[places, truth[known]], LEAST) for scores in heads.values()])  # (H, N)
    weights = np.full(len(heads), 1 / len(heads))
    for _ in range(ROUNDS):
        shares = weights[:, None] * likelihood
        shares /= shares.sum(axis=0)
        counts = shares.sum(axis=1) + PRIOR
        weights = counts / counts.sum()
    return dict(zip(heads, weights.tolist(), strict=True))


def weighted(heads: Mapping[str, NDArray[np.floating]], weights: Mapping[str, float]) -> NDArray[np.floating]:
    """The mixture of the heads' probabilities, (N, L)."""
    return np.asarray(sum(weights[name] * scores for name, scores in heads.items()))
