"""Keypoints in body coordinates, without position, apparent size, and gaps.

Legend: T frames of a sample, S frames of a clip, M persons of a sample, P persons that are kept, V joints, D = 2 or 3
coordinates.
"""

from dataclasses import dataclass

import numpy as np

from unialign.errors import CorruptInput
from unialign.stages.skeleton_layouts import Layout

LOWEST_SCORE = 0.01  # a joint of 2-D poses with this score or less counts as not detected, as in PYSKL's PreNormalize2D


@dataclass(frozen=True)
class Body:
    """Persons in body space; the unit of length is the size of the main person's body.

    joints: (P, T, V, D) float32, relative to the main person's hips in each frame; 0 for a person who is never seen. A
    joint that is missing in a frame is interpolated between its positions before and after.
    seen: (P, T, V) bool, which joints were actually detected. root: (T, D) float32, displacement of the main person's
    hips from their position in the first frame.
    """

    joints: np.ndarray
    seen: np.ndarray
    root: np.ndarray


def body_space(keypoints: np.ndarray, layout: Layout, num_persons: int, *, scored: bool) -> Body:
    """Persons of a sample (T, M, V, C) in body space; frames without the main person are left out.

    scored: 2-D keypoints x, y, score, persons in cache order; otherwise x, y, z, persons with the most motion and
    spread first. The hips are the origin; if a sample never shows them, the shoulders or, as a last resort, the mean of
    all joints. The size of a body is the median over frames of the root mean square distance of its joints from the
    origin: the length of the torso, the usual unit, vanishes when somebody bends towards the camera.
    Raises `CorruptInput` (no-person) if no frame shows the main person.
    """
    places = keypoints[..., :2] if scored else keypoints
    seen = np.isfinite(keypoints).all(axis=-1)
    if scored:
        seen &= keypoints[..., 2] > LOWEST_SCORE
    order = range(places.shape[1]) if scored else _by_spread(places, seen)
    chosen = [index for index in order if seen[:, index].any()][:num_persons]
    if not chosen:
        raise CorruptInput("no frame shows a person.", status="no-person")
    frames = np.flatnonzero(seen[:, chosen[0]].any(axis=1))
    # A frame or two of another person are a tracker error, or a passer-by.
    chosen = [index for index in chosen if 2 * seen[frames, index].any(axis=1).sum() >= len(frames)]
    shown = seen[frames][:, chosen].swapaxes(0, 1)  # (P, T, V)
    tracks = [without_gaps(places[frames, index].astype(np.float64), seen[frames, index]) for index in chosen]
    main, ever = tracks[0], shown[0].any(axis=0)
    root = _root(main, ever, layout)  # (T, D)
    size = float(np.median(np.sqrt(((main[:, ever] - root[:, None]) ** 2).sum(axis=-1).mean(axis=1))))
    unit = size if size > 0 else 1.0
    joints = np.zeros((num_persons, len(frames), *places.shape[2:]), np.float32)
    there = np.zeros(joints.shape[:-1], bool)
    for slot, track in enumerate(tracks):
        joints[slot] = np.where(np.isnan(track), 0, (track - root[:, None]) / unit)
        there[slot] = shown[slot]
    return Body(joints, there, ((root - root[0]) / unit).astype(np.float32))


def mirrored_body(body: Body, layout: Layout) -> Body:
    """The mirror image: left and right joints are swapped, x changes its sign."""
    turned = np.array([-1.0] + [1.0] * (body.root.shape[1] - 1), np.float32)
    mirror = list(layout.mirror)
    return Body(body.joints[:, :, mirror] * turned, body.seen[:, :, mirror], body.root * turned)


def body_arrays(body: Body, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Network input for a body at fractional frame positions (S,): (P, S, V, 2 D + 1), and (P,) who is present.

    Joints, the fraction of a joint that was actually detected, and the displacement of the hips, the same for all
    joints of a frame.
    """
    joints = read_between(body.joints.swapaxes(0, 1), positions).swapaxes(0, 1)
    seen = read_between(body.seen.swapaxes(0, 1).astype(np.float32), positions).swapaxes(0, 1)[..., None]
    root = read_between(body.root, positions)[None, :, None]
    way = np.broadcast_to(root, joints.shape)
    there = np.asarray(body.seen.any(axis=(1, 2)))
    whole = np.concatenate([joints, seen, way], axis=-1)
    return np.ascontiguousarray(np.where(there[:, None, None, None], whole, 0), np.float32), there


def without_gaps(places: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """A person's joints (T, V, D), with those not seen (T, V) interpolated between the nearest frames that show them.

    Before the first and after the last of these a joint keeps its position there. A joint that is never seen is NaN.
    """
    if seen.all():
        return places
    filled = np.where(seen[..., None], places, np.nan)
    steps = np.arange(len(places))
    for joint in np.flatnonzero(~seen.all(axis=0) & seen.any(axis=0)):
        known = seen[:, joint]
        for axis in range(places.shape[2]):
            filled[:, joint, axis] = np.interp(steps, steps[known], places[known, joint, axis])
    return filled


def read_between(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """`values` (T, ...) at fractional positions (S,) of its first axis, linearly interpolated; ends are held."""
    places = np.clip(positions, 0, len(values) - 1)
    lower = places.astype(np.int64)
    upper = np.minimum(lower + 1, len(values) - 1)
    weight = (places - lower).reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
    return np.asarray(values[lower] * (1 - weight) + values[upper] * weight, np.float32)


def even_positions(length: float, count: int, start: float = 0.0) -> np.ndarray:
    """The centers (count,) of equal parts of `length` frames from `start` on, as positions for `read_between`."""
    return start + (np.arange(count) + 0.5) * length / count - 0.5


def _root(main: np.ndarray, ever: np.ndarray, layout: Layout) -> np.ndarray:
    for names in (("left hip", "right hip"), ("left shoulder", "right shoulder")):
        pair = [layout.joints.index(name) for name in names if name in layout.joints]
        if pair and ever[pair].all():
            return np.asarray(main[:, pair].mean(axis=1))
    return np.asarray(main[:, ever].mean(axis=1))


def _by_spread(places: np.ndarray, seen: np.ndarray) -> list[int]:
    def spread(index: int) -> float:
        shown = places[seen[:, index].any(axis=1), index]
        return float(np.nanstd(shown, axis=(0, 1)).sum()) if len(shown) else -1.0

    return sorted(range(places.shape[1]), key=lambda index: -spread(index))
