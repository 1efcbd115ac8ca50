"""What each head of a system weighs in its prediction, fitted on samples that it was not trained on.

    p ~ product over heads h of p_h ** w_h

A weight says how reliable a head is, and how sure it may be: a head that is often wrong and always sure would outvote
better ones in any weighted mean of probabilities. Where one head is clearly better than each of the others, and the
product is no better than it, that head answers alone: where it makes no errors, likelihood no longer says what the
others are worth, and their weights cost accuracy. Source of the form: logarithmic opinion pools (T. Heskes, Selecting
Weighting Factors in Logarithmic Opinion Pools, NIPS 1997); the prior and the choice are this project's.

Legend: H heads, N samples, L classes.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Precision of a normal prior around equal weights, 1 / H each; a few val samples move them already.
PRIOR = 0.1
# Lowest weight: where no head is better than chance, the most likely class is that of their product all the same.
LEAST = 1e-3
SMALLEST = 1e-12  # probability


def joint_weights(heads: Mapping[str, NDArray[np.floating]], labels: Sequence[int]) -> dict[str, float]:
    """`reliable_weights`, or 1 for the only head that is worth asking and 0 for the others.

    One head is, if it is right on at least as many of the samples as the product, and on more than each other head by
    more than a standard error of that paired difference. heads, labels: as in `reliable_weights`.
    """
    weights, truth = reliable_weights(heads, labels), np.asarray(labels, np.int64)
    right = {name: scores.argmax(axis=1) == truth for name, scores in heads.items()}
    best = max(right, key=lambda name: right[name].sum())
    product = weighted(heads, weights).argmax(axis=1) == truth
    if product.sum() <= right[best].sum() and all(
        clearly_more(right[best], others) for name, others in right.items() if name != best
    ):
        return {name: float(name == best) for name in heads}
    return weights


def clearly_more(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether one is true more often, by more than a standard error. Both (N,), of the same samples.

    Only samples where they differ count (McNemar's test): of n such, the difference has the standard error sqrt(n).
    """
    ahead, behind = int((one & ~other).sum()), int((other & ~one).sum())
    return ahead - behind > math.sqrt(ahead + behind)


def reliable_weights(heads: Mapping[str, NDArray[np.floating]], labels: Sequence[int]) -> dict[str, float]:
    """The weights with the highest likelihood of the labels under the prior; 1 / H each without samples.

    heads: (N, L) probabilities of each. labels: (N,); those without a column in the heads (from L on) are ignored. The
    problem is concave, so there is one optimum.
    """
    from scipy.optimize import minimize

    truth = np.asarray(labels, np.int64)
    known = np.flatnonzero(truth < next(iter(heads.values())).shape[1])
    logs, right = _logarithms(heads)[:, known], truth[known]  # (H, N, L)
    of_truth = logs[:, np.arange(len(known)), right]  # (H, N)
    equal = np.full(len(heads), 1 / len(heads))

    def cost(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        pooled = _pooled(logs, weights)
        likelihood = np.log(np.maximum(pooled[np.arange(len(known)), right], SMALLEST)).sum()
        slope = (of_truth - (pooled * logs).sum(axis=2)).sum(axis=1)
        away = weights - equal
        return float(PRIOR / 2 * away @ away - likelihood), PRIOR * away - slope

    found = minimize(cost, equal, jac=True, method="L-BFGS-B", bounds=[(LEAST, None)] * len(heads)).x
    return dict(zip(heads, map(float, found), strict=True))


def weighted(heads: Mapping[str, NDArray[np.floating]], weights: Mapping[str, float]) -> NDArray[np.floating]:
    """The probabilities (N, L) that the heads predict together; rows sum to 1."""
    pooled = _pooled(_logarithms(heads), np.array([weights[name] for name in heads]))
    return pooled.astype(next(iter(heads.values())).dtype)


def _logarithms(heads: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
    """(H, N, L)."""
    return np.log(np.maximum(np.stack(list(heads.values())).astype(np.float64), SMALLEST))


def _pooled(logs: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, L), rows sum to 1."""
    scores = np.tensordot(weights, logs, axes=1)
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
