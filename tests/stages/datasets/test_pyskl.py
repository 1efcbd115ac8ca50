"""Annotation pickles of pyskl and mmaction2."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.class_names import UNNAMED
from unialign.stages.datasets.pyskl import load_pyskl, read_pyskl
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.skeletons import PysklSkeletons


def annotation(name: str, label: Any = 0, frames: int = 4, /, **changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(len(name))
    entry = {
        "frame_dir": name,
        "label": label,
        "img_shape": (240, 320),
        "original_shape": (240, 320),
        "total_frames": frames,
        "keypoint": random.uniform(0, 240, (2, frames, 17, 2)).astype(np.float16),
        "keypoint_score": random.uniform(0, 1, (2, frames, 17)).astype(np.float16),
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}


def write(tmp_path: Path, content: Any, protocol: int = 4) -> Path:
    path = tmp_path / "ntu60_hrnet.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_genuine_files_load(tmp_path: Path, protocol: int, dims: int) -> None:
    flat = annotation("b", np.int64(1))
    if dims == 3:
        points = np.random.default_rng(0).normal(size=(2, 4, 25, 3)).astype(np.float16)
        flat = annotation("b", np.int64(1), keypoint=points, keypoint_score=None, img_shape=None, original_shape=None)
    splits = {"xsub_train": ["b"], "xsub_val": ["a"]}
    file = read_pyskl(write(tmp_path, {"split": splits, "annotations": [flat, annotation("a")]}, protocol))
    first = file.annotations[0]
    assert (first.id, first.label, first.total_frames) == ("b", 1, 4)
    np.testing.assert_array_equal(first.keypoint, flat["keypoint"])
    assert first.keypoint.dtype == np.float16
    assert (first.score is None) == (dims == 3)
    assert first.img_shape == (None if dims == 3 else (240, 320))
    assert file.splits == {"xsub_train": ("b",), "xsub_val": ("a",)}


def test_filename_serves_as_id_and_a_bare_list_has_no_splits(tmp_path: Path) -> None:
    file = read_pyskl(write(tmp_path, [annotation("", frame_dir=None, filename="x/y.mp4")]))
    assert file.annotations[0].id == "x/y.mp4"
    assert file.splits == {}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"frame_dir": None}, "annotation 1 has no text 'frame_dir'"),
        ({"frame_dir": 7}, "annotation 1 has no text 'frame_dir'"),
        ({"label": None}, r"annotation 1 \('b'\): 'label'"),
        ({"label": -1}, "'label'"),
        ({"label": 2.0}, "'label'"),
        ({"label": True}, "'label'"),
        ({"label": 10**9}, "'label'"),
        ({"keypoint": None}, "has no 'keypoint'"),
        ({"keypoint": [[1.0]]}, "'keypoint' is not an array"),
        ({"keypoint": np.zeros((4, 17, 2), np.float16)}, "'keypoint' is not an array"),
        ({"keypoint": np.zeros((1, 4, 17, 2), np.bool_)}, "'keypoint' is not an array"),
        ({"keypoint_score": [1.0]}, "'keypoint_score'"),
        ({"keypoint": np.zeros((2, 4, 17, 5), np.float16)}, "5 coordinates"),
        ({"total_frames": 5}, "'total_frames'"),
        ({"total_frames": None}, "'total_frames'"),
        ({"keypoint_score": np.zeros((2, 4, 16), np.float16)}, "'keypoint_score'"),
        ({"img_shape": (240,)}, "'img_shape'"),
        ({"img_shape": (240, -1)}, "'img_shape'"),
        ({"img_shape": (240.5, 320)}, "'img_shape'"),
        ({"img_shape": None, "original_shape": "240x320"}, "'original_shape'"),
        ({"raw_file": "kpfiles/x.pkl"}, "raw_file"),
        ({"frame_dir": "a"}, "two annotations have the id 'a'"),
    ],
)
def test_a_field_that_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = write(tmp_path, {"annotations": [annotation("a"), annotation("b", **changes)]})
    with pytest.raises(CorruptInput, match=problem) as caught:
        read_pyskl(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (3, "no list 'annotations'"),
        ({"split": {}}, "no list 'annotations'"),
        ({"annotations": [1]}, "annotation 0 is not a dict"),
        ({"annotations": [], "split": []}, "'split' is not a dict"),
        ({"annotations": [], "split": {"train": "abc"}}, "split 'train' is not a list"),
        ({"annotations": [], "split": {"train": [1]}}, "split 'train' is not a list"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, content: Any, problem: str) -> None:
    with pytest.raises(CorruptInput, match=problem):
        read_pyskl(write(tmp_path, content))


def test_detections_are_put_together_by_frame(tmp_path: Path) -> None:
    """The form of Kinetics' poses: a line per detection, every second frame, and some frames without anybody."""
    joints = np.random.default_rng(0).uniform(1, 200, (5, 17, 3)).astype(np.float16)
    joints[..., 2] = 0.5
    frames = np.array([1, 1, 5, 3, 5], np.int16)
    listed = annotation("a", keypoint=joints, keypoint_score=None, frame_inds=frames, total_frames=300)
    (clip,) = read_pyskl(write(tmp_path, [{**listed, "box_score": np.ones(5), "valid": {0.5: 3}}])).annotations
    assert (clip.keypoint.shape, clip.total_frames) == ((2, 3, 17, 2), 3)
    for detection, (person, frame) in enumerate([(0, 0), (1, 0), (0, 2), (0, 1), (1, 2)]):
        np.testing.assert_array_equal(clip.keypoint[person, frame], joints[detection, :, :2])
        assert (clip.score[person, frame] == 0.5).all()
    assert not clip.score[1, 1].any()
    outcome = next(PysklSkeletons(tmp_path / "ntu60_hrnet.pkl").run([Source("a", tmp_path / "ntu60_hrnet.pkl")]))
    assert (outcome.status, outcome.arrays["keypoints"].shape) == ("ok", (3, 2, 17, 3))
    for changed in (
        {"frame_inds": frames[:4]},
        {"frame_inds": frames.astype(float)},
        {"frame_inds": [1, 1, 5, 3, 5]},
        {"keypoint": joints[..., :2]},
        {"keypoint": joints[None]},
        {"keypoint": joints[:0], "frame_inds": frames[:0]},
    ):
        with pytest.raises(CorruptInput, match="are no detections"):
            read_pyskl(write(tmp_path, [{**listed, **changed}]))
    with pytest.raises(CorruptInput, match="21 detections in one frame"):
        read_pyskl(write(tmp_path, [{**listed, "keypoint": joints[[0] * 21], "frame_inds": np.ones(21, int)}]))


