"""Person tracks from per-frame detections, the same whatever the order of detections or the batches they came from.

Legend: T frames, M persons kept, n detections of one frame, V joints, C coordinates (x, y, score).

Each frame's detections are matched to the tracks known so far: a track's last pose is moved on by its velocity and
compared with each detection by box overlap (IoU) and keypoint similarity (OKS), and the best assignment is taken.
Source: the structure (constant-velocity prediction, assignment, tracks that survive gaps) is SORT's, Bewley et al.,
"Simple online and realtime tracking", ICIP 2016; OKS and its constants per joint are COCO's keypoint evaluation.
Deviations: pose similarity beside IoU, a smoothed velocity instead of a Kalman filter, no appearance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

# Spread of each COCO-17 joint in units of body size, as published with the COCO keypoint evaluation.
SIGMAS = np.array(
    [
        0.026,
        0.025,
        0.025,
        0.035,
        0.035,
        0.079,
        0.079,
        0.072,
        0.072,
        0.062,
        0.062,
        0.107,
        0.107,
        0.087,
        0.087,
        0.089,
        0.089,
    ]
)
# A link needs this much similarity (0 to 1).
SMALLEST_LINK = 0.2
# Two detections of one frame that are more alike than this, by the same measure, are one person found twice. On seven
# real clips doubles lay above 0.44 and pairs of persons below 0.41, where neither IoU nor OKS alone told them apart.
LARGEST_DOUBLE = 0.42
# A joint below this score says nothing about identity.
SMALLEST_JOINT_SCORE = 0.3
# Where giving a detection to another track would lose less similarity than this, the identity is in doubt.
SWITCH_MARGIN = 0.3
# Share of the newest displacement in the smoothed velocity, and the frames for which it is believed in a gap.
VELOCITY_SHARE = 0.4
LONGEST_PREDICTION = 8


@dataclass(frozen=True)
class Detections:
    """Persons found in one frame: boxes (n, 4) as x1, y1, x2, y2; keypoints (n, V, C); scores (n,) from 0 to 1."""

    boxes: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray

    def ordered(self) -> "Detections":
        """The same persons in an order that depends on their values alone."""
        if not len(self.scores):
            return self
        values = np.concatenate(
            [-self.scores[:, None], self.boxes, self.keypoints.reshape(len(self.scores), -1)], axis=1
        ).astype(np.float64)
        order = np.lexsort(values.T[::-1])
        return Detections(self.boxes[order], self.keypoints[order], self.scores[order])

    def without_doubles(self) -> "Detections":
        """Only the best of detections that show the same pose in the same place, which box overlap alone lets pass."""
        # The first index is the better one, whose box sets the scale.
        same = alike(self.boxes, self.keypoints.astype(np.float64), self) > LARGEST_DOUBLE
        kept: list[int] = []
        for index in range(len(self.scores)):
            if not same[kept, index].any():
                kept.append(index)
        return Detections(self.boxes[kept], self.keypoints[kept], self.scores[kept])


@dataclass
class Track:
    """One person over time: the frames it was seen in and its detection in each."""

    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def add(self, frame: int, box: np.ndarray, keypoints: np.ndarray, score: float) -> None:
        """Append the detection of a frame and learn from the distance covered."""
        if self.frames:
            step = (centre(box) - centre(self.boxes[-1])) / (frame - self.frames[-1])
            self.velocity = step if len(self.frames) == 1 else self.velocity + VELOCITY_SHARE * (step - self.velocity)
        self.frames.append(frame)
        self.boxes.append(box)
        self.keypoints.append(keypoints)
        self.scores.append(score)

    def shift(self, frame: int) -> np.ndarray:
        """How far (x, y) the person should have moved by `frame`."""
        return self.velocity * min(frame - self.frames[-1], LONGEST_PREDICTION)

    @property
    def num_gaps(self) -> int:
        """How often the person was lost and found again."""
        return sum(later > earlier + 1 for earlier, later in zip(self.frames, self.frames[1:], strict=False))


@dataclass(frozen=True)
class Persons:
    """The tracks kept from a clip.

    keypoints: (T, M, V, C) float32, best person first; NaN where a person was not found.
    counts: for the record; "tracks": persons ever followed, "gaps": losses within kept tracks, "fragments": tracks that
        began after the first frame in which anyone was seen (a person who entered, or one who was lost for good),
        "switch_risks": detections of kept persons that suited another kept person nearly as well.
    """

    keypoints: np.ndarray
    counts: dict[str, int]


def centre(box: np.ndarray) -> np.ndarray:
    """Middle (x, y) of a box."""
    return np.asarray((box[:2] + box[2:]) / 2, dtype=np.float64)


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of each box of (a, 4) with each of (b, 4): (a, b), from 0 to 1."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=-1) for boxes in (first, second)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9))


def pose_similarities(first: np.ndarray, second: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """OKS of each pose of (a, V, C) with each of (b, V, C): (a, b), from 0 to 1; NaN without a joint seen in both.

    areas: (a,) box areas in square pixels, the scale. The joints' constants are COCO's for V = 17, else their mean.
    """
    sigmas = SIGMAS if first.shape[1] == len(SIGMAS) else np.full(first.shape[1], SIGMAS.mean())
    squares = np.square(first[:, None, :, :2] - second[None, :, :, :2]).sum(axis=-1)
    scale = 2 * np.square(2 * sigmas) * np.maximum(areas, 1.0)[:, None, None]
    seen = (first[:, None, :, 2] >= SMALLEST_JOINT_SCORE) & (second[None, :, :, 2] >= SMALLEST_JOINT_SCORE)
    total = np.where(seen, np.exp(-squares / scale), 0).sum(axis=-1)
    num_seen = seen.sum(axis=-1)
    return np.where(num_seen > 0, total / np.maximum(num_seen, 1), np.nan)


def alike(boxes: np.ndarray, keypoints: np.ndarray, found: Detections) -> np.ndarray:
    """Mean of IoU and OKS of each of (a, 4) boxes and (a, V, C) keypoints with each detection: (a, n), 0 to 1.

    IoU alone where no joint is seen in both.
    """
    iou = overlaps(boxes, found.boxes)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=-1)
    oks = pose_similarities(keypoints, found.keypoints, areas)
    return np.where(np.isnan(oks), iou, (iou + np.nan_to_num(oks)) / 2)


def similarities(tracks: Sequence[Track], frame: int, found: Detections) -> np.ndarray:
    """How well each detection continues each track, moved on to `frame`: (tracks, n), from 0 to 1."""
    shifts = np.stack([track.shift(frame) for track in tracks])
    boxes = np.stack([track.boxes[-1] for track in tracks]) + np.tile(shifts, 2)
    poses = np.stack([track.keypoints[-1] for track in tracks]).astype(np.float64)
    poses[:, :, :2] += shifts[:, None]
    return alike(boxes, poses, found)


def switch_risks(table: np.ndarray, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of rows (tracks) of which the second could have had the first's column at a loss below `SWITCH_MARGIN`.

    The second's own column then goes to the first, if it has one that the first may take.
    """
    own = dict(pairs)
    linked = np.where(table >= SMALLEST_LINK, table, 0)
    found = []
    for row, column in pairs:
        for other in range(len(table)):
            if other == row or not linked[other, column]:
                continue
            kept = linked[other, own[other]] if other in own else 0.0
            exchanged = linked[row, own[other]] if other in own else 0.0
            if linked[row, column] + kept - linked[other, column] - exchanged < SWITCH_MARGIN:
                found.append((row, other))
    return found


