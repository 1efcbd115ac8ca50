"""Random augmentation of a body in training: viewpoint, size, speed, noise, missing joints and frames.

Legend: P persons, T frames of a sample, S frames of a clip, V joints, D = 2 or 3 coordinates.

All draws come from one generator per clip, so they do not depend on the order of clips.
"""

from dataclasses import dataclass

import numpy as np

from unialign.stages.extraction.body_space import Body

NOTHING = 8  # frames of the shortest random part


@dataclass(frozen=True)
class SkeletonAugmentation:
    """The strength of each change; 0 turns it off.

    crop: minimum length of the part of a sample that is read, as a fraction of its frames. It also varies the speed: a
        part fills the clip whatever its length.
    tilt: maximum rotation in the image plane (3-D: about both horizontal axes), in degrees. turn: about the vertical
        axis, 3-D only, in degrees.
    scale: maximum relative change of each coordinate's size. shear: maximum fraction of one coordinate added to
        another.
    jitter: maximum standard deviation of noise on joints, in units of the body.
    joint_dropout, frame_dropout: probability that a joint is missing in the whole clip, or that a frame repeats the
        previous one.
    """

    crop: float = 0.6
    tilt: float = 15.0
    turn: float = 30.0
    scale: float = 0.2
    shear: float = 0.15
    jitter: float = 0.02
    joint_dropout: float = 0.05
    frame_dropout: float = 0.05


def random_positions(
    length: int, count: int, generator: np.random.Generator, augmentation: SkeletonAugmentation
) -> np.ndarray:
    """The positions at which a clip of `count` frames reads a sample of `length` frames: random in each equal part
    of a crop.
    """
    share = generator.uniform(augmentation.crop, 1.0)
    part = min(float(length), max(float(NOTHING), length * share))
    start = generator.uniform(0.0, length - part)
    steps = np.arange(count) + generator.random(count)
    if augmentation.frame_dropout:
        missing = generator.random(count) < augmentation.frame_dropout
        missing[0] = False
        # Replaced by the previous frame, also for several in a row.
        steps = steps[np.maximum.accumulate(np.where(missing, 0, np.arange(count)))]
    return np.asarray(start + steps * part / count - 0.5)


def augmented(body: Body, generator: np.random.Generator, augmentation: SkeletonAugmentation) -> Body:
    """The body from another viewpoint, of another size, with noise and missing joints; the same change in all
    frames.
    """
    change = _change(body.root.shape[1], generator, augmentation)
    joints, root = body.joints @ change.T, body.root @ change.T
    if augmentation.jitter:
        spread = generator.uniform(0.0, augmentation.jitter)
        joints = (
            joints
            + generator.normal(0.0, spread, joints.shape) * np.asarray(body.seen.any(axis=(1, 2)))[:, None, None, None]
        )
    seen = body.seen
    if augmentation.joint_dropout:
        kept = generator.random((len(joints), joints.shape[2])) >= augmentation.joint_dropout  # (P, V)
        joints = joints * kept[:, None, :, None]
        seen = seen & kept[:, None]
        # A person who was present stays present.
        seen = np.where(np.asarray(seen.any(axis=(1, 2)))[:, None, None], seen, body.seen)
    return Body(joints.astype(np.float32), seen, root.astype(np.float32))


def _change(num_axes: int, generator: np.random.Generator, augmentation: SkeletonAugmentation) -> np.ndarray:
    """A random matrix (D, D): rotation, then scale, then shear."""

    def rotation(first: int, second: int, degrees: float) -> np.ndarray:
        angle = np.deg2rad(generator.uniform(-degrees, degrees))
        matrix = np.eye(num_axes)
        matrix[[first, second], [first, second]] = np.cos(angle)
        matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
        return matrix

    change = rotation(0, 1, augmentation.tilt)
    if num_axes == 3:
        # y is vertical in camera space and in Kinect's space.
        change = rotation(1, 2, augmentation.tilt) @ rotation(0, 2, augmentation.turn) @ change
    scale = np.diag(generator.uniform(1 - augmentation.scale, 1 + augmentation.scale, num_axes))
    shear = np.eye(num_axes)
    off = ~np.eye(num_axes, dtype=bool)
    shear[off] = generator.uniform(-augmentation.shear, augmentation.shear, int(off.sum()))
    return np.asarray(shear @ scale @ change)
