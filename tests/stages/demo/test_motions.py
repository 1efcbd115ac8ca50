from functools import cache

import numpy as np
import pytest

from unialign.stages.demo.body import JOINT_INDEX
from unialign.stages.demo.motions import ACTIONS, CLASSES, DESCRIPTIONS
from unialign.stages.demo.moves import Style, ease
from unialign.stages.demo.scene import ClipKey, stage_take

PERFORMERS = range(1, 9)


@cache
def joints(name: str, performer: int) -> np.ndarray:
    key = ClipKey(camera=1 + performer % 2, performer=performer, replication=1, action=CLASSES.index(name) + 1)
    return stage_take(key, seed=3).posture.joints


def height(name: str, performer: int, joint: str) -> np.ndarray:
    return joints(name, performer)[:, JOINT_INDEX[joint], 1]


def rise(name: str, performer: int, joint: str) -> float:
    track = height(name, performer, joint)
    return float(track.max() - track[0])


def facing(name: str, performer: int) -> np.ndarray:
    """Direction of the hips in degrees, without jumps."""
    body = joints(name, performer)
    across = body[:, JOINT_INDEX["left hip"]] - body[:, JOINT_INDEX["right hip"]]
    return np.degrees(np.unwrap(np.arctan2(-across[:, 2], across[:, 0])))


def test_classes_have_distinct_names_and_one_sentence_each():
    assert 12 <= len(CLASSES) <= 16
    assert len(set(CLASSES)) == len(set(DESCRIPTIONS)) == len(CLASSES) == len(DESCRIPTIONS)
    assert all(name == name.lower() and "_" not in name for name in CLASSES)
    assert all(text.endswith(".") and text.count(".") == 1 and len(text) > 50 for text in DESCRIPTIONS)


def test_groups_hold_at_least_two_classes():
    groups = [action.group for action in ACTIONS]
    assert min(groups.count(group) for group in groups) >= 2


@pytest.mark.parametrize("performer", PERFORMERS)
def test_only_the_named_arm_is_raised(performer):
    for verb, least in (("raise", 0.75), ("wave", 0.45)):
        left, right = (f"{verb} the left arm", f"{verb} the right arm")
        if verb == "wave":
            left, right = left.replace("arm", "hand"), right.replace("arm", "hand")
        assert rise(left, performer, "left wrist") > least > 0.2 > rise(left, performer, "right wrist")
        assert rise(right, performer, "right wrist") > least > 0.2 > rise(right, performer, "left wrist")
    assert rise("raise both arms", performer, "left wrist") > 0.75
    assert rise("raise both arms", performer, "right wrist") > 0.75


@pytest.mark.parametrize("performer", PERFORMERS)
def test_waving_hand_swings_beside_the_head(performer):
    body = joints("wave the left hand", performer)
    fore = body[:, JOINT_INDEX["left hand"]] - body[:, JOINT_INDEX["left elbow"]]
    across = body[:, JOINT_INDEX["left shoulder"]] - body[:, JOINT_INDEX["right shoulder"]]
    up = body[:, JOINT_INDEX["left hand"], 1] > body[:, JOINT_INDEX["left shoulder"], 1]
    aside = np.einsum("ti,ti->t", fore, across / np.linalg.norm(across, axis=1, keepdims=True))[up]
    turns = np.count_nonzero(np.diff(np.sign(np.diff(aside))))
    assert turns >= 2
    assert np.ptp(aside) > 0.12


