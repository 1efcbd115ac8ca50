"""An order of classes in which those that are taken for each other stand together.

Legend: L classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

# Classes are one group if on average this share of their clips is taken for one another.
LEAST_SHARE = 0.04


def confusion_groups(confusion: NDArray[np.int64]) -> list[list[int]]:
    """Groups of classes, in an order in which neighbours are confused most; each with its labels in that order.

    confusion (L, L): rows true, columns answers. Average linkage on the share of clips that two classes exchange
    (mean of both directions). Ties keep the order of labels.
    """
    count = len(confusion)
    if count < 3:
        return [[label] for label in range(count)]
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    near = (shares + shares.T) / 2
    np.fill_diagonal(near, 0)
    tree = linkage(squareform(1 - near, checks=False), "average")
    groups = fcluster(tree, 1 - LEAST_SHARE, "distance")
    by_group: dict[int, list[int]] = {}
    for label in leaves_list(tree).tolist():
        by_group.setdefault(int(groups[label]), []).append(label)
    return sorted(by_group.values(), key=lambda labels: (len(labels) == 1, min(labels)))


def group_names(groups: Sequence[Sequence[int]], classes: Sequence[str]) -> list[str]:
    """For each group the names of its first two classes and how many more there are."""
    return [
        " / ".join(classes[label] for label in labels[:2]) + (f" + {len(labels) - 2}" if len(labels) > 2 else "")
        for labels in groups
    ]


def boxes(groups: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Where in the order of classes each group of several classes begins, and how many it has."""
    starts = np.cumsum([0, *map(len, groups)]).tolist()
    return [(start, len(labels)) for start, labels in zip(starts, groups, strict=False) if len(labels) > 1]
