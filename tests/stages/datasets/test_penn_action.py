"""Penn Action: actions, official split and joints, from generated label files and the real ones."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.datasets.penn_action import PENN_SKELETONS, read_penn_skeleton
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.skeleton_files import SkeletonFiles


def label_file(path: Path, **changed: Any) -> Path:
    """A label file as released: 6 frames of 13 joints that stand, in an image of 270 x 480."""
    generator = np.random.default_rng(0)
    content: dict[str, Any] = {
        "action": "golf_swing",
        "pose": "left",
        "x": generator.uniform(2, 480, (6, 13)),
        "y": generator.uniform(2, 270, (6, 13)),
        "visibility": np.ones((6, 13), np.uint8),
        "train": np.int32(1),
        "bbox": np.ones((6, 4)),
        "dimensions": np.array([[270, 480, 6]], np.uint16),
        "nframes": np.uint8(6),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content | changed, do_compression=True)
    return path


def test_actions_and_parts_are_those_of_the_files(tmp_path: Path) -> None:
    label_file(tmp_path / "labels" / "0002.mat", action="pullup", train=np.int32(-1))
    label_file(tmp_path / "labels" / "0001.mat")
    (tmp_path / "README").touch()
    dataset = load_dataset("penn-action", tmp_path)
    assert [(each.id, dataset.classes[each.label]) for each in dataset.samples] == [
        ("0001", "golf swing"),
        ("0002", "pull-up"),
    ]
    assert (dataset.split().train, dataset.split().test) == (("0001",), ("0002",))


def test_occluded_joints_keep_their_place_and_those_outside_are_absent(tmp_path: Path) -> None:
    x, y, visibility = np.full((6, 13), 40.0), np.full((6, 13), 50.0), np.ones((6, 13), np.uint8)
    visibility[2, 3:5] = 0
    x[2, 4] = y[2, 4] = 1
    x[5, 12] = np.nan
    (outcome,) = SkeletonFiles(PENN_SKELETONS).run(
        [Source("0001", label_file(tmp_path / "0001.mat", x=x, y=y, visibility=visibility))]
    )
    keypoints = outcome.arrays["keypoints"]
    assert (outcome.status, keypoints.shape, keypoints.dtype) == ("ok", (6, 1, 13, 3), np.float32)
    assert keypoints[0, 0, 0].tolist() == [40, 50, 1]
    assert keypoints[2, 0, 3].tolist() == [40, 50, 0.5]
    assert np.isnan(keypoints[2, 0, 4]).all()
    assert np.isnan(keypoints[5, 0, 12]).all()
    assert np.isnan(keypoints).sum() == 6
    assert outcome.arrays["frame_size"].tolist() == [270, 480]
    assert outcome.detail == {"frames": 6, "persons": 1, "frames_without_person": 0, "missing_joints": 2}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"action": "juggling"}, "the action 'juggling' is none of Penn Action's 15"),
        ({"train": np.int32(0)}, "train is .0., which should be 1"),
        ({"x": {"a": 1.0}}, "holds no array x"),
    ],
)
def test_labels_of_another_data_set_are_refused(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    label_file(tmp_path / "0001.mat", **changed)
    with pytest.raises(CorruptInput, match=problem):
        load_dataset("penn-action", tmp_path)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"x": np.ones((6, 14))}, r"x is \(6, 14\), not 1 to 10000 frames of 13 joints"),
        ({"y": np.ones((5, 13))}, "x, y and visibility differ in size"),
        ({"dimensions": np.array([[0.5, 3]])}, "no height and width"),
        ({"x": np.ones((10_001, 13), np.uint8)}, "is damaged"),
    ],
)
def test_joints_of_another_shape_are_refused(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(CorruptInput, match=problem):
        read_penn_skeleton(label_file(tmp_path / "0001.mat", **changed))


def test_roots_without_labels_double_files_and_links_outside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file of penn-action found"):
        load_dataset("penn-action", tmp_path / "empty")
    label_file(tmp_path / "twice" / "a" / "0001.mat")
    label_file(tmp_path / "twice" / "b" / "0001.mat")
    with pytest.raises(UsageError, match="two label files of one clip"):
        load_dataset("penn-action", tmp_path / "twice")
    (tmp_path / "empty" / "0001.mat").symlink_to(tmp_path / "twice" / "a" / "0001.mat")
    with pytest.raises(UsageError, match="out of the data root"):
        load_dataset("penn-action", tmp_path / "empty")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(128, 4000), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_is_an_error_of_the_file_and_nothing_else(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    path = tmp_path / "whole.mat"
    if not path.exists():
        label_file(path)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[128 + place % (len(data) - 128)] = value
    (tmp_path / "damaged").mkdir(exist_ok=True)
    damaged = tmp_path / "damaged" / "0001.mat"
    damaged.write_bytes(data)
    with contextlib.suppress(CorruptInput):
        assert read_penn_skeleton(damaged).keypoints.shape[1:] == (1, 13, 3)
    with contextlib.suppress(CorruptInput):
        load_dataset("penn-action", damaged.parent)


def test_the_real_set_has_its_published_split_and_labels(shared_data: Path) -> None:
    folder = shared_data / "skeletons" / "penn_action"
    dataset = load_dataset("penn-action", folder)
    split = dataset.split()
    assert (len(split.train), len(split.test)) == (1258, 1068)
    label = {sample.id: sample.label for sample in dataset.samples}
    scores = np.load(folder / "pgcn_scores.npz")
    assert sorted(scores["ids"].tolist()) == list(split.test)
    assert [label[name] for name in scores["ids"].tolist()] == scores["labels"].tolist()
    for sample in dataset.samples[::200]:
        clip, written = read_penn_skeleton(sample.files["skeleton"]), loadmat(sample.files["skeleton"])
        place = clip.keypoints[:, 0, :, :2]
        shown = np.isfinite(place).all(axis=2)
        assert np.array_equal(place[shown], np.stack([written["x"], written["y"]], axis=2)[shown].astype(np.float32))
        assert (written["visibility"][~shown] == 0).all()


def test_streams_that_matlab_left_open_are_read(shared_data: Path) -> None:
    for name in ("1605", "1833"):
        path = shared_data / "skeletons" / "penn_action" / "labels" / f"{name}.mat"
        assert len(read_penn_skeleton(path).keypoints) == len(loadmat(path)["x"])
