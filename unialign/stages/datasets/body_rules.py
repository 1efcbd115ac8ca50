"""Which bodies in a skeleton file become the persons of a sample.

Kinect loses people, finds them again under a new id, and mistakes furniture for bodies; published systems select the
people in three ways, and their features are not interchangeable.

Legend: T frames, M bodies of the file, P persons, V joints (25).
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from unialign.errors import UsageError
from unialign.stages.datasets.kinect_files import SkeletonClip

Floats = NDArray[np.float32]
Columns = NDArray[np.int64]

# Thresholds of CTR-GCN's denoising.
_NOISE_FRAMES = 11
_NOISE_SPREAD = 0.8
_NOISE_SHARE = 0.69754
# Bodies that st-gcn, 2s-AGCN and mmaction2 consider in each frame before they compare energies.
_ENERGY_SLOTS = 4


def choose_bodies(clip: SkeletonClip, num_people: int = 2, rule: str = "motion") -> Columns:
    """The column of the clip that is person p in frame t, (T, P); -1 if absent. Input of `of_bodies`.

    rule:
      "motion" (default): bodies by id; short and spread-out ones are dropped while others remain; the rest in order of
        falling motion, each given to the first person that is free in that time span. Source:
        data/ntu/get_raw_denoised_data.py of https://github.com/Uason-Chen/CTR-GCN. Deviations: a body that disappears
        for some frames keeps its frame numbers; if all bodies are noise, they are kept; frames without a body are kept.
      "energy": the first four bodies of each frame's list, whatever their ids; of these four, those with the largest
        sum of standard deviations of x, y and z. Source: 2s-AGCN and tools/data/skeleton/gen_ntu_rgbd_raw.py of
        https://github.com/open-mmlab/mmaction2. Deviation: equal energies keep the order of the list.
      "first": the first bodies of each frame's list, whatever their ids (st-gcn, AimCLR, SMIE).

    Raises `UsageError` for an unknown rule.
    """
    if rule not in BODY_RULES:
        raise UsageError(f"unknown body rule {rule!r}; known are {', '.join(BODY_RULES)}.")
    return BODY_RULES[rule](clip, num_people)


def of_bodies(values: Floats, columns: Columns) -> Floats:
    """The values of bodies (T, M, ...) for the persons of `choose_bodies`: (T, P, ...); NaN if a person is absent."""
    chosen = np.full((*columns.shape, *values.shape[2:]), np.nan, values.dtype)
    frames, persons = np.nonzero(columns >= 0)
    chosen[frames, persons] = values[frames, columns[frames, persons]]
    return chosen


def _by_motion(clip: SkeletonClip, num_people: int) -> Columns:
    present = (clip.slots >= 0) & np.isfinite(clip.keypoints[..., 0]).any(axis=2)
    frames = {body: np.flatnonzero(present[:, body]) for body in range(present.shape[1]) if present[:, body].any()}
    if len(frames) > 1:
        frames = {body: at for body, at in frames.items() if len(at) > _NOISE_FRAMES} or frames
    joints = {body: clip.keypoints[at, body] for body, at in frames.items()}
    motion = {body: _motion(points) for body, points in joints.items()}
    for body, points in joints.items():
        if len(motion) == 1:
            break
        calm = _upright(points)
        if (~calm).mean() >= _NOISE_SHARE:
            del motion[body]
        elif not calm.all():
            motion[body] = min(motion[body], _motion(points[calm]))
    people = np.full((clip.num_frames, num_people), -1, np.int64)
    spans: list[tuple[int, int] | None] = [None] * num_people
    for body in sorted(motion, key=lambda body: -motion[body]):
        start, end = int(frames[body][0]), int(frames[body][-1])
        for person, span in enumerate(spans):
            if span is None or min(end, span[1]) - max(start, span[0]) <= 0:
                people[frames[body], person] = body
                spans[person] = (start, end) if span is None else (min(start, span[0]), max(end, span[1]))
                break
    return people


def _motion(points: Floats) -> float:
    """Sum over x, y, z of the variance of all joints of all frames, of points (T, V, 3)."""
    return float(np.nanvar(points.reshape(-1, 3).astype(np.float64), axis=0).sum())


def _upright(points: Floats) -> NDArray[np.bool_]:
    """Frames in which the body is not much wider than high, of points (T, V, 3)."""
    extent = np.nanmax(points, axis=1) - np.nanmin(points, axis=1)
    return np.asarray(extent[:, 0] <= _NOISE_SPREAD * extent[:, 1])


def _by_energy(clip: SkeletonClip, num_people: int) -> Columns:
    people = _by_file_order(clip, max(_ENERGY_SLOTS, num_people))
    keypoints = of_bodies(clip.keypoints, people)
    energies = []
    for person in range(people.shape[1]):
        points = keypoints[:, person].reshape(-1, 3).astype(np.float64)
        points = points[np.isfinite(points[:, 0])]
        energies.append(float(points.std(axis=0).sum()) if len(points) else -1.0)
    order = sorted(range(len(energies)), key=lambda person: -energies[person])
    return people[:, order[:num_people]]


def _by_file_order(clip: SkeletonClip, num_people: int) -> Columns:
    people = np.full((clip.num_frames, num_people), -1, np.int64)
    frames, bodies = np.nonzero((clip.slots >= 0) & (clip.slots < num_people))
    people[frames, clip.slots[frames, bodies]] = bodies
    return people


BODY_RULES: Mapping[str, Callable[[SkeletonClip, int], Columns]] = {
    "motion": _by_motion,
    "energy": _by_energy,
    "first": _by_file_order,
}
