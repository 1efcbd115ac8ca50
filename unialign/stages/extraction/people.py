"""Which persons of a clip are stored: those who perform the action, best first, one per slot.

Legend: T frames, M slots, V joints, C coordinates (x, y, score).

A person's weight is presence x (FLOOR + motion) x centrality. Presence is the square root of the sum of the detection
scores: moving half as much costs more than being visible half as long, since fighters are missed more often than
spectators. Motion is the spread over time of the joints that move most, in body sizes, without the motion that all
people of a frame share (the camera). Centrality halves the weight in a corner of the frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unialign.stages.extraction.tracker import (
    SIGMAS,
    SMALLEST_JOINT_SCORE,
    Detections,
    Key,
    Track,
    joined,
    tracklets_of,
    unbroken,
    without_duplicates,
    without_lasting_duplicates,
)

# The motion of a person who stands still, due to detector jitter, and the maximum that counts (a whole body length).
FLOOR, LARGEST_MOTION = 0.03, 0.3
# With fewer people, camera motion cannot be separated from theirs.
FEWEST_FOR_CAMERA = 3
# An isolated detection is a false positive if its frame also shows a person who is present for this many frames.
SHORTEST_COMPANY = 5


@dataclass(frozen=True)
class Persons:
    """The tracks kept from a clip.

    keypoints: (T, M, V, C) float32, best person first; NaN where a person was not detected.
    counts: for the record; "tracks": all persons tracked, "gaps": interruptions within kept tracks, "forced_joins":
        parts of kept tracks that were joined because there could be no other person, "switch_risks": neighboring frames
        in which two kept persons could almost as well have been swapped, "left_out_persons" and "left_out_detections":
        tracks beyond the M slots, "single_detections": detections taken for false positives (see `track_persons`),
        "frames_without_kept": frames with a detected person but no stored one.
    """

    keypoints: np.ndarray
    counts: dict[str, int]


def camera_path(tracks: Sequence[Track]) -> np.ndarray:
    """The common displacement (x, y) of all people up to each frame: camera motion, if enough people are visible to
    tell.
    """
    last = max((track.frames[-1] for track in tracks), default=-1)
    moves: dict[int, list[np.ndarray]] = {}
    for track in tracks:
        for place, frame in enumerate(track.frames[1:], start=1):
            if frame == track.frames[place - 1] + 1:
                moves.setdefault(frame, []).append(np.subtract(track.centers[place], track.centers[place - 1]))
    steps = np.zeros((last + 1, 2))
    for frame, found in moves.items():
        if len(found) >= FEWEST_FOR_CAMERA:
            steps[frame] = np.median(found, axis=0)
    return np.cumsum(steps, axis=0)


def motion(track: Track, camera: np.ndarray) -> float:
    """How much a person moves, 0 to `LARGEST_MOTION`: spread of the quarter of joints that move most, in box diagonals.

    camera: (frames, 2) pixels, see `camera_path`.
    """
    poses = np.stack(track.keypoints).astype(np.float64)
    poses[..., :2] -= camera[track.frames][:, None]
    seen = poses[..., 2:3] >= SMALLEST_JOINT_SCORE
    counts = np.maximum(seen.sum(axis=0), 1)
    means = np.where(seen, poses[..., :2], 0).sum(axis=0) / counts
    spread = np.sqrt(np.where(seen, np.square(poses[..., :2] - means), 0).sum(axis=(0, 2)) / counts[:, 0])
    boxes = np.stack(track.boxes).astype(np.float64)
    diagonal = max(float(np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T).mean()), 1.0)
    most = np.sort(spread)[-max(1, len(spread) // 4) :]
    return min(LARGEST_MOTION, float(most.mean()) / diagonal)


def centrality(track: Track, frame_size: tuple[int, int] | None) -> float:
    """1 in the middle of the frame, 0.5 in a corner, for the mean position of a track; 1 without a (height, width)."""
    if frame_size is None:
        return 1.0
    boxes = np.stack(track.boxes).astype(np.float64)
    middle = (boxes[:, :2] + boxes[:, 2:]).mean(axis=0) / 2
    half = np.array([frame_size[1], frame_size[0]]) / 2
    return 1 - 0.5 * min(1.0, float(np.hypot(*((middle - half) / half)) / np.sqrt(2)))


def weight(track: Track, frame_size: tuple[int, int] | None, camera: np.ndarray) -> float:
    """The weight by which the people of a clip are ordered, at least 0; see the module.

    frame_size: height and width in pixels. camera: (frames, 2) pixels, see `camera_path`.
    """
    return float(np.sqrt(sum(track.scores))) * (FLOOR + motion(track, camera)) * centrality(track, frame_size)


def by_weight(tracks: Sequence[Track], frame_size: tuple[int, int] | None) -> list[Track]:
    """Tracks by descending weight; ties keep their given order."""
    camera = camera_path(tracks)
    return sorted(tracks, key=lambda track: -weight(track, frame_size, camera))


def fullest(tracks: Sequence[Track]) -> int:
    """The maximum number of people in one frame."""
    frames = [frame for track in tracks for frame in track.frames]
    return int(np.bincount(frames).max()) if frames else 0


@dataclass(frozen=True)
class Followed:
    """All people of a clip: their tracks in order of appearance, and what became of the other detections.

    num_single: detections taken for false positives. risks: see `tracker.tracklets_of`.
    """

    tracks: list[Track]
    num_single: int
    risks: list[tuple[Key, Key]]


def follow(frames: Sequence[Detections], num_people: int = 2, longest_gap: int = 30) -> Followed:
    """All people of a clip.

    A detection that nothing before or after continues is taken for a false positive if its frame shows a person who is
    present for at least `SHORTEST_COMPANY` frames. None of the others is lost as long as no frame shows more people
    than `num_people`: there are then as many tracks as the fullest frame has people.
    longest_gap: frames for which a person may be hidden or missed and still count as the same, if there are more people
        than that.
    """
    tracklets, risks = tracklets_of(without_duplicates([one.ordered() for one in frames]), longest_gap)
    tracklets = without_lasting_duplicates(tracklets)
    tracks = joined(tracklets, longest_gap)
    company = {frame for track in tracks if len(track.frames) >= SHORTEST_COMPANY for frame in track.frames}
    single = {track.key(0) for track in tracks if len(track.frames) == 1 and track.frames[0] in company}
    tracklets = [tracklet for tracklet in tracklets if tracklet.key(0) not in single]
    most = fullest(tracklets)
    tracks = joined(tracklets, longest_gap, most if most <= num_people else 0)
    if len(tracks) > most and most <= num_people:
        # A person fits only into a gap.
        tracks = joined(unbroken(tracklets), longest_gap, most)
    return Followed(tracks, len(single), risks)


def track_persons(
    frames: Sequence[Detections],
    num_people: int = 2,
    longest_gap: int = 30,
    frame_size: tuple[int, int] | None = None,
) -> Persons:
    """The `num_people` people of a clip with the largest weight; ties go to the one who appears first.

    frames: one `Detections` per frame, T of them; some or all may be empty. frame_size: (height, width); without it,
        the position in the frame does not count. longest_gap: see `follow`.
    """
    followed = follow(frames, num_people, longest_gap)
    order = by_weight(followed.tracks, frame_size)
    kept, left_out = order[:num_people], order[num_people:]
    num_joints, num_coordinates = frames[0].keypoints.shape[1:] if frames else (len(SIGMAS), 3)
    keypoints = np.full((len(frames), num_people, num_joints, num_coordinates), np.nan, dtype=np.float32)
    slots: dict[Key, int] = {}
    for slot, track in enumerate(kept):
        keypoints[track.frames, slot] = np.stack(track.keypoints)
        slots |= dict.fromkeys(track.keys(), slot)
    shown = {frame for track in kept for frame in track.frames}
    counts = {
        "tracks": len(order),
        "gaps": sum(track.num_gaps for track in kept),
        "forced_joins": sum(track.forced for track in kept),
        "switch_risks": sum(a in slots and b in slots and slots[a] != slots[b] for a, b in followed.risks),
        "left_out_persons": len(left_out),
        "left_out_detections": sum(len(track.frames) for track in left_out),
        "single_detections": followed.num_single,
        "frames_without_kept": sum(len(one.scores) > 0 and frame not in shown for frame, one in enumerate(frames)),
    }
    return Persons(keypoints, counts)
