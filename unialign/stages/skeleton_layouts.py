"""Joint layouts: names, bones, left/right pairs and center of every skeleton that is built in or provided by the user.

Legend: V joints, E bones.

Graphs, mirror images, plots and importers use this table. A layout that is not in it comes with the data (see
`custom_layout`); it is then stored with the store and with the encoder that was trained on it.
"""

import hashlib
import json
import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unialign.errors import UsageError
from unialign.types import Json

# Maximum number of joints of a layout that comes with data: whole-body estimators have 133 (body, hands and face).
MAX_JOINTS = 256
MAX_NAME = 64


@dataclass(frozen=True)
class Layout:
    """One order of joints.

    joints: names in order; a pair is named "left ..." and "right ..." (the person's own left and right).
    bones: (child, parent) pairs that point towards `center` and form a tree.
    center: the joint that all bones lead to.
    spine: (lower, upper) joint that 3-D recipes rotate parallel to z; the upper is their origin. None for 2-D layouts.
    shoulders: (right, left) joint that 3-D recipes rotate parallel to x; None if there is no spine.
    mirror: for each joint the index of its counterpart on the other side of the body; its own index on the midline.
    """

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    center: int
    spine: tuple[int, int] | None = None
    shoulders: tuple[int, int] | None = None
    mirror: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.mirror:
            object.__setattr__(self, "mirror", mirror_by_name(self.joints))

    @property
    def is_known(self) -> bool:
        """Whether it is a layout of the table, so that its name identifies it."""
        return LAYOUTS.get(self.name) == self

    @property
    def plain(self) -> str | dict[str, Json]:
        """Its name if that identifies it, otherwise the full description; `layout_from` reads either."""
        return self.name if self.is_known else self.described()

    def side(self, joint: int) -> str:
        """The side of the body that a joint is on, by its name: "left", "right", or "" on the midline."""
        return _side_first(self.joints[joint])[0] if self.mirror[joint] != joint else ""

    def described(self) -> dict[str, Json]:
        """The full description in plain values, from which `layout_in` recreates it."""
        return {
            "layout": self.name,
            "joints": list(self.joints),
            "bones": [list(bone) for bone in self.bones],
            "mirror": list(self.mirror),
            "center": self.center,
        }


def mirror_by_name(joints: Sequence[str]) -> tuple[int, ...]:
    """For each joint the one named for the other side: left and right, or l and r as separate words.

    A joint without such a counterpart maps to itself.
    """
    plain = [_side_first(name) for name in joints]
    swap = {"left": "right", "right": "left"}
    other = [(swap.get(side, ""), rest) for side, rest in plain]
    found = [plain.index(name) if name in plain else at for at, name in enumerate(other)]
    # If two joints have the same side and name ("l_hand", "left hand"), one has no counterpart of its own.
    return tuple(at if found[joint] != at else joint for at, joint in enumerate(found))


