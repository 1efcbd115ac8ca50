"""The interval of an accuracy that was measured once: what other test clips of the same kind could have given."""

import math

# The 97.5 % quantile of the normal distribution.
QUANTILE = 1.959963984540054


def wilson_interval(right: float, total: int) -> tuple[float, float]:
    """The 95 % score interval of a share, in [0, 1] (Wilson, Journal of the American Statistical Association
    22:209-212, 1927). It stays inside [0, 1], also for few clips and shares near 0 or 1.

    It takes clips for independent: clips of one person or one video are alike, and the true interval is then wider.
    (0, 1) without clips.
    """
    if total <= 0:
        return 0.0, 1.0
    share, square = right / total, QUANTILE**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = QUANTILE * math.sqrt(share * (1 - share) / total + square / (4 * total**2)) / (1 + square / total)
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))
