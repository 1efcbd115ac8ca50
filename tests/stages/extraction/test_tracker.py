"""Identities over time, on walking stick figures."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.extraction.people import follow, fullest, track_persons
from unialign.stages.extraction.tracker import (
    Detections,
    Track,
    box_overlap,
    is_sure_link,
    pose_similarity,
    similarities,
)

# A standing person in units of body height, feet at y = 1, in COCO's order of joints.
BODY = np.array(
    [(0, .08), (.02, .06), (-.02, .06), (.04, .07), (-.04, .07), (.1, .2), (-.1, .2), (.13, .35), (-.13, .35),
     (.14, .5), (-.14, .5), (.07, .52), (-.07, .52), (.07, .75), (-.07, .75), (.07, 1), (-.07, 1)]
)  # fmt: skip
Person = tuple[np.ndarray, np.ndarray, float]


def person(x: float, y: float = 50, height: float = 100, score: float = 0.9, stamp: float = 0.9) -> Person:
    """A detection at (x, y); all joints carry the score `stamp`, by which a test knows it again."""
    joints = np.concatenate([BODY * height + [x, y], np.full((17, 1), stamp)], axis=1)
    box = np.array([x - 0.16 * height, y, x + 0.16 * height, y + 1.02 * height])
    return box.astype(np.float32), joints.astype(np.float32), score


def frame(*persons: Person) -> Detections:
    if not persons:
        return Detections(np.zeros((0, 4), np.float32), np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32))
    boxes, keypoints, scores = zip(*persons, strict=True)
    return Detections(np.stack(boxes), np.stack(keypoints), np.array(scores, dtype=np.float32))


def shuffled(frames: Sequence[Detections], seed: int) -> list[Detections]:
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(one.scores)) for one in frames]
    return [Detections(one.boxes[o], one.keypoints[o], one.scores[o]) for one, o in zip(frames, orders, strict=True)]


def random_frames(seed: int, num_frames: int, num_persons: int) -> list[Detections]:
    """Persons of few heights and scores on random walks, each missed one time in five and found twice one in five."""
    rng = np.random.default_rng(seed)
    starts, steps = rng.uniform(0, 600, num_persons), rng.uniform(-12, 12, num_persons)
    heights, scores = rng.choice([70, 100], num_persons), rng.choice([0.5, 0.9], num_persons)
    frames = []
    for t in range(num_frames):
        persons = []
        for i, luck in enumerate(rng.random(num_persons)):
            x = starts[i] + t * steps[i] + rng.normal(0, 1)
            if luck > 0.2:
                persons.append(person(x, height=heights[i], score=scores[i]))
            if luck > 0.8:
                persons.append(person(x + 2, height=heights[i], score=scores[i] - 0.2))
        frames.append(frame(*persons))
    return frames


many_frames = st.builds(random_frames, st.integers(0, 10_000), st.integers(1, 15), st.integers(0, 5))


@given(frames=many_frames, seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_order_of_detections_changes_nothing(frames: list[Detections], seed: int) -> None:
    first, second = track_persons(frames), track_persons(shuffled(frames, seed))
    np.testing.assert_array_equal(first.keypoints, second.keypoints)
    assert first.counts == second.counts


@given(frames=many_frames)
@settings(max_examples=40, deadline=None)
def test_no_detection_belongs_to_two_tracks(frames: list[Detections]) -> None:
    tracks = follow(frames).tracks
    for index, one in enumerate(frames):
        taken = [track.boxes[track.frames.index(index)].tobytes() for track in tracks if index in track.frames]
        assert len(taken) == len(set(taken)) <= len(one.scores)
        assert set(taken) <= {box.tobytes() for box in one.boxes}
    assert all(track.frames == sorted(set(track.frames)) for track in tracks)


@given(frames=many_frames, num_people=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_persons_are_detections_or_absent(frames: list[Detections], num_people: int) -> None:
    persons = track_persons(frames, num_people)
    assert persons.keypoints.shape == (len(frames), num_people, 17, 3)
    for index, one in enumerate(frames):
        for pose in persons.keypoints[index]:
            assert np.isnan(pose).all() or any(np.array_equal(pose, known) for known in one.keypoints)


@pytest.mark.parametrize("hidden", [0, 3, 6])
@pytest.mark.parametrize("step", [4.0, 8.0])
def test_crossing_people_keep_their_identities(step: float, hidden: int) -> None:
    """The one behind is not found in the middle of the crossing."""
    frames = []
    for t in range(41):
        walkers = [person(300 - step * (t - 20), stamp=0.5), person(300 + step * (t - 20), y=55, stamp=0.8)]
        frames.append(frame(*walkers[: 1 if abs(t - 20) <= hidden // 2 and hidden else 2]))
    persons = track_persons(shuffled(frames, 3))
    for number in range(2):
        stamps = persons.keypoints[:, number, 0, 2]
        assert len(set(stamps[~np.isnan(stamps)].tolist())) == 1
    assert persons.counts["tracks"] == 2


def test_a_person_lost_for_a_while_is_the_same() -> None:
    frames = [frame(person(100 + 3 * t)) if not 10 <= t < 18 else frame() for t in range(40)]
    persons = track_persons(frames)
    assert {name: count for name, count in persons.counts.items() if count} == {"tracks": 1, "gaps": 1}
    assert np.isnan(persons.keypoints[10:18]).all()
    assert not np.isnan(persons.keypoints[[9, 18], 0]).any()


def test_a_gap_beyond_the_longest_ends_a_track_in_a_crowd() -> None:
    def crowd(t: int) -> list[Person]:
        return [person(300), person(500), person(700)]

    frames = [frame(*crowd(t), *([person(100)] if not 10 <= t < 14 else [])) for t in range(30)]
    assert track_persons(frames, longest_gap=4).counts["tracks"] == 4
    assert track_persons(frames, longest_gap=3).counts["tracks"] == 5
    # Alone, or where everybody has a slot, there is nobody else who could have come.
    assert track_persons(frames, num_people=4, longest_gap=3).counts["tracks"] == 4


@given(seed=st.integers(0, 10_000), num_frames=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_somebody_alone_is_one_track_and_keeps_every_frame(seed: int, num_frames: int) -> None:
    """Whatever they do: jumps, falls, other sizes, long gaps, a second detection of the same pose."""
    rng = np.random.default_rng(seed)
    frames, there = [], rng.random(num_frames) < rng.uniform(0.2, 1)
    for present in there:
        one = person(rng.uniform(0, 600), rng.uniform(0, 300), height=rng.choice([60, 120, 240]), stamp=0.5)
        if rng.random() < 0.3:
            one = lying(one)
        twice = (one[0] + 1, np.concatenate([one[1][:, :2] + 1, one[1][:, 2:]], axis=1), 0.4)
        frames.append(frame(*([one, twice] if rng.random() < 0.3 else [one])) if present else frame())
    persons = track_persons(frames)
    assert (~np.isnan(persons.keypoints[:, 0, 0, 0])).tolist() == there.tolist()
    assert np.isnan(persons.keypoints[:, 1]).all()
    assert persons.counts["tracks"] == int(there.any())


def lying(one: Person) -> Person:
    """The same person turned by a right angle about their middle."""
    box, joints, score = one
    middle = (box[:2] + box[2:]) / 2
    turned = joints.copy()
    turned[:, :2] = (joints[:, :2] - middle)[:, ::-1] * [1, -1] + middle
    half = (box[2:] - box[:2])[::-1] / 2
    return np.concatenate([middle - half, middle + half]).astype(np.float32), turned, score


@given(frames=many_frames, num_people=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_nobody_is_lost_where_there_are_slots_for_all(frames: list[Detections], num_people: int) -> None:
    followed = follow(frames, num_people)
    if fullest(followed.tracks) > num_people:
        return
    persons = track_persons(frames, num_people)
    assert persons.counts["tracks"] == fullest(followed.tracks)
    assert persons.counts["left_out_persons"] == persons.counts["frames_without_kept"] == 0
    stored = (~np.isnan(persons.keypoints[..., 0, 0])).sum(axis=1)
    for index, one in enumerate(frames):
        assert stored[index] == sum(index in track.frames for track in followed.tracks)
        assert stored[index] > 0 or not len(one.scores)


@given(frames=many_frames, num_people=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_counts_add_up(frames: list[Detections], num_people: int) -> None:
    persons = track_persons(frames, num_people)
    kept = int((~np.isnan(persons.keypoints[..., 0, 0])).sum())
    counts = persons.counts
    most = sum(len(one.scores) for one in frames)
    assert kept + counts["left_out_detections"] + counts["single_detections"] <= most
    assert counts["left_out_persons"] == max(0, counts["tracks"] - num_people)


def test_an_actor_comes_before_those_who_stand_by() -> None:
    """Two frozen spectators in all 24 frames, the actor in 14: mmaction2 issue 1994."""
    for first in (0, 5, 10):
        frames = []
        for t in range(24):
            people = [person(150, stamp=0.4), person(450, stamp=0.5)]
            if first <= t < first + 14:
                actor = person(300, stamp=0.6)
                actor[1][[7, 9], 1] -= 25 * (t % 2)
                people.append(actor)
            frames.append(frame(*people))
        stamps = track_persons(frames, frame_size=(360, 640)).keypoints[:, 0, 0, 2]
        assert np.flatnonzero(stamps == np.float32(0.6)).tolist() == list(range(first, first + 14))


def test_of_equals_the_one_in_the_middle_comes_first() -> None:
    frames = [frame(person(20, stamp=0.4), person(320, y=130, stamp=0.5)) for _ in range(6)]
    assert (track_persons(frames, frame_size=(360, 640)).keypoints[:, 0, 0, 2] == 0.5).all()
    assert (track_persons(frames).keypoints[:, 0, 0, 2] == np.float32(0.4)).all()


def test_a_fall_breaks_no_track_among_others() -> None:
    frames = []
    for t in range(20):
        faller = person(300, y=50, stamp=0.7)
        others = [person(x, stamp=0.5) for x in (0, 600, 900)]
        frames.append(frame(*others, lying(faller) if t >= 10 else faller))
    persons = track_persons(frames)
    assert persons.counts["tracks"] == 4
    assert (persons.keypoints[:, 0, 0, 2] == np.float32(0.7)).all()


def test_a_single_detection_beside_somebody_is_left_out_and_counted() -> None:
    frames = [frame(person(100), *([person(500, score=0.3)] if t == 4 else [])) for t in range(10)]
    persons = track_persons(frames)
    assert (persons.counts["tracks"], persons.counts["single_detections"]) == (1, 1)
    assert np.isnan(persons.keypoints[:, 1]).all()


def test_a_double_that_lasts_is_one_person() -> None:
    """Of another size, so that no single frame tells: the same pose in the same place for as long as it is there."""
    frames = [frame(person(100), person(104, y=54, height=92, score=0.5), person(300), person(500)) for _ in range(8)]
    assert track_persons(frames).counts["tracks"] == 3


def test_the_best_persons_are_kept() -> None:
    def scene(t: int) -> Detections:
        waver = person(500, score=0.8, stamp=0.6)
        waver[1][9, :2] += [0, -60 * (t % 2)]
        return frame(person(100, score=0.5, stamp=0.4), person(300, score=0.8, stamp=0.5), waver)

    persons = track_persons([scene(t) for t in range(10)], num_people=2)
    # Equal scores: who moves comes first. The low score is left out.
    assert persons.keypoints[:, :, 0, 2].tolist() == np.tile(np.array([0.6, 0.5], dtype=np.float32), (10, 1)).tolist()


def test_a_person_found_twice_is_one() -> None:
    doubled = [
        frame(person(100, score=0.9), person(103, height=98, score=0.4), person(160, score=0.8)) for _ in range(5)
    ]
    persons = track_persons(doubled)
    assert persons.counts["tracks"] == 2
    np.testing.assert_array_equal(persons.keypoints[:, 0], np.stack([one.keypoints[0] for one in doubled]))


def test_identities_in_doubt_are_counted() -> None:
    def walk(t: int, *, crossing: bool) -> Detections:
        walkers = [person(300 - 4 * (t - 20)), person(300 + 4 * (t - 20), y=50 if crossing else 250)]
        return frame(*walkers[: 1 if abs(t - 20) <= 3 else 2])

    assert track_persons([walk(t, crossing=False) for t in range(41)]).counts["switch_risks"] == 0
    assert 1 <= track_persons([walk(t, crossing=True) for t in range(41)]).counts["switch_risks"] <= 7


def test_clips_without_anyone() -> None:
    assert track_persons([]).keypoints.shape == (0, 2, 17, 3)
    persons = track_persons([frame(), frame()])
    assert np.isnan(persons.keypoints).all()
    assert not any(persons.counts.values())


def test_unseen_joints_leave_the_box_to_decide() -> None:
    frames = [frame(person(100 + t, stamp=0.1)) for t in range(5)]
    assert track_persons(frames).counts["tracks"] == 1


def test_overlap_and_pose_similarity_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], dtype=float)
    np.testing.assert_allclose(box_overlap(boxes[:1], boxes), [1, 1 / 3, 0])
    pose = person(0)[1][None].astype(float)
    moved = pose.copy()
    moved[0, :, 0] += 10
    # COCO: exp(-d^2 / (2 s^2 k^2)) with k = 2 sigma and s^2 the area.
    sigmas = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    wanted = np.exp(-100 / (2 * 3264 * (2 * sigmas) ** 2)).mean()
    np.testing.assert_allclose(pose_similarity(pose, np.concatenate([pose, moved]), np.array([3264.0])), [1, wanted])
    unseen = np.concatenate([pose[..., :2], np.zeros((1, 17, 1))], axis=-1)
    assert np.isnan(pose_similarity(pose, unseen, np.array([3264.0]))).all()


@given(
    step=st.tuples(st.floats(-150, 150), st.floats(-150, 150)),
    size=st.floats(1, 300),
    least=st.floats(0.2, 0.4),
    seed=st.integers(0, 20),
)
@settings(max_examples=150, deadline=None)
def test_a_link_that_the_boxes_alone_show_is_one_by_the_poses_too(
    step: tuple[float, float], size: float, least: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    track = Track()
    for place in range(3):
        box, pose, _ = person(100 + 7 * place, 50 + 3 * place)
        track.add(place, box.astype(np.float32), random.normal(pose, 9).astype(np.float32), 0.9)
    other, pose, score = person(121 + step[0], 59 + step[1], height=size)
    found = frame((other, random.normal(pose, 30).astype(np.float32), score))
    if is_sure_link(track, 3, found.boxes[0], least):
        assert similarities([track], 3, found)[0, 0] >= least
    np.testing.assert_allclose(track.centers[-1], (track.boxes[-1][:2] + track.boxes[-1][2:]) / 2)