def test_the_form_for_kinetics_whose_keypoints_are_elsewhere_is_named(shared_data: Path) -> None:
    with pytest.raises(
        CorruptInput, match=r"annotation 0 \('jf7RDuUTrsQ'\) has no 'keypoint'. In PYSKL's form for Kin"
    ):
        read_pyskl(shared_data / "skeletons" / "pyskl_format" / "sample.pkl")


def test_the_layout_of_ddnet_is_refused(shared_data: Path) -> None:
    with pytest.raises(CorruptInput, match="no list 'annotations'"):
        read_pyskl(shared_data / "skeletons" / "jhmdb" / "GT_test_1.pkl")


def test_a_dataset_has_the_splits_of_the_file(tmp_path: Path) -> None:
    splits = {
        "xsub_train": ["c", "a"],
        "xsub_val": ["b", "lost"],
        "train1": ["a"],
        "test1": ["b"],
        "train": ["b"],
        "val": ["c"],
        "odd_train": ["a"],
    }
    path = write(tmp_path, {"split": splits, "annotations": [annotation(name, ord(name) - 97) for name in "cab"]})
    dataset = load_pyskl(path)
    assert dataset.collection == "pyskl-ntu60-hrnet"
    assert [(sample.id, sample.label) for sample in dataset.samples] == [("a", 0), ("b", 1), ("c", 2)]
    assert dataset.samples[0].files == {"skeleton": path}
    assert dataset.classes == ("class 0", "class 1", "class 2")
    assert list(dataset.protocols) == ["xsub", "split1", "split"]
    assert (dataset.split().train, dataset.split().test) == (("a", "c"), ("b",))
    assert dataset.notes == (
        "1 id of splits 'xsub_train' and 'xsub_val' without an annotation",
        "split 'odd_train' is not used: a protocol needs a train part and another one",
        UNNAMED,
    )