def link(frames: Sequence[Detections], longest_gap: int) -> tuple[list[Track], list[tuple[int, int]]]:
    """All tracks of a clip in order of appearance, and the pairs of track numbers per frame that risked a switch.

    A track that is not seen for more than `longest_gap` frames is closed.
    """
    tracks: list[Track] = []
    risks: list[tuple[int, int]] = []
    for frame, unordered in enumerate(frames):
        if not len(unordered.scores):
            continue
        found = unordered.ordered().without_doubles()
        active = [number for number, track in enumerate(tracks) if frame - track.frames[-1] <= longest_gap + 1]
        pairs: list[tuple[int, int]] = []
        if active:
            table = similarities([tracks[number] for number in active], frame, found)
            # An impossible link costs no more than none, so it never pushes a possible one aside.
            rows, columns = linear_sum_assignment(np.where(table >= SMALLEST_LINK, table, 0), maximize=True)
            pairs = [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if table[r, c] >= SMALLEST_LINK]
            risks.extend((active[a], active[b]) for a, b in switch_risks(table, pairs))
        owners = {column: tracks[active[row]] for row, column in pairs}
        for column in range(len(found.scores)):
            if column not in owners:
                owners[column] = Track()
                tracks.append(owners[column])
            owners[column].add(frame, found.boxes[column], found.keypoints[column], float(found.scores[column]))
    return tracks, risks


def motion(track: Track) -> float:
    """How much a person moves: mean spread of the joints seen, in units of box diagonals, at most 1."""
    poses = np.stack(track.keypoints).astype(np.float64)
    seen = poses[..., 2:3] >= SMALLEST_JOINT_SCORE
    counts = np.maximum(seen.sum(axis=0), 1)
    means = np.where(seen, poses[..., :2], 0).sum(axis=0) / counts
    spread = np.sqrt(np.where(seen, np.square(poses[..., :2] - means), 0).sum(axis=(0, 2)) / counts[:, 0])
    boxes = np.stack(track.boxes).astype(np.float64)
    diagonal = max(float(np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T).mean()), 1.0)
    seen_ever = seen.any(axis=(0, 2))
    return min(1.0, float(spread[seen_ever].mean()) / diagonal) if seen_ever.any() else 0.0


def track_persons(frames: Sequence[Detections], num_people: int = 2, longest_gap: int = 30) -> Persons:
    """The `num_people` persons of a clip with the largest summed score x (1 + motion), ties to the earlier track.

    frames: one `Detections` per frame, T of them, with no person in some or all.
    longest_gap: frames that a person may stay unseen (hidden, missed) and still be taken for the same.
    """
    tracks, risks = link(frames, longest_gap)
    weights = [sum(track.scores) * (1 + motion(track)) for track in tracks]
    kept = sorted(range(len(tracks)), key=lambda number: (-weights[number], number))[:num_people]
    num_joints, num_coordinates = frames[0].keypoints.shape[1:] if frames else (len(SIGMAS), 3)
    keypoints = np.full((len(frames), num_people, num_joints, num_coordinates), np.nan, dtype=np.float32)
    for person, number in enumerate(kept):
        keypoints[tracks[number].frames, person] = np.stack(tracks[number].keypoints)
    first = min((track.frames[0] for track in tracks), default=0)
    counts = {
        "tracks": len(tracks),
        "gaps": sum(tracks[number].num_gaps for number in kept),
        "fragments": sum(track.frames[0] > first for track in tracks),
        "switch_risks": sum(a in kept and b in kept for a, b in risks),
    }
    return Persons(keypoints, counts)
