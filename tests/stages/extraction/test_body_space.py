"""Contract of body space: the camera's distance and place are gone, gaps are bridged, passers-by are left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.errors import CorruptInput
from unialign.stages.extraction.body_space import (
    body_arrays,
    body_space,
    even_positions,
    mirrored_body,
    read_between,
    without_gaps,
)
from unialign.stages.skeleton_layouts import LAYOUTS

COCO = LAYOUTS["coco-17"]
HIPS = [COCO.joints.index("left hip"), COCO.joints.index("right hip")]


def walker(num_frames: int = 9, seed: int = 0) -> np.ndarray:
    """One person of 2-D keypoints (T, 1, 17, 3), all joints seen."""
    generator = np.random.default_rng(seed)
    places = generator.normal(100, 30, size=(17, 2)) + np.cumsum(generator.normal(0, 2, (num_frames, 17, 2)), axis=0)
    return np.concatenate([places, np.full((num_frames, 17, 1), 0.9)], axis=-1)[:, None]


@settings(deadline=None, max_examples=25)
@given(st.floats(0.2, 5), st.floats(-500, 500), st.integers(0, 1000))
def test_neither_distance_nor_a_moving_camera_changes_the_joints(zoom: float, shift: float, seed: int) -> None:
    first = walker(seed=seed)
    moved = first.copy()
    moved[..., :2] = zoom * first[..., :2] + shift * np.arange(len(first))[:, None, None, None]
    one, other = (body_space(each, COCO, 1, scored=True) for each in (first, moved))
    assert np.allclose(one.joints, other.joints, atol=1e-3)
    assert np.allclose(one.joints[0][:, HIPS].mean(axis=1), 0, atol=1e-5)
    # The size of a body is 1.
    assert np.isclose(np.median(np.sqrt((one.joints[0] ** 2).sum(-1).mean(-1))), 1, atol=1e-4)


def test_the_way_of_the_hips_is_kept_in_units_of_the_body() -> None:
    still = np.repeat(walker(1), 5, axis=0)
    size = np.sqrt(((still[0, 0, :, :2] - still[0, 0, HIPS, :2].mean(axis=0)) ** 2).sum(-1).mean())
    still[..., 1] += 2 * size * np.arange(5)[:, None, None]
    assert np.allclose(body_space(still, COCO, 1, scored=True).root[:, 1], 2 * np.arange(5), atol=1e-5)


def test_a_joint_that_is_not_seen_lies_between_its_neighbors_and_says_so() -> None:
    keypoints = walker()
    wrist = COCO.joints.index("left wrist")
    keypoints[3:5, 0, wrist, 2] = 0
    keypoints[3:5, 0, wrist, :2] = 0
    body = body_space(keypoints, COCO, 1, scored=True)
    whole = body.joints[0, :, wrist] + body.root
    assert np.allclose(whole[3], (2 * whole[2] + whole[5]) / 3, atol=1e-5)
    assert body.seen[0, :, wrist].tolist() == [True] * 3 + [False] * 2 + [True] * 4


def test_a_joint_is_held_before_the_first_and_after_the_last_frame_that_shows_it() -> None:
    places = np.arange(10.0).reshape(5, 1, 2)
    seen = np.array([False, True, True, False, False])[:, None]
    assert without_gaps(places, seen)[:, 0, 0].tolist() == [2, 2, 4, 4, 4]


def test_without_hips_the_shoulders_are_the_origin() -> None:
    keypoints = walker()
    keypoints[:, 0, HIPS] = np.nan
    body = body_space(keypoints, COCO, 1, scored=True)
    shoulders = [COCO.joints.index("left shoulder"), COCO.joints.index("right shoulder")]
    assert np.allclose(body.joints[0][:, shoulders].mean(axis=1), 0, atol=1e-5)
    assert np.isfinite(body.joints).all()
    assert (body.joints[0][:, HIPS] == 0).all()


def test_somebody_who_walks_by_is_left_out_and_a_partner_is_not() -> None:
    keypoints = np.concatenate([walker(seed=1), walker(seed=2), walker(seed=3)], axis=1)
    keypoints[2:, 1] = np.nan
    body = body_space(keypoints, COCO, 2, scored=True)
    assert body.seen.any(axis=(1, 2)).tolist() == [True, False]
    partner = body_space(keypoints[:, [0, 2]], COCO, 2, scored=True)
    assert partner.seen.all()


def test_frames_without_the_person_are_left_out_and_a_sample_without_any_is_an_error() -> None:
    keypoints = walker()
    keypoints[4] = np.nan
    assert body_space(keypoints, COCO, 1, scored=True).joints.shape == (1, 8, 17, 2)
    with pytest.raises(CorruptInput, match="no frame shows a person"):
        body_space(np.full((3, 1, 17, 3), np.nan), COCO, 1, scored=True)


def test_positions_between_frames_are_linear_and_ends_are_held() -> None:
    values = np.arange(4.0, dtype=np.float32)[:, None]
    assert read_between(values, np.array([-1, 0, 0.25, 3, 9]))[:, 0].tolist() == [0, 0, 0.25, 3, 3]
    assert even_positions(4, 4).tolist() == [0, 1, 2, 3]
    assert even_positions(4, 2).tolist() == [0.5, 2.5]


def test_a_mirrored_body_is_the_body_of_the_mirrored_image() -> None:
    keypoints = walker()
    keypoints[2, 0, COCO.joints.index("left wrist")] = np.nan
    body = body_space(keypoints, COCO, 2, scored=True)
    picture = keypoints[:, :, list(COCO.mirror)].copy()
    picture[..., 0] = 640 - picture[..., 0]
    one, other = mirrored_body(body, COCO), body_space(picture, COCO, 2, scored=True)
    assert np.allclose(one.joints, other.joints, atol=1e-4)
    assert np.array_equal(one.seen, other.seen)
    assert np.allclose(one.root, other.root, atol=1e-4)


def test_what_networks_read_says_how_much_was_seen_and_who_is_there() -> None:
    keypoints = walker()
    keypoints[4, 0, 3] = np.nan
    body = body_space(keypoints, COCO, 2, scored=True)
    arrays, there = body_arrays(body, np.array([3.5, 4.0]))
    assert arrays.shape == (2, 2, 17, 5)
    assert there.tolist() == [True, False]
    assert arrays[0, :, 3, 2].tolist() == [0.5, 0.0]
    assert (arrays[1] == 0).all()
    assert np.allclose(arrays[0, 1, :, 3:], body.root[4])
