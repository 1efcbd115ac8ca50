"""The parts that a page's content is made of."""

import base64
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.made_stores import SIZE, frames_store, made_dataset, write_store
from unialign.cache.digests import file_digest
from unialign.pipeline.evaluation.class_groups import boxes, confusion_groups, group_names
from unialign.pipeline.evaluation.shown_joints import shown_joints
from unialign.pipeline.pages import strips
from unialign.pipeline.pages.chosen import confused_clips, worth_showing
from unialign.pipeline.pages.page import packed
from unialign.pipeline.pages.strips import Sources, strip_of
from unialign.stages.extraction.skeleton_arrays import metre_spec
from unialign.stages.skeleton_layouts import COCO_17, NTU_25, UTD_20
from unialign.stages.video import encode_clip

COUNTS = st.integers(1, 60)


@given(st.integers(1, 40), st.integers(1, 9), st.randoms(use_true_random=False))
def test_every_clip_is_worth_showing_once_and_wrong_ones_come_first(count: int, classes: int, random: object) -> None:
    draw = np.random.default_rng(random.randrange(1 << 30))  # type: ignore[attr-defined]
    labels, guesses = draw.integers(0, classes, count), draw.integers(0, classes, count)
    sure = draw.random(count)
    pairs = confused_clips(labels, guesses, sure, np.ones(count, bool))
    order = list(worth_showing(labels, guesses, sure, pairs))
    assert sorted(order) == list(range(count))
    wrong = int((labels != guesses).sum())
    shown_wrong = [place for place in order[: 2 * wrong + 1] if labels[place] != guesses[place]]
    assert len(shown_wrong) == wrong


def test_confused_pairs_show_the_surest_clips_that_can_be_shown() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    guesses = np.array([1, 1, 0, 1, 1, 2])
    sure = np.array([0.9, 0.5, 0.8, 0.6, 0.7, 1.0])
    (pair,) = confused_clips(labels, guesses, sure, np.ones(6, bool))
    assert (pair.true, pair.predicted, pair.samples, pair.share) == (0, 1, 2, 2 / 3)
    assert (pair.wrong, pair.right) == (0, 4)
    (pair,) = confused_clips(labels, guesses, sure, np.array([False, True, True, True, False, True]))
    assert (pair.wrong, pair.right) == (1, 3)


def test_classes_that_are_confused_stand_together() -> None:
    confusion = np.diag([10, 10, 10, 10, 10])
    confusion[0, 3] = confusion[3, 0] = 4
    confusion[1, 4] = 3
    groups = confusion_groups(confusion)
    assert [sorted(labels) for labels in groups] == [[0, 3], [1, 4], [2]]
    assert boxes(groups) == [(0, 2), (2, 2)]
    assert group_names(groups, "abcde") == ["a / d", "b / e", "c"]
    assert confusion_groups(np.diag([3, 3])) == [[0], [1]]
    assert sorted(label for labels in confusion_groups(np.zeros((6, 6), np.int64)) for label in labels) == [*range(6)]


def test_arrays_are_packed_little_endian_and_others_are_refused() -> None:
    for values in (np.array([1, 258], ">u2"), np.array([1, 258], "<u2")):
        assert base64.b64decode(packed(values)["data"]) == b"\1\0\2\1"
    with pytest.raises(KeyError):
        packed(np.array([1], np.int64))


def test_frames_that_are_stored_small_are_shown_from_an_unchanged_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[:, ::2] = 255  # lines that a small image has lost
    video = tmp_path / "a.mp4"
    encode_clip(video, [picture] * 7, fps=10)
    sample, whole = "clip000", file_digest(video)
    store = frames_store(tmp_path / "cache", made_dataset(1, 0))
    # Made stores have no files; this is what the sample's would be.
    monkeypatch.setattr(
        strips, "file_digest", lambda path: store.source(sample) if file_digest(path) == whole else whole
    )
    small, sharp = (strip_of(Sources(store, None, videos), sample) for videos in ({}, {sample: video}))
    assert small["frames"] == sharp["frames"] == [0, 3, 6]
    assert (small["height"], sharp["height"], sharp["width"]) == (SIZE[0], 96, 160)
    video.write_bytes(video.read_bytes() + b"changed")
    assert strip_of(Sources(store, None, {sample: video}), sample) == small


def test_skeletons_of_a_sensor_are_drawn_as_it_sees_them_and_others_as_they_are(tmp_path: Path) -> None:
    # Somebody faces a Kinect, whose x grows to its left: the own left hand is at a smaller x, and at the right for it.
    person = np.zeros((3, 1, 20, 3), np.float32)
    person[..., 7, 0], person[..., 11, 0], person[..., 1] = -0.3, 0.3, 1.0
    for name, depth, left_is_right in (("sensor", 2.5, True), ("centered", 0.0, False)):
        person[..., 2] = depth
        store = write_store(tmp_path / name, "poses", (metre_spec(32, 1, UTD_20),), {"a": {"keypoints": person}})
        joints = shown_joints(store, "a")
        assert (joints[0, 0, 7, 0] > joints[0, 0, 11, 0]) == left_is_right
        assert (joints[..., 1] == -1).all()  # up is up


def test_joints_are_on_the_side_that_they_are_named_for() -> None:
    for layout in (COCO_17, NTU_25):
        sides = [layout.side(joint) for joint in range(len(layout.joints))]
        assert [name for name, side in zip(layout.joints, sides, strict=True) if side and side not in name] == []
        assert sides.count("left") == sides.count("right") > 6
        assert "" in sides
