"""Contract of EfficientGCN's clips: the public code's numbers, zeros behind a short sample, windows of a long one."""

import numpy as np
import pytest

from unialign.errors import UsageError
from unialign.stages.extraction.pose_clips import Shape, View, clip_grid
from unialign.stages.extraction.pose_recipes import RECIPES
from unialign.stages.skeleton_layouts import LAYOUTS

NTU = LAYOUTS["ntu-25"]
PLAIN, MIRROR = clip_grid(1, True)

# What multi_input of 1suancaiyu/EfficientGCNv1 (commit 6c0a13e) gives at [person, frame, joint] of `metres()`.
PUBLIC: dict[tuple[int, int, int], list[float]] = {
    (0, 1, 21): [0.86015, -0.51488, 3.4664, 0.9763, -0.79111, 1.02651, -0.86015, 0.51488, -3.4664,
                 -0.54446, 0.41933, -1.33739, 0.55655, -0.57485, 1.13754, 1.15911, 1.99688, 0.61309],
    (1, 4, 7): [0.03567, 0.2114, 3.01201, -0.02868, 0.3986, 0.0392, -0.37539, -0.40586, -0.76446,
                -0.03567, -0.2114, -3.01201, -0.00146, 0.47608, 0.21871, 1.57358, 0.43107, 1.14024],
    (0, 7, 24): [0.0] * 15 + [1.5708] * 3,
}  # fmt: skip


def metres() -> np.ndarray:
    """Six frames of two persons; the one with more motion comes first, and is absent in the third."""
    made = np.random.default_rng(15).normal((0.2, 0.1, 3.0), 0.4, (6, 2, 25, 3)).astype(np.float32)
    made[2, 0] = np.nan
    return made


def clip(keypoints: np.ndarray, view: View = PLAIN, frames: int = 8, persons: int = 2) -> np.ndarray:
    return RECIPES["efficientgcn-3d"](keypoints, NTU, view, Shape(frames, persons), None).keypoints


def test_the_three_inputs_are_those_of_the_public_code():
    found = clip(metres())
    assert found.shape == (2, 8, 25, 18)
    for at, expected in PUBLIC.items():
        np.testing.assert_allclose(found[at], expected, atol=1e-5)
    np.testing.assert_allclose(np.abs(found.astype(np.float64)).sum(), 4945.97362, rtol=1e-6)


def test_the_person_with_more_motion_comes_first_and_one_who_is_absent_is_at_zero():
    swapped = metres()[:, ::-1]
    np.testing.assert_array_equal(clip(swapped), clip(metres()))
    alone = metres()[:, :1]
    made = RECIPES["efficientgcn-3d"](alone, NTU, PLAIN, Shape(8, 2), None)
    np.testing.assert_array_equal(made.keypoints[0], clip(metres())[0])
    assert made.present.tolist() == [True, False]
    assert not made.keypoints[1, ..., :15].any()


def test_a_mirrored_clip_is_the_clip_of_the_mirrored_person():
    plain, other = clip(metres()), clip(metres(), MIRROR)
    turned = plain[:, :, list(NTU.mirror), :3] * np.array([-1, 1, 1])
    np.testing.assert_allclose(other[..., :3], turned, atol=1e-7)


def test_offsets_of_a_long_sample_are_windows_of_consecutive_frames():
    long = np.random.default_rng(16).normal(0, 1, (20, 1, 25, 3)).astype(np.float32)
    for offset, start in ((0, 0), (1, 4), (2, 8)):
        found = clip(long, View(offset, 3, False), frames=8, persons=1)
        np.testing.assert_array_equal(found[0, ..., :3], long[start : start + 8, 0])


def test_a_layout_without_its_bones_is_refused():
    with pytest.raises(UsageError, match="no bones for the layout coco-17; known: ntu-25"):
        RECIPES["efficientgcn-3d"](np.ones((3, 1, 17, 3)), LAYOUTS["coco-17"], PLAIN, Shape(4, 1), None)
