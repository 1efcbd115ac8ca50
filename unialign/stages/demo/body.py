"""The articulated figure: joint angles to the 25 joints of a Kinect v2 skeleton, by forward kinematics.

Legend: T frames, V joints (25). The body frame is right-handed: x to the person's left, y up, z to the front.
Lengths in meters, angles in degrees.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unialign.stages.skeleton_layouts import NTU_25

Floats = NDArray[np.floating]

# The order of the joints in a `.skeleton` file of NTU RGB+D.
JOINTS = NTU_25.joints
JOINT_INDEX = {name: index for index, name in enumerate(JOINTS)}

# Every angle (and the two quantities that are none) of a pose; what a motion leaves out is 0.
#   yaw             turn of the whole body, to the left
#   lean, tilt      trunk: to the front, to the left; bend: further bend of the upper trunk to the front
#   nod, look       head: down, to the left
#   *_raise, *_plane   upper arm: away from hanging down; direction of that, 0 sideways to 90 forward
#   *_twist, *_elbow   upper arm about itself; bend of the elbow
#   *_hip, *_side   thigh: to the front, outwards, both against the vertical
#   *_knee, *_toe   bend of the knee; toes up against the floor
#   air             height of the lower sole above the floor, in meters
#   weight          share of the weight on the left leg (0..1), minus 0.5: which foot stays in its place
ANGLES = (
    *("yaw", "lean", "tilt", "bend", "nod", "look", "air", "weight"),
    *(f"{side}_{part}" for side in ("left", "right") for part in ("raise", "plane", "twist", "elbow")),
    *(f"{side}_{part}" for side in ("left", "right") for part in ("hip", "side", "knee", "toe")),
)


@dataclass(frozen=True)
class Proportions:
    """What makes one body differ from another: standing height in meters, and factors about 1."""

    height: float = 1.72
    legs: float = 1.0
    arms: float = 1.0
    shoulders: float = 1.0
    bulk: float = 1.0
    head: float = 1.0


@dataclass(frozen=True)
class Posture:
    """A body in every frame.

    joints: world positions `(T, V, 3)` in meters; floor at y = 0.
    trunk, head: world rotations `(T, 3, 3)` of the upper trunk and the head; columns are left, up and front.
    """

    joints: Floats
    trunk: Floats
    head: Floats


def turn_x(degrees: Floats) -> Floats:
    """Rotations `(T, 3, 3)` about the axis to the left: positive tips what is up to the front."""
    cosine, sine, matrix = _prepared(degrees)
    matrix[:, 1, 1], matrix[:, 1, 2], matrix[:, 2, 1], matrix[:, 2, 2] = cosine, -sine, sine, cosine
    return matrix


def turn_y(degrees: Floats) -> Floats:
    """Rotations `(T, 3, 3)` about the upward axis: positive turns the front to the left."""
    cosine, sine, matrix = _prepared(degrees)
    matrix[:, 0, 0], matrix[:, 0, 2], matrix[:, 2, 0], matrix[:, 2, 2] = cosine, sine, -sine, cosine
    return matrix


def turn_z(degrees: Floats) -> Floats:
    """Rotations `(T, 3, 3)` about the axis to the front: positive lifts what hangs down to the left."""
    cosine, sine, matrix = _prepared(degrees)
    matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1] = cosine, -sine, sine, cosine
    return matrix


def _prepared(degrees: Floats) -> tuple[Floats, Floats, Floats]:
    radians = np.radians(degrees)
    return np.cos(radians), np.sin(radians), np.tile(np.eye(3), (len(radians), 1, 1))


def place_body(angles: Mapping[str, Floats], proportions: Proportions) -> Posture:
    """The `Posture` of a body that stands on the floor at the origin and faces +z when every angle is 0.

    angles: arrays `(T,)` under names of `ANGLES`. The foot that carries the weight stays where it stands; the lower
    sole is `air` above the floor. Raises `ValueError` for a name that is no angle.
    """
    if unknown := sorted(set(angles) - set(ANGLES)):
        raise ValueError(f"no such angle of the figure: {', '.join(unknown)}")
    num_frames = len(next(iter(angles.values())))
    full = {name: np.asarray(angles.get(name, np.zeros(num_frames)), dtype=np.float64) for name in ANGLES}
    unit = proportions.height

    body = turn_y(full["yaw"])
    pelvis = body @ turn_z(-full["tilt"]) @ turn_x(full["lean"])
    trunk = pelvis @ turn_x(full["bend"])
    head = trunk @ turn_y(full["look"]) @ turn_x(full["nod"])

    place: dict[str, Floats] = {"spine base": np.zeros((num_frames, 3))}
    place["spine middle"] = pelvis @ _offset(0, 0.130 * unit, 0)
    place["spine shoulder"] = place["spine middle"] + trunk @ _offset(0, 0.135 * unit, 0)
    place["neck"] = place["spine shoulder"] + trunk @ _offset(0, 0.040 * unit, 0)
    place["head"] = place["neck"] + head @ _offset(0, 0.078 * unit * proportions.head, 0.012 * unit)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _place_arm(place, side, sign, trunk, full, proportions)
        _place_leg(place, side, sign, body, pelvis, full, proportions)

    joints = np.stack([place[name] for name in JOINTS], axis=1)
    return Posture(joints + _standing_at(place, full, proportions)[:, None], trunk, head)


def sole_height(proportions: Proportions) -> float:
    """Height of the ankle above the sole, in meters."""
    return 0.042 * proportions.height


def _offset(left: float, up: float, front: float) -> Floats:
    return np.array([left, up, front])


def _place_arm(
    place: dict[str, Floats], side: str, sign: float, trunk: Floats, full: Mapping[str, Floats], body: Proportions
) -> None:
    unit = body.height
    lift, plane, twist, elbow = (full[f"{side}_{part}"] for part in ("raise", "plane", "twist", "elbow"))
    # Turned into the plane, lifted, turned back: an arm that hangs down keeps its elbow's axis whatever the plane.
    upper = trunk @ turn_y(-sign * plane) @ turn_z(sign * lift) @ turn_y(sign * (plane + twist))
    fore = upper @ turn_x(-elbow)
    # A raised arm takes the shoulder joint up with it (the collar bone turns).
    rise = 0.022 * unit * np.clip(lift - 60, 0, 120) / 120
    shoulder = _offset(sign * 0.106 * unit * body.shoulders, -0.004 * unit, 0) + rise[:, None] * _offset(0, 1, 0)
    place[f"{side} shoulder"] = place["spine shoulder"] + np.einsum("tij,tj->ti", trunk, shoulder)
    place[f"{side} elbow"] = place[f"{side} shoulder"] + upper @ _offset(0, -0.166 * unit * body.arms, 0)
    place[f"{side} wrist"] = place[f"{side} elbow"] + fore @ _offset(0, -0.146 * unit * body.arms, 0)
    place[f"{side} hand"] = place[f"{side} wrist"] + fore @ _offset(0, -0.045 * unit, 0.004 * unit)
    place[f"{side} hand tip"] = place[f"{side} wrist"] + fore @ _offset(0, -0.092 * unit, 0.010 * unit)
    place[f"{side} thumb"] = place[f"{side} wrist"] + fore @ _offset(-sign * 0.008 * unit, -0.046 * unit, 0.028 * unit)


def _place_leg(
    place: dict[str, Floats],
    side: str,
    sign: float,
    body: Floats,
    pelvis: Floats,
    full: Mapping[str, Floats],
    proportions: Proportions,
) -> None:
    unit = proportions.height
    hip, outwards, knee, toe = (full[f"{side}_{part}"] for part in ("hip", "side", "knee", "toe"))
    thigh = body @ turn_z(sign * outwards) @ turn_x(-hip)
    shin = thigh @ turn_x(knee)
    # Feet point a little outwards.
    foot = body @ turn_y(sign * np.full(len(hip), 9.0)) @ turn_x(-toe)
    place[f"{side} hip"] = pelvis @ _offset(sign * 0.050 * unit, -0.028 * unit, 0)
    place[f"{side} knee"] = place[f"{side} hip"] + thigh @ _offset(0, -0.238 * unit * proportions.legs, 0)
    place[f"{side} ankle"] = place[f"{side} knee"] + shin @ _offset(0, -0.238 * unit * proportions.legs, 0)
    place[f"{side} foot"] = place[f"{side} ankle"] + foot @ _offset(0, -0.022 * unit, 0.082 * unit)


def _standing_at(place: Mapping[str, Floats], full: Mapping[str, Floats], proportions: Proportions) -> Floats:
    """Where the root is `(T, 3)`, so that the carrying foot keeps its place and the lower sole touches the floor."""
    left, right = place["left ankle"], place["right ankle"]
    share = (0.5 + (full["weight"][1:] + full["weight"][:-1]) / 2)[:, None]
    root = np.zeros_like(left)
    root[1:] = -np.cumsum(share * np.diff(left, axis=0) + (1 - share) * np.diff(right, axis=0), axis=0)
    heel = sole_height(proportions)
    toes = heel - 0.022 * proportions.height
    lowest = np.min(
        [left[:, 1] - heel, right[:, 1] - heel, place["left foot"][:, 1] - toes, place["right foot"][:, 1] - toes],
        axis=0,
    )
    root[:, 1] = full["air"] - lowest
    return root