@pytest.mark.parametrize(
    ("splits", "protocols"),
    [
        ({"train_xsub": "abc", "val_xsub": "de"}, {"xsub": ("abc", "", "de")}),
        ({"training": "abc", "validation": "de"}, {"split": ("abc", "", "de")}),
        ({"train": "abc", "val": "d", "test": "e"}, {"split": ("abc", "d", "e")}),
        ({"test_xset": "e", "xset_dev": "d", "Train-xset": "abc"}, {"xset": ("abc", "d", "e")}),
        ({"xview.TRAIN": "abc", "xview.Testing": "de", "all": "abcde"}, {"xview": ("abc", "", "de")}),
        (
            {"train1": "a", "test1": "b", "train_2": "c", "valid_2": "d"},
            {"split1": ("a", "", "b"), "2": ("c", "", "d")},
        ),
        ({"train_set": "abc", "test_set": "de"}, {"split": ("abc", "", "de")}),
        (
            {"trainset": "abc", "valset": "d", "testset_1": "e", "train-split_1": "ab"},
            {"split": ("abc", "", "d"), "1": ("ab", "", "e")},
        ),
        ({"train_val": "abcd", "test": "e"}, {}),
        ({"trainxsub": "abc", "valxsub": "de"}, {}),
        ({"train": "abc", "val": "xyz"}, {}),
        ({"train": "ab", "dev": "c", "eval": "de"}, {"split": ("ab", "c", "de")}),
    ],
)
def test_names_of_splits_are_used_or_named(
    tmp_path: Path, splits: dict[str, str], protocols: dict[str, tuple[str, str, str]]
) -> None:
    content = {"split": {name: list(ids) for name, ids in splits.items()}, "annotations": [*map(annotation, "abcde")]}
    dataset = load_pyskl(write(tmp_path, content))
    found = {name: dataset.split(name) for name in dataset.protocols if name != "holdout"}
    assert {name: tuple(map("".join, (s.train, s.val, s.test))) for name, s in found.items()} == protocols
    used = "".join("".join(parts) for parts in protocols.values())
    for name, ids in splits.items():
        assert set(ids) <= set(used) or any(repr(name) in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("splits", "error", "problem"),
    [
        ({"xsub_train": "a", "xsub_val": "b", "val_xsub": "c"}, CorruptInput, "both the val part of one protocol"),
        ({"train": "a", "val": "b", "test": "b"}, CorruptInput, "'b' is both in split 'val' and in 'test'"),
        ({"train": "a", "eval": "b", "test": "c"}, UsageError, "both a test and an eval part"),
    ],
)
def test_splits_that_leave_it_open_are_refused(
    tmp_path: Path, splits: dict[str, str], error: type[Exception], problem: str
) -> None:
    content = {"split": {name: list(ids) for name, ids in splits.items()}, "annotations": [*map(annotation, "abc")]}
    with pytest.raises(error, match=problem):
        load_pyskl(write(tmp_path, content))


def test_a_file_without_splits_is_held_out(tmp_path: Path) -> None:
    dataset = load_pyskl(write(tmp_path, [annotation(f"a{number}", number % 2) for number in range(8)]))
    assert list(dataset.protocols) == ["holdout"]
    assert (len(dataset.split().train), len(dataset.split().test)) == (6, 2)


def test_ids_are_plain_paths_everywhere(tmp_path: Path) -> None:
    content = {
        "split": {"train": {"./vids//clip", "a/./b"}, "val": ["c/"]},
        "annotations": [annotation("./vids//clip"), annotation("a/./b"), annotation("c")],
    }
    path = write(tmp_path, content)
    dataset = load_pyskl(path)
    assert [sample.id for sample in dataset.samples] == ["a/b", "c", "vids/clip"]
    assert (dataset.split().train, dataset.split().test) == (("a/b", "vids/clip"), ("c",))
    outcomes = PysklSkeletons(path).run([Source(sample.id, path) for sample in dataset.samples])
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    with pytest.raises(CorruptInput, match="two annotations have the id 'a/b'"):
        load_pyskl(write(tmp_path, [annotation("a/b"), annotation("a//b")]))


def test_what_is_filled_in_is_in_the_notes(tmp_path: Path) -> None:
    entries = [
        annotation("a", keypoint_score=None),
        annotation("b", img_shape=None, original_shape=None),
        annotation("c", keypoint=np.ones((2, 4, 17, 3), np.float32), keypoint_score=None),
    ]
    assert load_pyskl(write(tmp_path, entries)).notes == (
        "1 of 3 annotations have the score as third number of 'keypoint'",
        "1 of 3 annotations have no 'keypoint_score': 1 is taken for each joint that is there",
        "1 of 3 annotations have no 'img_shape': a picture of 1920 x 1080 is taken",
        UNNAMED,
    )


def test_class_names_come_from_a_text_file(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation("a", 1)])
    names = tmp_path / "names.txt"
    names.write_text("drink water\neat meal\nspare\n")
    assert load_pyskl(path, names).classes == ("drink water", "eat meal", "spare")
    assert load_pyskl(path, names).notes == ()
    names.write_text("drink water\n")
    with pytest.raises(UsageError, match="1 class names"):
        load_pyskl(path, names)
    names.write_text("same\nsame\n")
    with pytest.raises(UsageError, match="occurs twice"):
        load_pyskl(path, names)
    with pytest.raises(UsageError, match="cannot be read"):
        load_pyskl(path, tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("names", "error", "problem"),
    [
        (["../up"], UsageError, r"'\.\.'"),
        (["/etc/passwd"], UsageError, "absolute"),
        (["a\0b"], UsageError, "control character"),
        (["x" * 301], UsageError, "301 characters"),
        (["a", "A"], UsageError, "only in case"),
        ([], UsageError, "no annotations"),
    ],
)
def test_hostile_ids_are_refused(tmp_path: Path, names: list[str], error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        load_pyskl(write(tmp_path, [annotation(name) for name in names]))


def test_overlapping_splits_are_refused(tmp_path: Path) -> None:
    content = {"split": {"xsub_train": ["a"], "xsub_val": ["a"]}, "annotations": [annotation("a")]}
    with pytest.raises(CorruptInput, match="both in split"):
        load_pyskl(write(tmp_path, content))
