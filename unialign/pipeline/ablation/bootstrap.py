"""A bootstrap interval for the mean of paired differences, over seeds and test samples at once.

Both are drawn: another seed would train another network, and other clips could have been the test. The same clips are
tested under every seed, so the table is resampled by whole rows and by whole columns, independently (the "pigeonhole"
bootstrap: Owen, Annals of Applied Statistics 1(2):386-411, 2007). Drawing clips within each seed on its own would take
a clip that is hard for all networks for several, and give too narrow an interval.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
DRAWS = 10_000
SEED = 0
# Numbers of a table of draws that are held at once.
BLOCK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """mean: of all differences. low, high: the ends of the interval; both equal the mean where nothing varies."""

    mean: float
    low: float
    high: float


def mean_interval(differences: ArrayLike, *, level: float = LEVEL, draws: int = DRAWS, seed: int = SEED) -> Interval:
    """The mean of a table of differences and its percentile interval. differences (S, N): seeds, samples.

    With one seed only samples are drawn, with one column (a difference a seed) only seeds. Always the same for the same
    table. With few seeds it is narrower than it should be: drawing 3 of 3 shows only two thirds of the variance.
    Raises ValueError for an empty table or one that holds something that is not a number.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"differences of shape {table.shape} are no table of numbers")
    # Relative to one of them, so that a constant table loses nothing in the sums.
    base = table[0, 0]
    patterns, counts = _distinct_columns(table - base)  # (S, P), (P,)
    num_seeds = len(table)
    generator = np.random.default_rng(seed)
    rows = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=draws)  # (draws, S)
    means = np.concatenate(
        [
            _sums(part, patterns, counts, generator)
            for part in np.array_split(rows, -(-rows.shape[0] * len(counts) // BLOCK))
        ]
    )
    means /= table.size
    mean = float((patterns @ counts).sum() / table.size)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    # Rounding must not leave the mean outside.
    return Interval(float(base + mean), float(base + min(low, mean)), float(base + max(high, mean)))


def _sums(
    rows: NDArray[np.int64], patterns: NDArray[np.float64], counts: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """The sum of each resampled table (draws,): the drawn rows (draws, S) crossed with columns drawn here."""
    num_samples = counts.sum()
    columns = generator.multinomial(num_samples, counts / num_samples, size=len(rows))  # (draws, P)
    sums: NDArray[np.float64] = ((rows @ patterns) * columns).sum(axis=1)
    return sums


def _distinct_columns(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The different columns in the order of their first appearance, and how often each occurs.

    Drawing N of N columns is drawing how often each pattern comes; of right-or-wrong differences there are at most 3^S
    patterns, however large the test. In order of appearance, so that a table and its negative are drawn alike.
    """
    patterns, first, counts = np.unique(table, axis=1, return_index=True, return_counts=True)
    order = np.argsort(first)
    return patterns[:, order], counts[order]
