"""Contract of the clips: a fixed grid of views, mirrors that undo themselves, absence kept apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.errors import CorruptInput
from unialign.stages.extraction.pose_clips import (
    Shape,
    View,
    agcn_3d,
    centered_3d,
    clip_grid,
    mirrored,
    repeated,
    rotation_onto,
    sample_frames,
)
from unialign.stages.extraction.pose_recipes import recipe_of
from unialign.stages.extraction.pyskl_clips import pyskl_2d
from unialign.stages.skeleton_layouts import LAYOUTS, custom_layout

COCO, NTU = LAYOUTS["coco-17"], LAYOUTS["ntu-25"]
PLAIN, MIRROR = clip_grid(1, True)
SIZE = (640.0, 360.0)


def pixels(num_frames: int = 10, num_persons: int = 2) -> np.ndarray:
    generator = np.random.default_rng(1)
    return generator.uniform((0, 0, 0.2), (640, 360, 1), (num_frames, num_persons, 17, 3)).astype(np.float32)


def metres(num_frames: int = 10, num_persons: int = 1) -> np.ndarray:
    """Persons of about the right shape: spine upwards, shoulders along x, all 3 m away, turned and moving."""
    generator = np.random.default_rng(2)
    body = generator.normal(scale=0.3, size=(25, 3))
    body[[0, 1, 20]] = (0, -0.2, 0), (0.05, 0.1, 0.02), (0.1, 0.4, 0.05)
    body[[4, 8]] = (-0.2, 0.35, 0.1), (0.2, 0.3, -0.1)
    moved = body + generator.normal(scale=0.02, size=(num_frames, num_persons, 25, 3)) + (0.3, 0.1, 3.0)
    return moved.astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(num_frames=st.integers(1, 400), clip_len=st.integers(1, 120), num_offsets=st.integers(1, 6))
def test_sampled_frames_exist_and_do_not_change(num_frames: int, clip_len: int, num_offsets: int):
    for view in clip_grid(num_offsets, False):
        frames = sample_frames(num_frames, clip_len, view)
        assert len(frames) == clip_len
        assert frames.min() >= 0
        assert frames.max() < num_frames
        assert (frames == sample_frames(num_frames, clip_len, view)).all()
        if num_frames >= clip_len:
            assert (np.diff(frames) > 0).all()
            segment = np.floor(frames * clip_len / num_frames + 1e-9)
            assert (np.abs(segment - np.arange(clip_len)) <= 1).all()
        else:
            assert (np.diff(frames) % num_frames == 1 % num_frames).all()


def test_one_offset_reads_the_centers_and_more_offsets_other_frames():
    assert sample_frames(12, 4, PLAIN).tolist() == [1, 4, 7, 10]
    grid = [sample_frames(12, 4, view).tolist() for view in clip_grid(3, False)]
    assert grid == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert sample_frames(3, 7, PLAIN).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert sample_frames(4, 6, View(1, 2, False)).tolist() == [2, 3, 0, 1, 2, 3]


def test_grid_is_offsets_times_sides_in_a_fixed_order():
    grid = clip_grid(2, True)
    assert [(view.offset, view.flip) for view in grid] == [(0, False), (0, True), (1, False), (1, True)]
    assert len(clip_grid(4, False)) == 4
    with pytest.raises(ValueError, match="offsets"):
        clip_grid(0, True)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("width", [None, 640.0])
def test_mirrored_twice_is_the_same(layout, width: float | None):
    keypoints = np.random.default_rng(0).integers(0, 640, (4, 2, len(layout.joints), 3)).astype(np.float32)
    keypoints[1, 0, 3] = np.nan
    once = mirrored(keypoints, layout, width)
    assert not np.array_equal(once, keypoints, equal_nan=True)
    np.testing.assert_array_equal(mirrored(once, layout, width), keypoints)


def test_2d_clip_is_normalized_and_mirrored_in_the_middle_of_the_frame():
    keypoints = pixels()
    keypoints[:, 0, 9] = (640, 0, 0.9)
    keypoints[:, 0, 10] = (320, 180, 0.8)
    keypoints[:, 0, 7] = np.nan
    plain, mirror = (pyskl_2d(keypoints, COCO, view, Shape(8, 2), SIZE) for view in (PLAIN, MIRROR))
    assert plain.keypoints.shape == (2, 8, 17, 3)
    assert plain.keypoints.dtype == np.float32
    np.testing.assert_allclose(plain.keypoints[0, 0, [9, 10]], [(1, -1, 0.9), (0, 0, 0.8)], atol=1e-6)
    np.testing.assert_allclose(mirror.keypoints[0, 0, [10, 9]], [(-1, -1, 0.9), (0, 0, 0.8)], atol=1e-6)
    assert np.abs(plain.keypoints[..., :2]).max() <= 1
    np.testing.assert_allclose(
        mirror.keypoints[..., list(COCO.mirror), :] * (-1, 1, 1), plain.keypoints, rtol=1e-6, atol=1e-6
    )


def test_2d_absent_joints_are_zero_with_score_zero_and_persons_masked():
    keypoints = pixels()
    keypoints[:, 0, 4] = np.nan
    keypoints[:, 0, 5, 2] = 0.005
    keypoints[:, 1] = np.nan
    clip = pyskl_2d(keypoints, COCO, PLAIN, Shape(8, 2), SIZE)
    assert clip.present.tolist() == [True, False]
    assert (clip.keypoints[0, :, 4] == 0).all()
    np.testing.assert_allclose(clip.keypoints[0, :, 5], [(0, 0, 0.005)] * 8)
    assert (clip.keypoints[1] == 0).all()
    seen = np.delete(clip.keypoints[0], (4, 5), axis=1)
    assert (seen[..., 2] >= 0.2).all()


def test_2d_drops_empty_frames_and_refuses_an_empty_sample():
    keypoints = pixels(30)
    keypoints[np.arange(30) != 17] = np.nan
    for view in clip_grid(4, True):
        clip = pyskl_2d(keypoints, COCO, view, Shape(8, 2), SIZE)
        assert clip.present.all()
        assert (clip.keypoints[..., 2] > 0).all()
    with pytest.raises(CorruptInput) as raised:
        pyskl_2d(keypoints * np.nan, COCO, PLAIN, Shape(8, 2), SIZE)
    assert raised.value.status == "no-person"


@pytest.mark.parametrize("view", [PLAIN, MIRROR])
def test_3d_clip_is_centered_and_turned(view: View):
    clip = agcn_3d(metres(), NTU, view, Shape(24, 2), None)
    person = clip.keypoints[0].astype(float)
    assert clip.present.tolist() == [True, False]
    assert (clip.keypoints[1] == 0).all()
    np.testing.assert_allclose(person[:, 1], 0, atol=1e-6)
    # The last turn puts the shoulders along x; it may tilt the spine again, as the published recipe does.
    shoulders = person[0, 8] - person[0, 4]
    assert shoulders[0] > 0
    np.testing.assert_allclose(shoulders[1:], 0, atol=1e-6)
    assert (person[0, 1] - person[0, 0])[2] > 0.2
    np.testing.assert_allclose(person[10:20], person[:10], atol=1e-6)


def test_3d_turning_keeps_distances():
    keypoints = metres()
    person = agcn_3d(keypoints, NTU, PLAIN, Shape(12, 2), None).keypoints[0, :10]
    for first, second in ((3, 15), (4, 8), (11, 22)):
        before = np.linalg.norm(keypoints[:, 0, first] - keypoints[:, 0, second], axis=-1)
        np.testing.assert_allclose(np.linalg.norm(person[:, first] - person[:, second], axis=-1), before, atol=1e-5)


def test_3d_main_person_is_the_one_with_most_motion():
    keypoints = metres(num_persons=3)
    keypoints[:, 2] += np.linspace(0, 1, 10, dtype=np.float32)[:, None, None]
    keypoints[:, 0] = np.nan
    clip = agcn_3d(keypoints, NTU, PLAIN, Shape(12, 2), None)
    assert clip.present.all()
    np.testing.assert_allclose(clip.keypoints[0, :, 1], 0, atol=1e-6)
    assert np.linalg.norm(clip.keypoints[1, :10, 1], axis=-1).max() > 0.5


def test_3d_absent_joints_are_zero_after_centring_and_empty_samples_rejected():
    keypoints = metres()
    keypoints[:, 0, 23] = np.nan
    clip = agcn_3d(keypoints, NTU, PLAIN, Shape(12, 2), None)
    assert (clip.keypoints[0, :, 23] == 0).all()
    assert np.isfinite(clip.keypoints).all()
    with pytest.raises(CorruptInput) as raised:
        agcn_3d(keypoints * np.nan, NTU, PLAIN, Shape(12, 2), None)
    assert raised.value.status == "no-person"


def test_late_persons_move_to_the_start_and_gaps_stay():
    person = np.arange(6.0)[:, None, None] * np.ones((1, 2, 3))
    late, gap = person.copy(), person.copy()
    late[[0, 3]] = np.nan
    gap[[2, 4, 5]] = np.nan
    assert repeated(late, 8)[:, 0, 0].tolist() == [1, 2, 4, 5, 1, 2, 4, 5]
    np.testing.assert_array_equal(repeated(gap, 8)[:, 0, 0], [0, 1, np.nan, 3, 0, 1, np.nan, 3])
    assert np.isnan(repeated(person * np.nan, 8)).all()


@settings(max_examples=50, deadline=None)
@given(vectors=st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_rotation_turns_one_direction_into_the_other(vectors: list[float]):
    start, target = np.array(vectors[:3]), np.array(vectors[3:])
    turn = rotation_onto(start, target)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    if np.linalg.norm(np.cross(start, target)) > 1e-3:
        expected = target / np.linalg.norm(target) * np.linalg.norm(start)
        np.testing.assert_allclose(turn @ start, expected, atol=1e-9)
        assert np.linalg.det(turn) == pytest.approx(1)


def test_a_layout_without_a_spine_is_centered_and_not_turned():
    layout = custom_layout(("a", "b", "c"), [(0, 1), (1, 2)], where="test")
    assert recipe_of(layout, ["x", "y", "z"]) == "centered-3d"
    assert (recipe_of(NTU, ["x", "y", "z"]), recipe_of(layout, ["x", "y", "score"])) == ("agcn-3d", "pyskl-2d")
    keypoints = np.random.default_rng(0).normal(size=(8, 1, 3, 3)).astype(np.float32)
    keypoints[0, 0, 1] = np.nan
    clip = centered_3d(keypoints, layout, PLAIN, Shape(8, 2))
    assert clip.present.tolist() == [True, False]
    assert (clip.keypoints[0, 0, 1] == 0).all()
    expected = keypoints[:, 0] - keypoints[1, 0, 1]
    np.testing.assert_allclose(clip.keypoints[0, 1:], expected[1:], rtol=1e-5, atol=1e-6)
    assert (clip.keypoints[1] == 0).all()
    with pytest.raises(CorruptInput, match="no frame shows a person"):
        centered_3d(keypoints * np.nan, layout, PLAIN, Shape(8, 2))
