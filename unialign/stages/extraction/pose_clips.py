"""From cached keypoints to the clips that skeleton encoders read: a fixed grid of views, and clips in meters.

Legend: T frames of a sample, S frames of a clip, M persons in the cache, P person slots of the encoder, V joints,
C coordinates. In the cache absent values are NaN; in a clip they are zero, as in the published recipes, and a mask
marks absent persons.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from unialign.errors import CorruptInput, UsageError
from unialign.stages.extraction.body_space import body_arrays, body_space, mirrored_body
from unialign.stages.sample_reader import SampleReader
from unialign.stages.skeleton_layouts import Layout


def frame_size(reader: SampleReader, sample: Mapping[str, np.ndarray]) -> tuple[float, float] | None:
    """(width, height) of a sample's frames in pixels, None for poses without it; the array names its entries.

    Raises `UsageError` if it does not.
    """
    if "frame_size" not in sample:
        return None
    attributes = reader.array_attributes("frame_size")
    names = attributes.get("axes") or attributes.get("size") or ()
    sides = dict(zip(names, sample["frame_size"].tolist(), strict=False))
    if not {"width", "height"} <= sides.keys():
        raise UsageError("frame_size of the poses does not say which entry is the width; extract them again.")
    return float(sides["width"]), float(sides["height"])


@dataclass(frozen=True)
class View:
    """One deterministic reading of a sample: the `offset`-th of `num_offsets` temporal positions, mirrored or not."""

    offset: int
    num_offsets: int
    flip: bool


@dataclass(frozen=True)
class PoseClip:
    """Input of an encoder: keypoints (P, S, V, C) float32 without NaN, and which of the P persons are present."""

    keypoints: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class Shape:
    """Input size of an encoder: frames and person slots per clip."""

    num_frames: int
    num_persons: int


def clip_grid(num_offsets: int, flips: bool) -> tuple[View, ...]:
    """All views of a sample, by offset, each plain and then mirrored.

    A fixed grid, instead of PYSKL's random sampling and flipping, can be cached; training draws from it.
    """
    if num_offsets < 1:
        raise ValueError(f"{num_offsets} temporal offsets; at least 1 is needed")
    sides = (False, True) if flips else (False,)
    return tuple(View(offset, num_offsets, flip) for offset, flip in product(range(num_offsets), sides))


def sample_frames(num_frames: int, clip_len: int, view: View) -> np.ndarray:
    """The frame indices (clip_len,) of a view, in [0, num_frames).

    A long sample is divided into clip_len equal segments and contributes the frame at the fraction (offset + 1/2) /
    num_offsets of each: a single offset reads the centers. A sample shorter than the clip is repeated, starting at the
    fraction offset / num_offsets.

    Source: PYSKL's UniformSampleFrames, test mode, with its random draws replaced by the fraction.
    """
    if num_frames < 1:
        raise ValueError("a sample without frames has no views")
    steps = np.arange(clip_len)
    if num_frames < clip_len:
        return (steps + view.offset * num_frames // view.num_offsets) % num_frames
    # Whole numbers throughout: floor((step + (2 * offset + 1) / (2 * num_offsets)) * num_frames / clip_len).
    halves = 2 * view.num_offsets
    return (steps * halves + 2 * view.offset + 1) * num_frames // (halves * clip_len)


def mirrored(keypoints: np.ndarray, layout: Layout, width: float | None = None) -> np.ndarray:
    """The mirror image of keypoints (..., V, C): left and right joints are swapped, x becomes width - x.

    Without a width (3-D, meters, the camera at 0) x becomes -x.
    """
    flipped = keypoints[..., list(layout.mirror), :].copy()
    flipped[..., 0] = (width or 0.0) - flipped[..., 0]
    return flipped


def agcn_3d(
    keypoints: np.ndarray, layout: Layout, view: View, shape: Shape, frame_size: tuple[float, float] | None = None
) -> PoseClip:
    """A clip of meters around the main person's spine, from camera coordinates (T, M, V, 3); absent joints are zero.

    In this order: the persons with the most motion first; each person's track repeated until it fills the clip; the
    main person's middle of the spine subtracted, frame by frame; everything rotated so that the main person's spine is
    parallel to z and the shoulders, left to right, parallel to x in the first frame. In frames without the main person
    nothing is subtracted: the public weights were trained that way.

    Source: lshiwjx/2s-AGCN, data_gen/ntu_gendata.py and preprocess.py (also used by Shift-GCN), where a sample has at
    most as many frames as the clip (300). Deviation: longer ones are sampled uniformly, and every offset but the first
    begins at a later frame and wraps around.
    Raises `CorruptInput` (no-person) if no frame shows anybody.
    """
    clip, present = _tracks(keypoints, layout, view, shape)
    absent = ~np.asarray(np.isfinite(clip).all(axis=-1, keepdims=True))
    if layout.spine is None or layout.shoulders is None:
        raise ValueError(f"the layout {layout.name} has no spine and shoulders to turn a clip by")
    lower, upper = layout.spine
    right, left = layout.shoulders
    clip = np.where(absent, 0, clip)
    clip = np.where(absent, 0, clip - clip[:1, :, upper : upper + 1])
    clip = clip @ rotation_onto(clip[0, 0, upper] - clip[0, 0, lower], np.array([0.0, 0.0, 1.0])).T
    clip = clip @ rotation_onto(clip[0, 0, right] - clip[0, 0, left], np.array([1.0, 0.0, 0.0])).T
    return PoseClip(clip.astype(np.float32), present)


def centered_3d(
    keypoints: np.ndarray, layout: Layout, view: View, shape: Shape, frame_size: tuple[float, float] | None = None
) -> PoseClip:
    """A clip of meters around the first position of the main person's center, for layouts without spine and shoulders.

    Persons, tracks and absent joints as in `agcn_3d`; nothing is rotated, and the person's path through the room is
    kept. If the center is never seen, the mean of the joints of the first frame with a person is used instead.
    Raises `CorruptInput` (no-person) if no frame shows anybody.
    """
    clip, present = _tracks(keypoints, layout, view, shape)
    absent = ~np.asarray(np.isfinite(clip).all(axis=-1, keepdims=True))
    seen = np.flatnonzero(~absent[0, :, layout.center, 0])
    first = np.flatnonzero(~absent[0].all(axis=(1, 2)))[0]
    origin = clip[0, seen[0], layout.center] if len(seen) else np.nanmean(clip[0, first], axis=0)
    return PoseClip(np.where(absent, 0, clip - origin).astype(np.float32), present)


def _tracks(keypoints: np.ndarray, layout: Layout, view: View, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The persons with the most motion (P, S, V, 3), NaN where absent, each repeated to fill the clip; who is present.

    Raises `CorruptInput` (no-person) if no frame shows anybody.
    """
    num_frames = min(len(keypoints), shape.num_frames)
    frames = sample_frames(len(keypoints), shape.num_frames, view)[:num_frames]
    persons = mirrored(keypoints[frames], layout) if view.flip else keypoints[frames]
    persons = persons.swapaxes(0, 1).astype(np.float64)  # (M, T, V, 3)
    order = sorted(range(len(persons)), key=lambda index: -energy(persons[index]))[: shape.num_persons]
    clip = np.full((shape.num_persons, shape.num_frames, *persons.shape[2:]), np.nan)
    for slot, index in enumerate(order):
        clip[slot] = repeated(persons[index], shape.num_frames)
    present = np.any(np.isfinite(clip).all(axis=-1, keepdims=True), axis=(1, 2, 3))
    if not present[0]:
        raise CorruptInput("no frame shows a person.", status="no-person")
    return clip, present