@pytest.mark.parametrize("performer", PERFORMERS)
def test_depth_tells_squats_and_bows_apart(performer):
    half, deep = (
        height(name, performer, "spine base").min() / height(name, performer, "spine base")[0]
        for name in ("squat halfway down", "squat all the way down")
    )
    assert 0.75 < half < 0.95
    assert deep < 0.65
    hips = joints("squat all the way down", performer)
    lowest = hips[:, JOINT_INDEX["left hip"], 1].argmin()
    assert hips[lowest, JOINT_INDEX["left hip"], 1] < hips[lowest, JOINT_INDEX["left knee"], 1]
    for name, low, high in (("bow slightly", 15, 50), ("bow deeply", 65, 115)):
        body = joints(name, performer)
        spine = body[:, JOINT_INDEX["spine shoulder"]] - body[:, JOINT_INDEX["spine base"]]
        tipped = np.degrees(np.arccos(spine[:, 1] / np.linalg.norm(spine, axis=1)))
        assert low < tipped.max() < high
        knees = height(name, performer, "left knee")
        assert np.ptp(knees) < 0.05


@pytest.mark.parametrize("performer", PERFORMERS)
@pytest.mark.parametrize(("name", "count"), [("hop once", 1), ("hop twice", 2), ("squat halfway down", 0)])
def test_feet_leave_the_floor_as_often_as_said(name, count, performer):
    soles = ("left ankle", "right ankle", "left foot", "right foot")
    low = np.min([height(name, performer, joint) - height(name, performer, joint)[0] for joint in soles], axis=0)
    aloft = low > 0.03
    assert np.count_nonzero(np.diff(aloft.astype(int)) == 1) == count
    assert not aloft[-1]


@pytest.mark.parametrize("performer", PERFORMERS)
def test_turns_are_half_and_full_and_to_the_left(performer):
    for name, degrees in (("turn halfway around", 180), ("turn all the way around", 360)):
        assert facing(name, performer)[-1] - facing(name, performer)[0] == pytest.approx(degrees, abs=12)


@pytest.mark.parametrize("performer", PERFORMERS)
def test_only_the_named_leg_kicks(performer):
    for side, other in (("left", "right"), ("right", "left")):
        assert rise(f"kick with the {side} leg", performer, f"{side} ankle") > 0.3
        assert rise(f"kick with the {side} leg", performer, f"{other} ankle") < 0.05


def test_paired_classes_share_everything_but_the_detail():
    time = np.linspace(-0.2, 2.0, 40)
    moves = {action.name: action.move(time, Style()) for action in ACTIONS}
    for left, right in (
        ("raise the left arm", "raise the right arm"),
        ("wave the left hand", "wave the right hand"),
        ("kick with the left leg", "kick with the right leg"),
    ):
        mirrored = {
            name.replace("left", "*").replace("right", "left").replace("*", "right"): values
            for name, values in moves[left].items()
        }
        assert mirrored.keys() == moves[right].keys()
        for name, values in moves[right].items():
            sign = -1 if name in ("tilt", "weight") else 1
            np.testing.assert_allclose(mirrored[name] * sign, values, atol=1e-12)
    for less, more in (("squat halfway down", "squat all the way down"), ("bow slightly", "bow deeply")):
        assert moves[less].keys() == moves[more].keys()
        np.testing.assert_array_equal(np.sign(moves[less]["lean"]), np.sign(moves[more]["lean"]))
    np.testing.assert_allclose(moves["squat halfway down"]["left_raise"], moves["squat all the way down"]["left_raise"])


def test_actions_fit_into_their_clips():
    for action in range(1, len(ACTIONS) + 1):
        for performer in PERFORMERS:
            first, last = joints(CLASSES[action - 1], performer)[[0, -1]]
            hands = [JOINT_INDEX["left hand"], JOINT_INDEX["right hand"], JOINT_INDEX["head"]]
            np.testing.assert_allclose(first[hands, 1], last[hands, 1], atol=0.12)


def test_easing_is_flat_at_both_ends():
    time = np.linspace(0, 1, 1001)
    speed = np.gradient(ease(time, 0.2, 0.5), time)
    assert ease(time, 0.2, 0.5)[[0, -1]].tolist() == [0, 1]
    assert speed.min() >= -1e-9
    assert abs(speed[200]) < 0.01
    assert abs(speed[700]) < 0.01
    assert speed.argmax() == 450
