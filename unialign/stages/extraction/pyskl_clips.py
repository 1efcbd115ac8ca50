"""Clips as PYSKL prepares them: joints, bones and their motion in the frame or around the body, and heatmap pixels.

Legend: T frames of a sample, S frames of a clip, M persons in the cache, P person slots of the encoder, V joints.
Absent values are NaN in the cache and zero in a clip.

Source: kennymckormick/pyskl, datasets/pipelines/pose_related.py (PreNormalize2D, PreNormalize3D, GenSkeFeat, PadTo,
FormatGCNInput) and augmentations.py (PoseCompact). Streams are made of whole samples, before frames are drawn from
them, as there. Deviations: frames without any person are dropped in 2-D too (PYSKL's `squeeze`, there for Kinetics
only), and of a sample with more persons the first ones of the cache are taken.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unialign.errors import CorruptInput, UsageError
from unialign.stages.extraction.body_space import LOWEST_SCORE
from unialign.stages.extraction.pose_clips import PoseClip, Shape, View, mirrored, rotation_onto, sample_frames
from unialign.stages.skeleton_layouts import Layout

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

STREAMS = ("joint", "bone", "joint-motion", "bone-motion")

# (joint, the one that it is taken from): JointToBone's pairs, which are not the edges of PYSKL's graphs.
_COCO = (0, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 0, 0, 11, 12, 13, 14)
_NTU = (1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11)
BONE_STARTS: Mapping[str, Sequence[int]] = {"coco-17": _COCO, "ntu-25": _NTU}

PADDING, SMALLEST_BOX = 0.25, 10  # of the box around all joints: added to its sides; pixels below which it is not used


def pyskl_2d(
    keypoints: np.ndarray,
    layout: Layout,
    view: View,
    shape: Shape,
    frame_size: tuple[float, float] | None,
    *,
    stream: str = "joint",
    padded: bool = False,
) -> PoseClip:
    """A clip of x, y in [-1, 1] of the frame, and score, from pixels (T, M, V, 3).

    Frames without any person are dropped first. A joint that is absent or has a score of at most 0.01 is at (0, 0), the
    center of the frame; an absent one also has a score of 0. The slots go to the first persons in the cache. In the
    other streams the score is the mean of the two joints', or of the two frames'.

    stream: one of `STREAMS`. padded: a short sample is followed by zeros, not repeated (ST-GCN's own recipe).
    Raises `CorruptInput` (no-person) if no frame shows anybody, `UsageError` without a frame size (width, height).
    """
    persons, seen = _shown(keypoints, shape)
    width, height = _required(frame_size)
    if view.flip:
        persons, seen = mirrored(persons, layout, width), seen[..., list(layout.mirror)]
    half = np.array([width / 2, height / 2])
    whole = np.zeros_like(persons)
    whole[..., :2] = np.where(seen[..., None], (persons[..., :2] - half) / half, 0)
    whole[..., 2] = np.nan_to_num(persons[..., 2])
    return _clip(_stream(whole, layout, stream, scored=True), seen, view, shape, padded)


def pyskl_boxed(
    keypoints: np.ndarray, layout: Layout, view: View, shape: Shape, frame_size: tuple[float, float] | None = None
) -> PoseClip:
    """A clip of x and y in [-1, 1] of the box around all joints of the sample, without a score, from pixels.

    It is how PYSKL's gesture network reads hands. Absent joints are at (0, 0). Raises `CorruptInput` (no-person) if no
    frame shows anybody.
    """
    persons, seen = _shown(keypoints, shape)
    places = persons[..., :2]
    low, high = places[seen].min(axis=0), places[seen].max(axis=0)
    if (high - low > SMALLEST_BOX).all():
        places = (places - (high + low) / 2) / (high - low) * 2
    if view.flip:
        places, seen = mirrored(places, layout), seen[..., list(layout.mirror)]
    return _clip(np.where(seen[..., None], places, 0), seen, view, shape, padded=False)


def pyskl_3d(
    keypoints: np.ndarray,
    layout: Layout,
    view: View,
    shape: Shape,
    frame_size: tuple[float, float] | None = None,
    *,
    stream: str = "joint",
    padded: bool = False,
) -> PoseClip:
    """A clip of meters around the main person's first position, from camera coordinates (T, M, V, 3).

    PreNormalize3D: the main person is the one of the first two who is present in more frames, and only these frames
    count. In the first of them, the upper end of the spine is the origin, the spine is rotated parallel to z, then the
    shoulders parallel to x. Unlike `pose_clips.agcn_3d`, the person's path through the room is kept.
    stream, padded: see `pyskl_2d`. Raises `CorruptInput` (no-person) if no frame shows anybody.
    """
    if layout.spine is None or layout.shoulders is None:
        raise UsageError(f"the layout {layout.name} has no spine and shoulders, which the recipe pyskl-3d turns it by.")
    persons = mirrored(keypoints, layout) if view.flip else keypoints
    persons = persons[:, : shape.num_persons].astype(np.float64)
    seen: Flags = np.isfinite(persons).all(axis=-1)  # (T, P, V)
    frames = seen.any(axis=2).sum(axis=0)
    main = int(np.argmax(frames[:2]))  # the first one if both are present in as many
    if not frames[main]:
        raise CorruptInput("no frame shows a person.", status="no-person")
    order = [main, *(person for person in range(persons.shape[1]) if person != main)]
    shown = np.flatnonzero(seen[:, main].any(axis=1))
    persons, seen = persons[shown][:, order], seen[shown][:, order]
    whole = np.where(seen[..., None], persons - np.nan_to_num(persons[0, 0, layout.spine[1]]), 0)
    (lower, upper), (right, left) = layout.spine, layout.shoulders
    whole = whole @ rotation_onto(whole[0, 0, upper] - whole[0, 0, lower], np.array([0.0, 0.0, 1.0])).T
    whole = whole @ rotation_onto(whole[0, 0, right] - whole[0, 0, left], np.array([1.0, 0.0, 0.0])).T
    return _clip(_stream(whole, layout, stream, scored=False), seen, view, shape, padded)


def heatmap_pixels(
    keypoints: np.ndarray,
    layout: Layout,
    view: View,
    shape: Shape,
    frame_size: tuple[float, float] | None,
    *,
    side: int,
) -> PoseClip:
    """A clip of pixels in a square heatmap, and score, from pixels (T, M, V, 3): the network draws the bells.

    The square is the box around all joints of the clip, a quarter larger, with its short side made as long as its long
    one; the whole frame, stretched, where the box is smaller than 10 pixels. A mirrored view mirrors the heatmap.
    An absent joint has a score of 0. Frames without any person are dropped first.
    side: pixels of the heatmap. Raises `CorruptInput` (no-person) if no frame shows anybody.
    """
    persons, seen = _shown(keypoints, shape, lowest=0)
    frames = sample_frames(len(persons), shape.num_frames, view)
    persons, seen = persons[frames], seen[frames]
    width, height = _required(frame_size)
    low, size = np.zeros(2), np.array([width, height])
    first, last = persons[seen][:, :2].min(axis=0), persons[seen][:, :2].max(axis=0)
    if (last - first >= SMALLEST_BOX).all():
        half = (last - first).max() / 2 * (1 + PADDING)
        # Whole pixels, rounded towards zero.
        low = np.trunc((first + last) / 2 - half)
        size = np.trunc((first + last) / 2 + half) - low
    clip = np.zeros((shape.num_persons, shape.num_frames, *persons.shape[2:]), np.float32)
    filled = np.where(seen[..., None], persons, 0)
    filled[..., :2] = np.where(seen[..., None], (filled[..., :2] - low) * side / size, 0)
    if view.flip:
        filled = mirrored(filled, layout, side - 1)
        seen = seen[..., list(layout.mirror)]
    clip[: persons.shape[1]] = filled.swapaxes(0, 1)
    return PoseClip(clip, _present(seen, shape))


def _required(frame_size: tuple[float, float] | None) -> tuple[float, float]:
    if frame_size is None:
        raise UsageError("poses in pixels need the size of their frames, but the store has none; extract them again.")
    return frame_size


def _shown(keypoints: np.ndarray, shape: Shape, lowest: float = LOWEST_SCORE) -> tuple[Floats, Flags]:
    """The frames that show a person: the first persons (T', P, V, 3) of the cache, and which joints count."""
    persons = keypoints[:, : shape.num_persons].astype(np.float64)
    seen: Flags = np.isfinite(persons).all(axis=-1) & (persons[..., 2] > lowest)  # (T, P, V)
    shown = np.flatnonzero(seen.any(axis=(1, 2)))
    if not len(shown):
        raise CorruptInput("no frame shows a person.", status="no-person")
    return persons[shown], seen[shown]


def _stream(joints: Floats, layout: Layout, stream: str, *, scored: bool) -> Floats:
    """A stream of joints (T, P, V, C), which are zero where absent; the last of C is a score if `scored`."""
    made = joints
    if stream.startswith("bone"):
        if layout.name not in BONE_STARTS:
            raise UsageError(f"PYSKL has no bones for the layout {layout.name}; known: {', '.join(BONE_STARTS)}.")
        starts = joints[..., list(BONE_STARTS[layout.name]), :]
        made = joints - starts
        if scored:
            made[..., -1] = (joints[..., -1] + starts[..., -1]) / 2
    if stream.endswith("motion"):
        moved = np.zeros_like(made)
        moved[:-1] = made[1:] - made[:-1]
        if scored:
            moved[:-1, ..., -1] = (made[1:, ..., -1] + made[:-1, ..., -1]) / 2
        made = moved
    return made


def _clip(whole: Floats, seen: Flags, view: View, shape: Shape, padded: bool) -> PoseClip:
    """The frames of a view of (T, P, V, C), in the encoder's slots."""
    frames = sample_frames(len(whole), shape.num_frames, view)
    if padded and len(whole) < shape.num_frames:
        frames = np.arange(len(whole))
    clip = np.zeros((shape.num_persons, shape.num_frames, *whole.shape[2:]), np.float32)
    clip[: whole.shape[1], : len(frames)] = whole[frames].swapaxes(0, 1)
    return PoseClip(clip, _present(seen[frames], shape))


def _present(seen: Flags, shape: Shape) -> NDArray[np.bool_]:
    present = np.zeros(shape.num_persons, bool)
    present[: seen.shape[1]] = seen.any(axis=(0, 2))
    return present