def energy(person: np.ndarray) -> float:
    """How much one person (T, V, 3) moves and spreads: the sum of the standard deviations of x, y, z; -1 if never
    present.
    """
    seen = person[np.isfinite(person).any(axis=(1, 2))]
    return float(np.nanstd(seen, axis=(0, 1)).sum()) if len(seen) else -1.0


def repeated(person: np.ndarray, num_frames: int) -> np.ndarray:
    """One person's track (T, V, 3), repeated to (num_frames, V, 3); T is at most num_frames.

    A person who is present from the start keeps gaps and loses the empty frames at the end; for one who appears later,
    only the frames that show them are kept, from frame 0 on. A person who is never present stays NaN.
    """
    shown = np.flatnonzero(np.isfinite(person).any(axis=(1, 2)))
    if not len(shown):
        return np.full((num_frames, *person.shape[1:]), np.nan)
    track = person[: shown[-1] + 1] if shown[0] == 0 else person[shown]
    return track[np.arange(num_frames) % len(track)]


def rotation_onto(start: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) about their common normal that turns the direction of `start` into that of `target`.

    The identity for a vector of zero length and for two that are already (anti-)parallel.
    """
    normal = np.cross(start, target)
    sine, length = np.linalg.norm(normal), np.linalg.norm(start) * np.linalg.norm(target)
    if np.abs(start).sum() < 1e-6 or np.abs(normal).sum() < 1e-6:
        return np.eye(3)
    x, y, z = normal / sine
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # Rodrigues' formula.
    return np.asarray(np.eye(3) + sine / length * cross + (1 - start @ target / length) * cross @ cross)


def body_2d(
    keypoints: np.ndarray, layout: Layout, view: View, shape: Shape, frame_size: tuple[float, float] | None = None
) -> PoseClip:
    """A clip in body space, from pixels (T, M, V, 3): x, y, fraction seen, root x and y, see `body_space.body_arrays`.

    The clip is interpolated between frames: `num_frames` equal parts of the sample, each at the fraction
    (offset + 1/2) / num_offsets. Raises `CorruptInput` (no-person) if no frame shows anybody.
    """
    return _body(keypoints, layout, view, shape, scored=True)


def body_3d(
    keypoints: np.ndarray, layout: Layout, view: View, shape: Shape, frame_size: tuple[float, float] | None = None
) -> PoseClip:
    """The same from camera coordinates (T, M, V, 3): x, y, z, fraction seen, displacement in x, y and z."""
    return _body(keypoints, layout, view, shape, scored=False)


def _body(keypoints: np.ndarray, layout: Layout, view: View, shape: Shape, *, scored: bool) -> PoseClip:
    body = body_space(keypoints, layout, shape.num_persons, scored=scored)
    if view.flip:
        body = mirrored_body(body, layout)
    length = body.joints.shape[1]
    part = (view.offset + 0.5) / view.num_offsets
    return PoseClip(*body_arrays(body, (np.arange(shape.num_frames) + part) * length / shape.num_frames - 0.5))
