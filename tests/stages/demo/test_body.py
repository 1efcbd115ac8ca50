import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.demo.body import ANGLES, JOINT_INDEX, JOINTS, Posture, Proportions, place_body

BONES = [
    ("spine base", "spine middle"),
    ("spine middle", "spine shoulder"),
    ("spine shoulder", "neck"),
    ("neck", "head"),
    *((f"{side} {a}", f"{side} {b}") for side in ("left", "right") for a, b in [("shoulder", "elbow")]),
    *(
        (f"{side} {a}", f"{side} {b}")
        for side in ("left", "right")
        for a, b in [("elbow", "wrist"), ("wrist", "thumb")]
    ),
    *((f"{side} {a}", f"{side} {b}") for side in ("left", "right") for a, b in [("hip", "knee"), ("knee", "ankle")]),
    *(
        (f"{side} {a}", f"{side} {b}")
        for side in ("left", "right")
        for a, b in [("ankle", "foot"), ("hand", "hand tip")]
    ),
]


def joint(posture: Posture, name: str) -> np.ndarray:
    return posture.joints[:, JOINT_INDEX[name]]


def pose(**angles: float) -> Posture:
    return place_body({name: np.full(2, value) for name, value in (angles or {"yaw": 0.0}).items()}, Proportions())


def test_joints_have_ntu_order():
    assert len(JOINTS) == len(set(JOINTS)) == 25
    ntu = {1: "spine base", 4: "head", 5: "left shoulder", 12: "right hand", 15: "left ankle", 20: "right foot"}
    ntu |= {21: "spine shoulder", 22: "left hand tip", 25: "right thumb"}
    assert {number: JOINTS[number - 1] for number in ntu} == ntu


def test_rest_stands_upright_on_the_floor_with_left_at_positive_x():
    posture = pose()
    heights = [joint(posture, name)[0, 1] for name in ("left ankle", "left knee", "left hip", "neck", "head")]
    assert heights == sorted(heights)
    assert 0.02 < joint(posture, "left foot")[0, 1] < 0.08
    assert 1.5 < joint(posture, "head")[0, 1] < 1.72
    for part in ("shoulder", "wrist", "hip", "ankle"):
        assert joint(posture, f"left {part}")[0, 0] > 0 > joint(posture, f"right {part}")[0, 0]
    assert joint(posture, "left foot")[0, 2] > joint(posture, "left ankle")[0, 2]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(ANGLES), st.floats(-170, 170), min_size=1))
def test_bones_keep_their_length_whatever_the_angles(angles):
    rest, moved = pose(), pose(**angles)
    for first, second in BONES:
        length = np.linalg.norm(joint(rest, first) - joint(rest, second), axis=-1)
        np.testing.assert_allclose(
            np.linalg.norm(joint(moved, first) - joint(moved, second), axis=-1), length, rtol=1e-9
        )


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from([name for name in ANGLES if name.startswith("left_")]), st.floats(-90, 90)))
def test_right_limbs_mirror_left_limbs(angles):
    left = pose(yaw=0.0, **angles).joints[0]
    right = pose(yaw=0.0, **{name.replace("left", "right"): value for name, value in angles.items()}).joints[0]
    mirrored = [name.replace("left", "*").replace("right", "left").replace("*", "right") for name in JOINTS]
    swapped = [JOINT_INDEX[name] for name in mirrored]
    np.testing.assert_allclose(left - left[0], (right - right[0])[swapped] * [-1, 1, 1], atol=1e-9)


def test_angles_turn_what_they_say():
    assert joint(pose(left_raise=90.0), "left wrist")[0, 0] > 0.6  # sideways
    assert joint(pose(left_raise=90.0, left_plane=90.0), "left wrist")[0, 2] > 0.5  # to the front
    assert joint(pose(right_raise=170.0), "right wrist")[0, 1] > 1.8
    raised = pose(left_raise=90.0, left_twist=90.0, left_elbow=90.0)
    assert joint(raised, "left wrist")[0, 1] > joint(raised, "left elbow")[0, 1] + 0.2
    kicked = pose(right_hip=80.0, weight=0.5)
    assert joint(kicked, "right ankle")[0, 2] > 0.6
    assert joint(pose(lean=80.0), "head")[0, 2] > 0.5
    turned = pose(yaw=90.0)
    assert joint(turned, "left foot")[0, 0] > joint(turned, "left ankle")[0, 0] + 0.1


def test_lower_sole_is_air_above_the_floor():
    for angles in ({"left_knee": 70.0, "left_hip": 40.0}, {"left_toe": -30.0, "right_toe": -30.0}, {"yaw": 30.0}):
        ground = pose(**angles)
        lifted = pose(**angles, air=0.25)
        soles = [name for name in JOINTS if name.endswith(("ankle", "foot"))]
        lowest = min(joint(ground, name)[0, 1] for name in soles)
        assert 0.03 < lowest < 0.08
        assert min(joint(lifted, name)[0, 1] for name in soles) == pytest.approx(lowest + 0.25)


def test_carrying_foot_keeps_its_place():
    bend = np.linspace(0, 90, 20)
    kick = place_body({"right_hip": bend, "lean": -bend / 10, "weight": np.full(20, 0.5)}, Proportions())
    carrying = joint(kick, "left ankle")[:, [0, 2]]
    np.testing.assert_allclose(carrying, np.broadcast_to(carrying[:1], carrying.shape), atol=1e-9)
    assert np.ptp(joint(kick, "right ankle")[:, 2]) > 0.4


def test_proportions_change_the_body():
    tall = place_body({"yaw": np.zeros(1)}, Proportions(height=1.9, shoulders=1.1))
    small = place_body({"yaw": np.zeros(1)}, Proportions(height=1.5))
    assert joint(tall, "head")[0, 1] > joint(small, "head")[0, 1] + 0.3
    assert joint(tall, "left shoulder")[0, 0] > joint(small, "left shoulder")[0, 0] * 1.3


def test_unknown_angle_is_rejected():
    with pytest.raises(ValueError, match="left_ear"):
        place_body({"left_ear": np.zeros(3)}, Proportions())
