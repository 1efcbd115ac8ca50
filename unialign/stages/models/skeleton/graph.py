"""Joint layouts: names, bones, left/right pairs, and the graph partition that skeleton networks start from.

Legend: V joints, K = 3 subsets of neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """One order of joints.

    joints: names in order; a pair is named "left ..." and "right ..." (the person's own left and right).
    bones: (child, parent) pairs that point towards `centre` and make a tree.
    centre: the joint that all bones lead to.
    spine: (lower, upper) joint that 3-D recipes turn parallel to z; the upper is their origin. None for 2-D layouts.
    shoulders: (right, left) joint that 3-D recipes turn parallel to x.
    """

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    centre: int
    spine: tuple[int, int] | None
    shoulders: tuple[int, int]

    @property
    def mirror(self) -> tuple[int, ...]:
        """For each joint the index of its counterpart on the other side of the body; itself on the middle line."""
        swap = {"left": "right", "right": "left"}
        names = [" ".join(swap.get(word, word) for word in joint.split()) for joint in self.joints]
        return tuple(self.joints.index(name) for name in names)


def spatial_partition(layout: Layout) -> np.ndarray:
    """Adjacency (3, V, V) in float32: root, centripetal, centrifugal.

    Entry [k, v, w] is how much joint w takes from joint v. Every column of a subset sums to 1, or to 0 where a joint
    has no such neighbour: the centre has no parent, the tips have no children.

    Source: the "spatial" graph of PYSKL (arXiv 2205.09443; kennymckormick/pyskl, utils/graph.py), which differs from
    ST-GCN's in normalising each subset by itself.
    """
    count = len(layout.joints)
    subsets = np.zeros((3, count, count))
    subsets[0] = np.eye(count)
    for child, parent in layout.bones:
        subsets[1, parent, child] = 1
        subsets[2, child, parent] = 1
    return np.asarray(subsets / np.maximum(subsets.sum(axis=1, keepdims=True), 1), np.float32)


def layout_of(joints: str | Sequence[str]) -> Layout | None:
    """The layout with this name, or with these joint names in this order; None when there is none."""
    if isinstance(joints, str):
        return LAYOUTS.get(joints)
    plain = tuple(name.replace("_", " ") for name in joints)
    return next((layout for layout in LAYOUTS.values() if layout.joints == plain), None)


# Source: the joint table of NTU RGB+D (Kinect v2); bones as in PYSKL, where tips and thumbs hang on the hand.
NTU_25 = Layout(
    name="ntu-25",
    joints=(
        "spine base",
        "spine middle",
        "neck",
        "head",
        *("left shoulder", "left elbow", "left wrist", "left hand"),
        *("right shoulder", "right elbow", "right wrist", "right hand"),
        *("left hip", "left knee", "left ankle", "left foot"),
        *("right hip", "right knee", "right ankle", "right foot"),
        "spine shoulder",
        *("left hand tip", "left thumb", "right hand tip", "right thumb"),
    ),
    bones=(
        *((0, 1), (1, 20), (2, 20), (3, 2)),
        *((4, 20), (5, 4), (6, 5), (7, 6), (8, 20), (9, 8), (10, 9), (11, 10)),
        *((12, 0), (13, 12), (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18)),
        *((21, 7), (22, 7), (23, 11), (24, 11)),
    ),
    centre=20,
    spine=(0, 1),
    shoulders=(8, 4),
)

# Source: the COCO keypoint order; bones as in PYSKL, where the hips hang on the shoulders.
COCO_17 = Layout(
    name="coco-17",
    joints=(
        *("nose", "left eye", "right eye", "left ear", "right ear"),
        *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
        *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
    ),
    bones=(
        *((1, 0), (2, 0), (3, 1), (4, 2), (5, 0), (6, 0), (7, 5), (8, 6), (9, 7), (10, 8)),
        *((11, 5), (12, 6), (13, 11), (14, 12), (15, 13), (16, 14)),
    ),
    centre=0,
    spine=None,
    shoulders=(6, 5),
)

# Source: the joint list of UTD-MHAD (Kinect v1).
UTD_20 = Layout(
    name="utd-20",
    joints=(
        *("head", "spine shoulder", "spine middle", "spine base"),
        *("left shoulder", "left elbow", "left wrist", "left hand"),
        *("right shoulder", "right elbow", "right wrist", "right hand"),
        *("left hip", "left knee", "left ankle", "left foot"),
        *("right hip", "right knee", "right ankle", "right foot"),
    ),
    bones=(
        *((0, 1), (2, 1), (3, 2), (4, 1), (5, 4), (6, 5), (7, 6), (8, 1), (9, 8), (10, 9), (11, 10)),
        *((12, 3), (13, 12), (14, 13), (15, 14), (16, 3), (17, 16), (18, 17), (19, 18)),
    ),
    centre=1,
    spine=(3, 2),
    shoulders=(8, 4),
)

LAYOUTS = {layout.name: layout for layout in (NTU_25, COCO_17, UTD_20)}
