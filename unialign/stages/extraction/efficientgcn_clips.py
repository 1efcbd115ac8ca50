"""Clips as EfficientGCN reads them: joints, velocities and bones, each in two ways, in camera coordinates.

Legend: T frames of a sample, S frames of a clip, M persons in the cache, P person slots of the encoder, V joints.

Source: Song et al., arXiv 2106.15125, section 3.1, and a copy of the authors' code (1suancaiyu/EfficientGCNv1,
src/dataset/ntu_feeder.py and src/reader/ntu_reader.py), with the settings of all its configurations: nothing is moved
or turned, and clips have the first 288 of at most 300 frames. Deviation: a longer sample has other windows of as many
consecutive frames at the other temporal positions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from unialign.errors import CorruptInput, UsageError
from unialign.stages.extraction.pose_clips import PoseClip, Shape, View, energy, mirrored
from unialign.stages.skeleton_layouts import Layout

# The joint that positions are relative to, itself among (joint, the one that its bone begins at).
CENTERS: Mapping[str, int] = {"ntu-25": 1}
_NTU = (1, 1, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 1, 22, 7, 24, 11)
BONE_STARTS: Mapping[str, Sequence[int]] = {"ntu-25": _NTU}

LENGTH_OFFSET = 0.0001  # meters, added to a bone's length before it divides


def efficientgcn_3d(
    keypoints: np.ndarray, layout: Layout, view: View, shape: Shape, frame_size: tuple[float, float] | None = None
) -> PoseClip:
    """A clip (P, S, V, 18) of meters and radians from camera coordinates (T, M, V, 3); absent joints are at zero.

    Six values each of joints (place; place around the person's own middle of the spine), of velocities (way to the next
    frame; to the one after it; zero in the last two frames), and of bones (from the joint that it begins at; angles to
    x, y and z). The persons with the most motion come first; a short sample is followed by joints at zero. Angles of
    bones without length, such as those of absent persons, are pi / 2.
    Raises `CorruptInput` (no-person) if no frame shows anybody, `UsageError` for a layout without bones here.
    """
    if layout.name not in BONE_STARTS:
        raise UsageError(f"EfficientGCN has no bones for the layout {layout.name}; known: {', '.join(BONE_STARTS)}.")
    energies = [energy(keypoints[:, person]) for person in range(keypoints.shape[1])]
    order = sorted(range(len(energies)), key=lambda index: -energies[index])[: shape.num_persons]
    start = view.offset * max(0, len(keypoints) - shape.num_frames) // view.num_offsets
    persons = keypoints[start : start + shape.num_frames, order].swapaxes(0, 1)  # (P, T', V, 3)
    if view.flip:
        persons = mirrored(persons, layout)
    seen = np.isfinite(persons).all(axis=-1)
    if not seen.any():
        raise CorruptInput("no frame shows a person.", status="no-person")
    joints = np.zeros((shape.num_persons, shape.num_frames, *persons.shape[2:]), np.float32)
    joints[: persons.shape[0], : persons.shape[1]] = np.where(seen[..., None], persons, 0)
    center = CENTERS[layout.name]
    ways = np.zeros((2, *joints.shape), np.float32)
    for index, way in enumerate(ways):
        ahead = index + 1
        way[:, :-2] = joints[:, ahead : joints.shape[1] - 2 + ahead] - joints[:, :-2]
    bones = joints - joints[:, :, list(BONE_STARTS[layout.name])]
    # In float64: the angle of a bone along an axis changes fast with its cosine.
    lengths = np.linalg.norm(bones.astype(np.float64), axis=-1, keepdims=True) + LENGTH_OFFSET
    parts = (joints, joints - joints[:, :, center : center + 1], *ways, bones, np.arccos(bones / lengths))
    present = np.zeros(shape.num_persons, bool)
    present[: len(persons)] = seen.any(axis=(1, 2))
    return PoseClip(np.concatenate(parts, axis=-1).astype(np.float32), present)
