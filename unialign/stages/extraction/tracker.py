"""Person tracks from per-frame detections, independent of the order of detections and of their batches.

Legend: T frames, M persons kept, n detections of one frame, V joints, C coordinates (x, y, score).

Three steps, each over the whole clip:

1. Tracklets: detections in neighboring frames are matched by box overlap (IoU) and keypoint similarity (OKS), with the
last pose extrapolated by its velocity, using the best assignment. Across a short gap (`LONGEST_PREDICTION`) a higher
similarity is required.
2. Duplicates: of two tracklets that show the same pose in the same place for as long as both are present, one is kept.
3. Joins: tracklets are joined into tracks by the cheapest assignment of successors. The cost of a join is the
difference of the two ends in position and size, each extrapolated towards the other by its velocity. The permitted
difference grows with the gap, but much more slowly than people move: what is joined across a gap is near its expected
position, and nothing is joined after `longest_gap`.

If no frame shows more people than there are slots, nobody can be left out, so tracklets are joined into as few tracks
as the fullest frame has people, by the same costs: a single person is one track, however far they jump.

Source: the structure (constant-velocity prediction, assignment) is that of SORT, Bewley et al., "Simple online and
realtime tracking", ICIP 2016; joining tracklets by one assignment over the clip is that of Huang et al., "Robust
object tracking by hierarchical association of detection responses", ECCV 2008; OKS and its constants per joint are
from COCO's keypoint evaluation. Deviations: pose similarity besides IoU, a smoothed velocity instead of a Kalman
filter, no appearance features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

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
# Minimum similarity (0 to 1) of detections in neighboring frames to be one person, and the increase per frame in
# between.
SMALLEST_LINK = 0.2
LINK_PER_FRAME = 0.02
# Two detections in one frame with a higher similarity than this are duplicates of one person. In seven real clips
# duplicates were above 0.44 and pairs of persons below 0.41; neither IoU nor OKS alone separated them.
MAX_DUPLICATE_SIMILARITY = 0.42
# The same for two tracklets: the mean over at least this many frames that both are in.
MAX_LASTING_SIMILARITY = 0.35
MIN_LASTING_FRAMES = 2
# Joints below this score are ignored for identity.
SMALLEST_JOINT_SCORE = 0.3
# If assigning a detection to another track would lose less similarity than this, the identity is uncertain.
SWITCH_MARGIN = 0.3
# How far the overlap of two boxes has to be above twice a limit for rounding not to matter.
SURE_MARGIN = 0.01
# Weight of the newest displacement in the smoothed velocity, and the maximum number of frames to extrapolate it.
VELOCITY_SHARE = 0.4
LONGEST_PREDICTION = 8
# Maximum difference (see `differences`) of two joined ends: in the next frame, and the increase per frame in between.
LARGEST_DIFFERENCE = 0.35
DIFFERENCE_PER_FRAME = 0.05
# Extra cost of a join that is forced by the number of people, and the maximum cost of any join.
FORCED, LARGEST_COST = 10.0, 50.0


@dataclass(frozen=True)
class Detections:
    """Persons found in one frame: boxes (n, 4) as x1, y1, x2, y2; keypoints (n, V, C); scores (n,) from 0 to 1."""

    boxes: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray

    def part(self, start: int, end: int) -> "Detections":
        """The persons from one number to another."""
        return Detections(self.boxes[start:end], self.keypoints[start:end], self.scores[start:end])

    def ordered(self) -> "Detections":
        """The same persons in an order that depends only on their values."""
        if len(self.scores) < 2:
            return self
        values = np.concatenate(
            [-self.scores[:, None], self.boxes, self.keypoints.reshape(len(self.scores), -1)], axis=1
        ).astype(np.float64)
        order = np.lexsort(values.T[::-1])
        return Detections(self.boxes[order], self.keypoints[order], self.scores[order])


# A detection: its frame, and its box as bytes.
Key = tuple[int, bytes]
# x and y. Tracks compute with Python's numbers: they round as NumPy's do, and for two of them take a tenth of the time.
Point = tuple[float, float]


@dataclass
class Track:
    """One person over time: the frames it was detected in and its detection in each. forced: number of forced joins."""

    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    centers: list[Point] = field(default_factory=list)
    velocity: Point = (0.0, 0.0)
    forced: int = 0

    @property
    def detections(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, float, Point]]:
        """Frame, box, keypoints, score and center of each."""
        return zip(self.frames, self.boxes, self.keypoints, self.scores, self.centers, strict=True)

    def add(
        self, frame: int, box: np.ndarray, keypoints: np.ndarray, score: float, middle: Point | None = None
    ) -> None:
        """Append the detection of a frame and update the velocity. middle: the center of the box, if it is known."""
        x, y = middle or centers(box[None])[0]
        if self.frames:
            number, (from_x, from_y) = frame - self.frames[-1], self.centers[-1]
            step = (x - from_x) / number, (y - from_y) / number
            if len(self.frames) > 1:
                old, share = self.velocity, VELOCITY_SHARE
                step = old[0] + share * (step[0] - old[0]), old[1] + share * (step[1] - old[1])
            self.velocity = step
        self.frames.append(frame)
        self.boxes.append(box)
        self.keypoints.append(keypoints)
        self.scores.append(score)
        self.centers.append((x, y))

    def shift(self, frame: int) -> Point:
        """The expected displacement (x, y) of the person by `frame`."""
        number = min(frame - self.frames[-1], LONGEST_PREDICTION)
        return self.velocity[0] * number, self.velocity[1] * number

    def key(self, place: int) -> Key:
        """Its detection at a place, counted from its first one."""
        return self.frames[place], self.boxes[place].tobytes()

    def keys(self) -> list[Key]:
        """Its detections."""
        return [(frame, box.tobytes()) for frame, box in zip(self.frames, self.boxes, strict=True)]

    def only(self, frames: Sequence[int]) -> "Track":
        """The part of the track in these frames."""
        part = Track()
        for detection in self.detections:
            if detection[0] in frames:
                part.add(*detection)
        return part

    def reversed(self) -> "Track":
        """The track in reverse, for the velocity at its start; frames count down as negative numbers."""
        back = Track()
        for frame, box, keypoints, score, middle in reversed(list(self.detections)):
            back.add(-frame, box, keypoints, score, middle)
        return back

    @property
    def num_gaps(self) -> int:
        """How often the person was lost and found again."""
        return sum(later > earlier + 1 for earlier, later in zip(self.frames, self.frames[1:], strict=False))


def centers(boxes: np.ndarray) -> list[Point]:
    """Centers (x, y) of (n, 4) boxes."""
    return [(x, y) for x, y in ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()]


def box_overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of boxes (..., 4) with others at the same places: (...), from 0 to 1."""
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = box_areas(first) + box_areas(second)
    return np.asarray(shared / np.maximum(areas - shared, 1e-9))


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas (...) of boxes (..., 4)."""
    return np.asarray(np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=-1))


def pose_similarity(first: np.ndarray, second: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """OKS of poses (..., V, C) with others at the same places: (...), 0 to 1; NaN without a joint detected in both.

    areas: (...) box areas of the first in square pixels, the scale. The constants of the joints are COCO's for V = 17,
        else their mean.
    """
    sigmas = SIGMAS if first.shape[-2] == len(SIGMAS) else np.full(first.shape[-2], SIGMAS.mean())
    squares = np.square(first[..., :2] - second[..., :2]).sum(axis=-1)
    scale = 2 * np.square(2 * sigmas) * np.maximum(areas, 1.0)[..., None]
    seen = (first[..., 2] >= SMALLEST_JOINT_SCORE) & (second[..., 2] >= SMALLEST_JOINT_SCORE)
    total = np.where(seen, np.exp(-squares / scale), 0).sum(axis=-1)
    num_seen = seen.sum(axis=-1)
    return np.where(num_seen > 0, total / np.maximum(num_seen, 1), np.nan)


def similarity(
    boxes: np.ndarray, keypoints: np.ndarray, other_boxes: np.ndarray, other_keypoints: np.ndarray
) -> np.ndarray:
    """Mean of IoU and OKS of detections with others at the same places: (...), 0 to 1; only IoU if no joint is detected
    in both.

    boxes (..., 4), keypoints (..., V, C); the size of the first sets the scale.
    """
    iou = box_overlap(boxes, other_boxes)
    oks = pose_similarity(keypoints, other_keypoints, box_areas(boxes))
    return np.where(np.isnan(oks), iou, (iou + np.nan_to_num(oks)) / 2)


def without_duplicates(frames: Sequence[Detections]) -> list[Detections]:
    """Only the best of detections that show the same pose in the same place, which box overlap alone does not detect.

    frames: with the best detection first.
    """
    pairs = [
        (number, first, second)
        for number, found in enumerate(frames)
        for second in range(1, len(found.scores))
        for first in range(second)
    ]
    if not pairs:
        return list(frames)
    # Of all frames at once. The first is the better one, whose box sets the scale.
    boxes, poses = (
        [np.stack([getattr(frames[pair[0]], name)[pair[place]] for pair in pairs]) for place in (1, 2)]
        for name in ("boxes", "keypoints")
    )
    same = similarity(boxes[0], poses[0].astype(np.float64), boxes[1], poses[1]) > MAX_DUPLICATE_SIMILARITY
    doubles = {pair for pair, is_same in zip(pairs, same.tolist(), strict=True) if is_same}
    distinct = list(frames)
    for number in {pair[0] for pair in doubles}:
        kept: list[int] = []
        for index in range(len(frames[number].scores)):
            if not any((number, better, index) in doubles for better in kept):
                kept.append(index)
        found = frames[number]
        distinct[number] = Detections(found.boxes[kept], found.keypoints[kept], found.scores[kept])
    return distinct


def similarities(tracks: Sequence[Track], frame: int, found: Detections) -> np.ndarray:
    """How well each detection continues each track, extrapolated to `frame`: (tracks, n), from 0 to 1."""
    shifts = np.array([track.shift(frame) for track in tracks])
    boxes = np.stack([track.boxes[-1] for track in tracks]) + np.tile(shifts, 2)
    poses = np.stack([track.keypoints[-1] for track in tracks]).astype(np.float64)
    poses[:, :, :2] += shifts[:, None]
    return similarity(boxes[:, None], poses[:, None], found.boxes[None], found.keypoints[None])


def is_sure_link(track: Track, frame: int, box: np.ndarray, least: float) -> bool:
    """Whether a box alone shows that its detection continues a track with a similarity above `least`, by some margin.

    The similarity is at least half the overlap of the boxes. A single person usually passes, which saves the rest.
    """
    shift_x, shift_y = track.shift(frame)
    left, top, right, bottom = map(float, track.boxes[-1].tolist())
    other_left, other_top, other_right, other_bottom = map(float, box.tolist())
    left, top, right, bottom = left + shift_x, top + shift_y, right + shift_x, bottom + shift_y
    wide, high = min(right, other_right) - max(left, other_left), min(bottom, other_bottom) - max(top, other_top)
    if wide <= 0 or high <= 0:
        return False
    areas = (right - left) * (bottom - top) + (other_right - other_left) * (other_bottom - other_top)
    return wide * high > (2 * least + SURE_MARGIN) * (areas - wide * high)


def switch_risks(table: np.ndarray, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of rows (tracks) where the second could have had the first's column at a loss below `SWITCH_MARGIN`.

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


def least_link(gap: Any) -> Any:
    """The similarity that a detection needs to continue a track after so many frames without it; a number or array."""
    return SMALLEST_LINK + LINK_PER_FRAME * gap


def tracklets_of(frames: Sequence[Detections], longest_gap: int) -> tuple[list[Track], list[tuple[Key, Key]]]:
    """Tracks without long gaps in order of appearance, and pairs of detections whose persons could almost be swapped.

    frames: in an order that depends only on values and without duplicates, see `Detections`.
    """
    tracklets: list[Track] = []
    risks: list[tuple[Key, Key]] = []
    active: list[int] = []
    longest = min(longest_gap, LONGEST_PREDICTION)
    for frame, found in enumerate(frames):
        pairs: list[tuple[int, int]] = []
        active = [number for number in active if frame - tracklets[number].frames[-1] <= longest + 1]
        if len(active) == len(found.scores) == 1 and is_sure_link(
            tracklets[active[0]], frame, found.boxes[0], least_link(frame - tracklets[active[0]].frames[-1] - 1)
        ):
            pairs = [(0, 0)]
        elif active and len(found.scores):
            table = similarities([tracklets[number] for number in active], frame, found)
            gaps = np.array([frame - tracklets[number].frames[-1] - 1 for number in active])
            table = np.where(table >= least_link(gaps[:, None]), table, 0)
            # An impossible link costs no more than none, so it never displaces a possible one.
            rows, columns = linear_sum_assignment(table, maximize=True)
            pairs = [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if table[r, c] >= SMALLEST_LINK]
            taken = {row: found.boxes[column].tobytes() for row, column in pairs}
            for row, other in switch_risks(table, pairs):
                risks.append(((frame, taken[row]), tracklets[active[other]].key(-1)))
        owners = {column: active[row] for row, column in pairs}
        middles = centers(found.boxes)
        for column in range(len(found.scores)):
            if column not in owners:
                owners[column] = len(tracklets)
                tracklets.append(Track())
            tracklets[owners[column]].add(
                frame, found.boxes[column], found.keypoints[column], float(found.scores[column]), middles[column]
            )
        active = sorted({*active, *owners.values()})
    return tracklets, risks


def in_order(tracks: Sequence[Track]) -> list[Track]:
    """Tracks in order of appearance; within one frame, by position."""
    return sorted(tracks, key=lambda track: (track.frames[0], *(float(value) for value in track.boxes[0])))


def unbroken(tracks: Sequence[Track]) -> list[Track]:
    """Tracks cut at their gaps, in order of appearance."""
    parts: list[Track] = []
    for track in tracks:
        cuts = np.flatnonzero(np.diff(track.frames) > 1) + 1
        parts.extend(track.only(run.tolist()) for run in np.split(np.array(track.frames), cuts))
    return in_order(parts)


def mean_similarity(first: Track, second: Track) -> float:
    """Mean similarity (see `similarity`) of two tracks over the frames that both are in; 0 if those are too
    few.
    """
    common = sorted(set(first.frames) & set(second.frames))
    if len(common) < MIN_LASTING_FRAMES:
        return 0.0
    one, other = first.only(common), second.only(common)
    values = similarity(
        np.stack(one.boxes),
        np.stack(one.keypoints).astype(np.float64),
        np.stack(other.boxes),
        np.stack(other.keypoints),
    )
    return float(np.mean(values))


def without_lasting_duplicates(tracklets: Sequence[Track]) -> list[Track]:
    """Tracklets of which no two show one person at the same time: the weaker keeps only the frames that the stronger
    lacks.
    """
    order = sorted(range(len(tracklets)), key=lambda number: (-sum(tracklets[number].scores), number))
    kept: list[Track] = []
    present: dict[int, list[int]] = {}
    for number in order:
        track = tracklets[number]
        beside = sorted({place for frame in track.frames for place in present.get(frame, ())})
        double = next(
            (kept[place] for place in beside if mean_similarity(kept[place], track) > MAX_LASTING_SIMILARITY), None
        )
        parts = [track]
        if double is not None:
            rest = [frame for frame in track.frames if frame not in double.frames]
            parts = unbroken([track.only(rest)]) if rest else []
        for part in parts:
            for frame in part.frames:
                present.setdefault(frame, []).append(len(kept))
            kept.append(part)
    return in_order(kept)


@dataclass(frozen=True)
class Ends:
    """Frames (n,), centers (n, 2), velocities (n, 2) and box diagonals (n,) at the ends, or starts, of n tracklets."""

    frames: np.ndarray
    centers: np.ndarray
    velocities: np.ndarray
    sizes: np.ndarray


def ends_of(tracks: Sequence[Track]) -> Ends:
    """The ends of tracks."""
    boxes = np.stack([track.boxes[-1] for track in tracks]).astype(np.float64)
    return Ends(
        np.array([track.frames[-1] for track in tracks]),
        (boxes[:, :2] + boxes[:, 2:]) / 2,
        np.array([track.velocity for track in tracks]),
        np.maximum(np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T), 1.0),
    )


def differences(ends: Ends, number: int, starts: Ends, others: slice) -> np.ndarray:
    """The difference of one end and several starts, in body sizes.

    The distance of the centers, each extrapolated towards the other by its velocity, in mean box diagonals, plus half
    of the ratio of the diagonals (log 2). starts: frames and velocities count backwards.
    """
    between = (-starts.frames[others] - ends.frames[number]).clip(max=LONGEST_PREDICTION)[:, None]
    apart = starts.centers[others] - ends.centers[number]
    forward = apart - between * ends.velocities[number]
    backward = apart + between * starts.velocities[others]
    sizes = ends.sizes[number], starts.sizes[others]
    distance = (np.hypot(*forward.T) + np.hypot(*backward.T)) / (sizes[0] + sizes[1])
    return np.asarray(distance + 0.5 * np.abs(np.log2(sizes[0] / sizes[1])))


def successors(tracklets: Sequence[Track], longest_gap: int, num_forced: int) -> dict[int, tuple[int, bool]]:
    """Which tracklet continues which, and whether that was forced: the cheapest assignment.

    num_forced: a tracklet may be continued by any of this many that start after it, at a price above every other; with
        the number of people in the fullest frame, tracklets without gaps then form as few chains as possible (each
        start finds a chain that has ended: take the one that ended first). 0: only joins that the differences permit.
    """
    size = len(tracklets)
    ends, starts = ends_of(tracklets), ends_of([track.reversed() for track in tracklets])
    rows, columns, costs, forced = [], [], [], []
    for number in range(size):
        end = ends.frames[number]
        first, last = np.searchsorted(-starts.frames, [end, end + longest_gap + 1], side="right").tolist()
        others = slice(first, max(last, min(first + num_forced, size)))
        cost = differences(ends, number, starts, others)
        gaps = -starts.frames[others] - end - 1
        possible = (gaps <= longest_gap) & (cost <= LARGEST_DIFFERENCE + DIFFERENCE_PER_FRAME * gaps)
        cost = np.where(possible, cost, np.minimum(FORCED + cost + DIFFERENCE_PER_FRAME * gaps, LARGEST_COST))
        used = np.flatnonzero(possible | (np.arange(len(cost)) < num_forced))
        rows.append(np.append(np.full(len(used), number), number))
        # The last column stands for no successor.
        columns.append(np.append(used + first, size + number))
        costs.append(np.append(cost[used], LARGEST_COST * (size + 1 if num_forced else 1)))
        forced.append(np.append(~possible[used], False))
    places = np.concatenate(rows), np.concatenate(columns)
    # A cost of zero would count as no edge.
    table = csr_array((np.concatenate(costs) + 1, places), shape=(size, 2 * size))
    pairs = zip(*min_weight_full_bipartite_matching(table), strict=True)
    dear = {
        (a, b) for a, b, why in zip(*(each.tolist() for each in places), np.concatenate(forced), strict=True) if why
    }
    return {int(a): (int(b), (int(a), int(b)) in dear) for a, b in pairs if b < size}


def joined(tracklets: Sequence[Track], longest_gap: int, num_forced: int = 0) -> list[Track]:
    """Tracklets, in order of appearance, joined to tracks in the same order; see `successors`."""
    if len(tracklets) < 2:
        return list(tracklets)
    following = successors(tracklets, longest_gap, num_forced)
    continued = {second for second, _ in following.values()}
    tracks = []
    for number in range(len(tracklets)):
        if number in continued:
            continue
        track, place, num_forced_joins = Track(), number, 0
        while True:
            part = tracklets[place]
            for detection in part.detections:
                track.add(*detection)
            if place not in following:
                break
            place, forced = following[place]
            num_forced_joins += forced
        track.forced = num_forced_joins
        tracks.append(track)
    return tracks
