"""Contract of PYSKL's clips: streams of whole samples, one body's space, heatmap pixels that mirror with the image."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from unialign.errors import CorruptInput, UsageError
from unialign.stages.extraction.pose_clips import Shape, View, clip_grid, sample_frames
from unialign.stages.extraction.pose_recipes import RECIPES
from unialign.stages.extraction.pyskl_clips import BONE_STARTS
from unialign.stages.models.skeleton.posec3d import LIMBS, joint_heatmaps, limb_heatmaps
from unialign.stages.skeleton_layouts import LAYOUTS

COCO, NTU = LAYOUTS["coco-17"], LAYOUTS["ntu-25"]
PLAIN, MIRROR = clip_grid(1, True)
SIZE = (640.0, 360.0)
GENERATOR = np.random.default_rng(3)
PIXELS = GENERATOR.uniform((0, 0, 0.2), (640, 360, 1), (10, 2, 17, 3))
METRES = GENERATOR.normal((0.2, 0.1, 3.0), 0.4, (10, 2, 25, 3))


@pytest.mark.parametrize(("recipe", "poses", "layout"), [("pyskl-2d", PIXELS, COCO), ("pyskl-3d", METRES, NTU)])
def test_bones_are_joints_less_their_starts_and_motion_is_of_the_whole_sample(recipe: str, poses: np.ndarray, layout):
    every, few = Shape(10, 2), Shape(4, 2)
    joint = RECIPES[recipe](poses, layout, PLAIN, every, SIZE).keypoints
    bone = RECIPES[f"{recipe}-bone"](poses, layout, PLAIN, every, SIZE).keypoints
    starts = joint[:, :, list(BONE_STARTS[layout.name])]
    np.testing.assert_allclose(bone[..., :2], (joint - starts)[..., :2], atol=1e-6)
    motion = RECIPES[f"{recipe}-bone-motion"](poses, layout, PLAIN, every, SIZE).keypoints
    np.testing.assert_allclose(motion[:, :-1, :, :2], np.diff(bone, axis=1)[..., :2], atol=1e-6)
    assert (motion[:, -1] == 0).all()
    scores = (joint + starts)[..., 2] / 2 if recipe == "pyskl-2d" else (joint - starts)[..., 2]
    np.testing.assert_allclose(bone[..., 2], scores, atol=1e-6)
    frames = sample_frames(10, 4, PLAIN)
    short = RECIPES[f"{recipe}-bone-motion"](poses, layout, PLAIN, few, SIZE).keypoints
    np.testing.assert_array_equal(short, motion[:, frames])


def test_a_padded_clip_ends_in_zeros():
    clip = RECIPES["pyskl-3d-padded"](METRES, NTU, PLAIN, Shape(16, 2), None)
    assert (clip.keypoints[:, 10:] == 0).all()
    assert (clip.keypoints[:, :10] != 0).any(axis=(2, 3)).all()


def test_the_person_in_more_frames_leads_and_keeps_the_path():
    poses = METRES.copy()
    poses[:4, 0] = np.nan
    poses[:, 1] += np.arange(10)[:, None, None] * 0.1
    clip = RECIPES["pyskl-3d"](poses, NTU, PLAIN, Shape(10, 2), None)
    assert clip.present.tolist() == [True, True]
    assert (clip.keypoints[1, :4] == 0).all(), "the other one is the second"
    (_, upper), (right, left) = NTU.spine or (0, 0), NTU.shoulders or (0, 0)
    first = clip.keypoints[0, 0]
    np.testing.assert_allclose(first[upper], 0, atol=1e-6)
    np.testing.assert_allclose((first[right] - first[left])[1:], 0, atol=1e-5)
    steps = np.linalg.norm(np.diff(clip.keypoints[0, :, upper], axis=0), axis=1)
    moved = np.linalg.norm(np.diff(poses[:, 1, upper], axis=0), axis=1)
    np.testing.assert_allclose(steps, moved, atol=1e-5)


def test_heatmaps_of_a_mirrored_view_are_mirrored_heatmaps():
    shape = Shape(6, 2)
    plain, other = (RECIPES["heatmap-64"](PIXELS, COCO, view, shape, SIZE).keypoints for view in (PLAIN, MIRROR))
    assert plain[..., :2].min() > 0
    assert plain[..., :2].max() < 64
    joints, mirrored = (joint_heatmaps(torch.from_numpy(clip)[None], 64) for clip in (plain, other))
    # At the edge of a bell, a pixel can fall on the other side of 3 sigma, where it is 1 % of the score.
    torch.testing.assert_close(mirrored, joints.flip(-1)[:, list(COCO.mirror)], atol=0.012, rtol=0)
    limbs, mirrored = (limb_heatmaps(torch.from_numpy(clip)[None], 64) for clip in (plain, other))
    swapped = [LIMBS.index((COCO.mirror[first], COCO.mirror[last])) if first != 11 or last != 12 else 16
               for first, last in LIMBS]  # fmt: skip
    torch.testing.assert_close(mirrored, limbs.flip(-1)[:, swapped], atol=0.012, rtol=0)


def test_a_box_around_a_hand_spans_two():
    hand = GENERATOR.uniform((100, 50, 0.5), (300, 200, 1), (12, 1, 21, 3))
    clip = RECIPES["pyskl-boxed"](hand, LAYOUTS["hand-21"], PLAIN, Shape(12, 1), SIZE)
    assert clip.keypoints.shape == (1, 12, 21, 2)
    np.testing.assert_allclose([clip.keypoints.min(), clip.keypoints.max()], [-1, 1], atol=1e-6)


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("body")])
def test_poses_of_nobody_are_a_status(name: str):
    layout = NTU if "3d" in name else COCO
    empty = np.full((5, 2, len(layout.joints), 3), np.nan)
    with pytest.raises(CorruptInput) as raised:
        RECIPES[name](empty, layout, View(0, 1, False), Shape(4, 2), SIZE)
    assert raised.value.status == "no-person"


def test_missing_sizes_and_bones_are_named():
    with pytest.raises(UsageError, match="the store has none"):
        RECIPES["heatmap-64"](PIXELS, COCO, PLAIN, Shape(4, 2), None)
    with pytest.raises(UsageError, match="no bones for the layout coco-18"):
        RECIPES["pyskl-2d-bone"](np.ones((3, 1, 18, 3)), LAYOUTS["coco-18"], PLAIN, Shape(4, 1), SIZE)
    with pytest.raises(UsageError, match="no spine"):
        RECIPES["pyskl-3d"](METRES[:, :, :17], COCO, PLAIN, Shape(4, 2), None)


def test_bones_lead_to_the_center():
    for name, starts in BONE_STARTS.items():
        known = LAYOUTS[name]
        assert len(starts) == len(known.joints)
        walk = list(range(len(starts)))
        for _ in starts:
            walk = [starts[joint] for joint in walk]
        assert set(walk) == {known.center}
    assert all(first != last for first, last in pairwise(sorted(LIMBS)))