def _side_first(name: str) -> tuple[str, str]:
    """("left", "knee") for "left knee", "Knee_Left", "LKnee" and "l_knee"; ("", "nose") for "nose"."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=^[LR])(?=[A-Z][a-z])", " ", name)
    words = [word for word in re.split(r"[\s_.-]+", apart.lower()) if word]
    sides = {"left": "left", "l": "left", "right": "right", "r": "right"}
    found = next((sides[word] for word in words if word in sides), "")
    return found, " ".join(word for word in words if word not in sides)


def custom_layout(
    joints: Sequence[str],
    edges: Sequence[tuple[int, int]],
    *,
    center: int | None = None,
    mirror: Sequence[int] | None = None,
    where: str,
) -> Layout:
    """The layout that comes with data; a layout of the table if names and bones match one.

    edges: pairs of joints in any direction that connect all joints without a cycle. center: by default the middle joint
    of that tree (the one with the smallest distance to the farthest joint). mirror: by default from left and right in
    the names. Its name is "own-" with V and a digest of all this. where: start of the messages. Raises `UsageError` for
    names or numbers that do not form a skeleton.
    """
    names = tuple(str(name) for name in joints)
    _check_joints(names, where)
    neighbors: dict[int, set[int]] = {joint: set() for joint in range(len(names))}
    for edge in edges:
        first, second = (int(joint) for joint in edge)
        if not (0 <= first < len(names) and 0 <= second < len(names)) or first == second:
            raise UsageError(f"{where}: the edge ({first}, {second}) is not between two of the {len(names)} joints.")
        neighbors[first].add(second)
        neighbors[second].add(first)
    if sum(map(len, neighbors.values())) != 2 * (len(names) - 1) or len(_distances(neighbors, 0)) != len(names):
        raise UsageError(
            f"{where}: the edges do not connect {len(names)} joints as one tree: give {len(names) - 1} different edges "
            "that reach every joint."
        )
    if center is None:
        center = min(neighbors, key=lambda joint: (max(_distances(neighbors, joint).values()), joint))
    if not 0 <= center < len(names):
        raise UsageError(f"{where}: the center {center} is not one of the joints 0 to {len(names) - 1}.")
    away = _distances(neighbors, center)
    bones = tuple(
        (joint, next(other for other in sorted(neighbors[joint]) if away[other] < away[joint]))
        for joint in range(len(names))
        if joint != center
    )
    sides = mirror_by_name(names) if mirror is None else tuple(int(joint) for joint in mirror)
    _check_mirror(sides, len(names), where)
    for layout in LAYOUTS.values():
        same = set(layout.bones) == set(bones) and layout.center == center and layout.mirror == sides
        if same and layout.joints == tuple(name.replace("_", " ") for name in names):
            return layout
    made = Layout("own", names, bones, center, mirror=sides)
    digest = hashlib.sha256(json.dumps(made.described(), sort_keys=True).encode()).hexdigest()
    return replace(made, name=f"own-{len(names)}-{digest[:8]}")


def _check_joints(names: Sequence[str], where: str) -> None:
    if not 2 <= len(names) <= MAX_JOINTS:
        raise UsageError(f"{where}: {len(names)} joints; a layout has 2 to {MAX_JOINTS}.")
    for at, name in enumerate(names):
        if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise UsageError(f"{where}: joint {at} has no name of 1 to {MAX_NAME} printable characters.")
        if name in names[:at]:
            raise UsageError(f"{where}: the joints {names.index(name)} and {at} are both called {name!r}.")


def _check_mirror(mirror: Sequence[int], count: int, where: str) -> None:
    if len(mirror) != count or not all(0 <= joint < count for joint in mirror):
        raise UsageError(f"{where}: mirror should name one of the joints 0 to {count - 1} for each of the {count}.")
    for joint, other in enumerate(mirror):
        if mirror[other] != joint:
            raise UsageError(
                f"{where}: mirror says that joint {joint} changes places with {other}, but {other} with "
                f"{mirror[other]}; pairs must name each other."
            )


def _distances(neighbors: Mapping[int, set[int]], start: int) -> dict[int, int]:
    """Number of bones between `start` and each joint that it is connected to."""
    found, waiting = {start: 0}, deque([start])
    while waiting:
        joint = waiting.popleft()
        for other in neighbors[joint] - found.keys():
            found[other] = found[joint] + 1
            waiting.append(other)
    return found


def layout_of(joints: str | Sequence[str]) -> Layout | None:
    """The known layout with this name, or with these joint names in this order; None if there is none."""
    if isinstance(joints, str):
        return LAYOUTS.get(joints)
    plain = tuple(name.replace("_", " ") for name in joints)
    return next((layout for layout in LAYOUTS.values() if layout.joints == plain), None)


def layout_in(attributes: Mapping[str, Json], where: str = "the poses") -> Layout | None:
    """The layout declared by an array of keypoints or an encoder: in full, by name, or by its joint names.

    None if it declares nothing known. Raises `UsageError` for a description that is not a skeleton.
    """
    if "bones" not in attributes:
        return layout_of(attributes.get("layout") or attributes.get("joints") or "")
    try:
        made = custom_layout(
            [str(name) for name in attributes["joints"]],
            [(int(child), int(parent)) for child, parent in attributes["bones"]],
            center=int(attributes["center"]),
            mirror=[int(joint) for joint in attributes["mirror"]],
            where=where,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{where}: the description of the joint layout is incomplete ({error}).") from error
    return made


def layout_from(plain: str | Mapping[str, Json], where: str = "the layout") -> Layout:
    """The layout for a name or a description (see `Layout.plain`). Raises `UsageError` if it is unknown."""
    found = layout_of(plain) if isinstance(plain, str) else layout_in(plain, where)
    if found is None:
        name = plain if isinstance(plain, str) else plain.get("layout")
        raise UsageError(f"{where}: unknown joint layout {str(name)[:80]!r}; known are {', '.join(LAYOUTS)}.")
    return found


def units_of(layout: Layout) -> tuple[str, ...]:
    """The units that data in a known layout can have: "pixel", "metre" or both."""
    return tuple(unit for unit, names in _UNITS.items() if layout.name in names)


def find_layout(num_joints: int, unit: str, keypoints: NDArray[np.floating] | None, where: str) -> tuple[Layout, str]:
    """The known layout with this many joints in "pixel" or "metre", and a note if there was a choice ("" otherwise).

    keypoints: (T, V, C) of some persons, NaN where absent. If several layouts have this number of joints, they decide:
    in the right one bones are short, since they connect neighbors. Raises `UsageError` if none has, or if that is
    inconclusive.
    """
    found = [LAYOUTS[name] for name in _UNITS[unit] if len(LAYOUTS[name].joints) == num_joints]
    if not found:
        known = ", ".join(_UNITS[unit])
        raise UsageError(
            f"{where}: no known layout has {num_joints} joints in {unit}s ({known}); give `joints` and `edges`, or a "
            "layout's name."
        )
    if len(found) == 1:
        return found[0], ""
    names = " or ".join(layout.name for layout in found)
    if keypoints is not None and len(keypoints):
        shared = set.intersection(*({frozenset(bone) for bone in layout.bones} for layout in found))
        first, second = sorted((_extent(layout, shared, keypoints), layout.name) for layout in found)[:2]
        if first[0] < _CLEARLY * second[0]:
            return LAYOUTS[first[1]], (
                f"{num_joints} joints in {unit}s are {names}: taken as {first[1]}, in which neighboring joints are "
                f"nearest (bones of {first[0]:.2f} {unit}s together, of {second[1]} {second[0]:.2f})"
            )
    raise UsageError(f"{where}: {num_joints} joints in {unit}s are {names}; say which by the layout's name.")


def _extent(layout: Layout, shared: Collection[frozenset[int]], keypoints: NDArray[np.floating]) -> float:
    """Total length of the bones that are not `shared`, median over frames; infinite if none is visible."""
    children, parents = np.array([bone for bone in layout.bones if frozenset(bone) not in shared]).T
    lengths = np.linalg.norm(keypoints[:, children].astype(np.float64) - keypoints[:, parents], axis=2)  # (T, E)
    shown = lengths[np.isfinite(lengths).all(axis=1)]
    return float(np.median(shown.sum(axis=1))) if len(shown) else float("inf")


# How much shorter bones must be in the right layout than in the next best one.
_CLEARLY = 0.7

# Source: the joint table of NTU RGB+D (Kinect v2); bones as in PYSKL, where tips and thumbs are attached to the hand.
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
    center=20,
    spine=(0, 1),
    shoulders=(8, 4),
)

# Source: the COCO keypoint order; bones as in PYSKL, where the hips are attached to the shoulders.
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
    center=0,
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
    center=1,
    spine=(3, 2),
    shoulders=(8, 4),
)

# Source: the joint numbers of the Kinect for Windows SDK 1 (JointType), also used by other Kinect v1 datasets.
KINECT_20 = Layout(
    name="kinect-20",
    joints=(
        *("spine base", "spine middle", "spine shoulder", "head"),
        *("left shoulder", "left elbow", "left wrist", "left hand"),
        *("right shoulder", "right elbow", "right wrist", "right hand"),
        *("left hip", "left knee", "left ankle", "left foot"),
        *("right hip", "right knee", "right ankle", "right foot"),
    ),
    bones=(
        *((0, 1), (1, 2), (3, 2), (4, 2), (5, 4), (6, 5), (7, 6), (8, 2), (9, 8), (10, 9), (11, 10)),
        *((12, 0), (13, 12), (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18)),
    ),
    center=2,
    spine=(0, 1),
    shoulders=(8, 4),
)

# Source: OpenPose's COCO model, the joints of Kinetics-skeleton; bones as in ST-GCN (yysijie/st-gcn, graph.py).
COCO_18 = Layout(
    name="coco-18",
    joints=(
        *("nose", "neck"),
        *("right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
        *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
        *("right eye", "left eye", "right ear", "left ear"),
    ),
    bones=(
        *((0, 1), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (7, 6)),
        *((8, 2), (9, 8), (10, 9), (11, 5), (12, 11), (13, 12), (14, 0), (15, 0), (16, 14), (17, 15)),
    ),
    center=1,
    shoulders=(2, 5),
)

# Source: OpenPose's BODY_25 model.
BODY_25 = Layout(
    name="body-25",
    joints=(
        *("nose", "neck"),
        *("right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
        *("middle hip", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
        *("right eye", "left eye", "right ear", "left ear"),
        *("left big toe", "left small toe", "left heel", "right big toe", "right small toe", "right heel"),
    ),
    bones=(
        *((0, 1), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (7, 6)),
        *((8, 1), (9, 8), (10, 9), (11, 10), (12, 8), (13, 12), (14, 13)),
        *((15, 0), (16, 0), (17, 15), (18, 16)),
        *((19, 14), (20, 19), (21, 14), (22, 11), (23, 22), (24, 11)),
    ),
    center=1,
    shoulders=(2, 5),
)

# Source: MediaPipe Pose (BlazePose); the trunk is attached to the shoulders as in COCO-17.
MEDIAPIPE_33 = Layout(
    name="mediapipe-33",
    joints=(
        "nose",
        *("left eye inner", "left eye", "left eye outer", "right eye inner", "right eye", "right eye outer"),
        *("left ear", "right ear", "left mouth", "right mouth"),
        *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
        *("left pinky", "right pinky", "left index", "right index", "left thumb", "right thumb"),
        *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
        *("left heel", "right heel", "left foot index", "right foot index"),
    ),
    bones=(
        *((1, 0), (2, 1), (3, 2), (4, 0), (5, 4), (6, 5), (7, 3), (8, 6), (9, 0), (10, 0)),
        *((11, 0), (12, 0), (13, 11), (14, 12), (15, 13), (16, 14)),
        *((17, 15), (18, 16), (19, 15), (20, 16), (21, 15), (22, 16)),
        *((23, 11), (24, 12), (25, 23), (26, 24), (27, 25), (28, 26)),
        *((29, 27), (30, 28), (31, 29), (32, 30)),
    ),
    center=0,
    shoulders=(12, 11),
)

# Source: the 17 joints of Human3.6M in the order of facebookresearch/VideoPose3D.
H36M_17 = Layout(
    name="h36m-17",
    joints=(
        "spine base",
        *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
        *("spine middle", "spine shoulder", "neck", "head"),
        *("left shoulder", "left elbow", "left wrist", "right shoulder", "right elbow", "right wrist"),
    ),
    bones=(
        *((0, 7), (1, 0), (2, 1), (3, 2), (4, 0), (5, 4), (6, 5), (7, 8), (9, 8), (10, 9)),
        *((11, 8), (12, 11), (13, 12), (14, 8), (15, 14), (16, 15)),
    ),
    center=8,
    spine=(0, 7),
    shoulders=(14, 11),
)

# Source: the README of Penn Action; the hips are attached to the shoulders as in COCO-17.
PENN_13 = Layout(
    name="penn-13",
    joints=(
        "head",
        *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
        *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
    ),
    bones=((1, 0), (2, 0), (3, 1), (4, 2), (5, 3), (6, 4), (7, 1), (8, 2), (9, 7), (10, 8), (11, 9), (12, 10)),
    center=0,
    shoulders=(2, 1),
)

# Source: the joint list of J-HMDB (README of joint_positions).
JHMDB_15 = Layout(
    name="jhmdb-15",
    joints=(
        *("neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip"),
        *("right elbow", "left elbow", "right knee", "left knee"),
        *("right wrist", "left wrist", "right ankle", "left ankle"),
    ),
    bones=(
        *((1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (6, 1)),
        *((7, 3), (8, 4), (9, 5), (10, 6), (11, 7), (12, 8), (13, 9), (14, 10)),
    ),
    center=0,
    shoulders=(3, 4),
)

# Source: the hand of MediaPipe and OpenPose; fingers are attached to the wrist.
HAND_21 = Layout(
    name="hand-21",
    joints=("wrist", *(f"{finger} {at}" for finger in ("thumb", "index", "middle", "ring", "pinky") for at in "1234")),
    bones=tuple((joint, 0 if joint % 4 == 1 else joint - 1) for joint in range(1, 21)),
    center=0,
)

# Source: Halpe (Fang-Haoshu/Halpe-FullBody), for which RTMPose has weights: COCO-17, then head, neck, hip and feet.
HALPE_26 = Layout(
    name="halpe-26",
    joints=(
        *COCO_17.joints,
        *("head", "neck", "hip", "left big toe", "right big toe", "left small toe", "right small toe"),
        *("left heel", "right heel"),
    ),
    bones=(
        *((0, 17), (1, 0), (2, 0), (3, 1), (4, 2), (17, 18), (5, 18), (6, 18), (7, 5), (8, 6), (9, 7), (10, 8)),
        *((19, 18), (11, 19), (12, 19), (13, 11), (14, 12), (15, 13), (16, 14)),
        *((24, 15), (20, 24), (22, 24), (25, 16), (21, 25), (23, 25)),
    ),
    center=18,
    shoulders=(6, 5),
)

_ALL = (
    NTU_25,
    COCO_17,
    UTD_20,
    KINECT_20,
    COCO_18,
    BODY_25,
    MEDIAPIPE_33,
    H36M_17,
    PENN_13,
    JHMDB_15,
    HAND_21,
    HALPE_26,
)
LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in _ALL}

# Possible layouts per unit: detectors give pixels, sensors and lifting networks meters.
_UNITS: Mapping[str, tuple[str, ...]] = {
    "pixel": ("coco-17", "coco-18", "body-25", "mediapipe-33", "penn-13", "jhmdb-15", "hand-21", "halpe-26"),
    "metre": ("ntu-25", "utd-20", "kinect-20", "h36m-17", "mediapipe-33"),
}
