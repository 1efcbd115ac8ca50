"""How much each head of a system is worth: weights of a mixture, from samples that it was not trained on.

Legend: N samples, L classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# As if each head had been right on so many samples more; few val samples then leave the weights near equal.
PRIOR = 1.0
ROUNDS = 200
LEAST = 1e-12


def reliable_weights(heads: Mapping[str, NDArray[np.floating]], labels: Sequence[int]) -> dict[str, float]:
    """Weights of the heads that sum to 1 and make the labels most likely under the mixture of their probabilities.

    heads: (N, L) probabilities of each. labels: (N,); those that no head has a column for (from L on) do not count.
    Expectation maximization of a mixture's weights (the problem is concave, so it ends in the best ones), with a prior
    that draws them to equal ones. Without any sample all are equal.
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
