"""The graph partition that skeleton networks start from.

Legend: V joints, K = 3 subsets of neighbors.
"""

import numpy as np

from unialign.stages.skeleton_layouts import Layout


def spatial_partition(layout: Layout) -> np.ndarray:
    """Adjacency (3, V, V) in float32: root, centripetal, centrifugal.

    Entry [k, v, w] is how much joint w takes from joint v. Every column of a subset sums to 1, or to 0 where a joint
    has no such neighbor: the center has no parent, the tips have no children.

    Source: the "spatial" graph of PYSKL (arXiv 2205.09443; kennymckormick/pyskl, utils/graph.py), which differs from
    ST-GCN's in normalizing each subset by itself.
    """
    count = len(layout.joints)
    subsets = np.zeros((3, count, count))
    subsets[0] = np.eye(count)
    for child, parent in layout.bones:
        subsets[1, parent, child] = 1
        subsets[2, child, parent] = 1
    return np.asarray(subsets / np.maximum(subsets.sum(axis=1, keepdims=True), 1), np.float32)
