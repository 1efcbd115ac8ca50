"""Cached frames of a clip with the skeletons of its people drawn over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unialign.cache.reader import Recorded
from unialign.pipeline.evaluation.plots import draw_skeleton
from unialign.pipeline.evaluation.shown_joints import joints_over_frames
from unialign.pipeline.evaluation.tracks import ABSENT, held, track_states
from unialign.stages.images import decode_images
from unialign.stages.skeleton_layouts import layout_in

NOBODY = np.empty((0, 0, 2))


@dataclass(frozen=True)
class SkeletonFrames:
    """images: with skeletons. numbers: of these frames in the clip, from 0. sided: whether there are skeletons, with a
    left and a right.
    """

    images: tuple[Image.Image, ...]
    numbers: tuple[int, ...]
    sided: bool


def skeleton_frames(frames: Recorded, poses: Recorded | None, sample: str, which: Sequence[int]) -> SkeletonFrames:
    """The cached frames `which` (0-based) of a sample, without people where the poses lack them."""
    stored = frames.read_one(sample)
    encoding = str(frames.array_attributes("pictures")["encoding"])
    pictures = decode_images(stored["pictures"], stored["offset"], stored["size"], encoding, which)
    numbers = tuple(np.asarray(stored["frame_index"])[list(which)].tolist())
    layout = layout_in(poses.array_attributes("keypoints")) if poses else None
    joints = joints_over_frames(poses, sample, stored)
    if joints is None or layout is None:
        return SkeletonFrames(tuple(draw_skeleton(picture, NOBODY, ()) for picture in pictures), numbers, False)
    sides = [layout.side(joint) for joint in range(len(layout.joints))]
    states, joined = track_states(joints), held(joints)
    images = tuple(
        draw_skeleton(
            picture,
            joined[index] if index < len(joints) else NOBODY,
            layout.bones,
            sides,
            "".join(letters[index] if index < len(letters) else ABSENT for letters in states),
        )
        for picture, index in zip(pictures, numbers, strict=True)
    )
    return SkeletonFrames(images, numbers, True)


def liveliest(frames: Recorded, poses: Recorded | None, sample: str) -> int:
    """The place of the cached frame whose joints are furthest from those of the first one; the middle without any."""
    stored: Mapping[str, np.ndarray] = frames.read_one(sample)
    numbers = np.asarray(stored["frame_index"], np.int64)
    joints = joints_over_frames(poses, sample, stored)
    inside = numbers[numbers < len(joints)] if joints is not None else numbers[:0]
    if joints is None or not len(inside):
        return len(numbers) // 2
    first = joints[inside[0], 0]
    moved = np.linalg.norm(joints[inside, 0] - first, axis=-1)  # (frames, joints)
    distances = np.nan_to_num(moved).sum(axis=1)
    return int(distances.argmax())
