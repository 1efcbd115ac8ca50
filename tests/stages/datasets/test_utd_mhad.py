"""UTD-MHAD: names, protocols, and reading of skeleton files, generated and real."""

import contextlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.datasets.utd_mhad import load_utd_mhad, read_utd_skeleton
from unialign.stages.datasets.zero_shot_splits import ZERO_SHOT_SPLITS

NAMES = [f"a{action}_s{subject}_t1" for action in range(1, 28) for subject in (1, 2)]


def made(root: Path, *names: str, suffix: str = "_skeleton.mat") -> Path:
    for name in names:
        path = root / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def written(path: Path, values: object, name: str = "d_skel", *, compressed: bool = False) -> Path:
    savemat(path, {name: values}, do_compression=compressed)
    return path


def test_names_give_labels_attributes_and_files(tmp_path: Path) -> None:
    made(tmp_path / "Skeleton", "a27_s8_t4", "a1_s1_t2")
    made(tmp_path / "RGB", "a1_s1_t2", suffix="_color.avi")
    made(tmp_path, "readme.txt", "a1_s1_t2_inertial.mat", suffix="")
    dataset = load_dataset("utd-mhad", tmp_path)
    assert [sample.id for sample in dataset.samples] == ["a1_s1_t2", "a27_s8_t4"]
    first, last = dataset.samples
    assert (first.label, last.label) == (0, 26)
    assert first.attributes == {"subject": 1, "trial": 2}
    assert first.files == {
        "skeleton": tmp_path / "Skeleton" / "a1_s1_t2_skeleton.mat",
        "video": tmp_path / "RGB" / "a1_s1_t2_color.avi",
    }
    assert list(last.files) == ["skeleton"]
    assert dataset.classes[:2] == ("class 0", "class 1")
    assert dataset.default_protocol == "subject-odd"


def test_odd_subjects_train_and_unseen_classes_are_only_tested(tmp_path: Path) -> None:
    dataset = load_utd_mhad(made(tmp_path, *NAMES))
    label = {sample.id: sample.label for sample in dataset.samples}
    split = dataset.split()
    assert len(split.train) == len(split.test) == 27
    assert all("_s1_" in name for name in split.train)
    for number in (1, 2, 3):
        unseen = set(ZERO_SHOT_SPLITS[f"utd-mhad-{number}"].unseen)
        clean = dataset.split(f"zero-shot-{number}")
        assert {label[name] for name in clean.test} == unseen
        assert {label[name] for name in clean.train} == set(range(27)) - unseen
        assert all("_s2_" in name for name in clean.test)
        both = dataset.split(f"generalised-{number}")
        assert both.train == clean.train
        assert both.test == split.test


def test_class_names_come_from_a_file(tmp_path: Path) -> None:
    made(tmp_path / "data", "a1_s1_t1")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"move {number}" for number in range(27)))
    assert load_dataset("utd-mhad", tmp_path / "data", names).classes[26] == "move 26"
    for text, problem in {"one\ntwo\n": "give the 27", "\n".join(["same"] * 27): "occurs twice"}.items():
        names.write_text(text)
        with pytest.raises(UsageError, match=problem):
            load_utd_mhad(tmp_path / "data", names)
    with pytest.raises(UsageError, match="cannot be read as UTF-8"):
        load_utd_mhad(tmp_path / "data", tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("name", "problem"),
    [("a28_s1_t1", "action 28"), ("a1_s9_t1", "subject 9"), ("a1_s1_t5", "trial 5"), ("a0_s1_t1", "action 0")],
)
def test_numbers_that_the_data_set_does_not_have_are_refused(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=f"{problem} is not one of utd-mhad"):
        load_utd_mhad(made(tmp_path, name))


def test_double_files_links_outside_and_empty_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file of utd-mhad found"):
        load_utd_mhad(tmp_path)
    made(tmp_path / "twice" / "a", "a1_s1_t1")
    made(tmp_path / "twice" / "b", "a1_s1_t1")
    with pytest.raises(UsageError, match="two skeleton files of one sample"):
        load_utd_mhad(tmp_path / "twice")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a2_s1_t1_skeleton.mat").symlink_to(tmp_path / "twice" / "a" / "a1_s1_t1_skeleton.mat")
    with pytest.raises(UsageError, match="out of the data root"):
        load_utd_mhad(tmp_path / "linked")


@pytest.mark.parametrize("compressed", [False, True])
def test_frames_come_first_and_undefined_joints_are_nan(tmp_path: Path, compressed: bool) -> None:
    values = np.random.default_rng(0).normal(size=(20, 3, 7))
    values[4, 1, 2] = np.inf
    keypoints = read_utd_skeleton(written(tmp_path / "a.mat", values, compressed=compressed))
    assert keypoints.shape == (7, 20, 3)
    assert keypoints.dtype == np.float32
    assert np.isnan(keypoints[2, 4]).all()
    assert np.isnan(keypoints).sum() == 3
    assert keypoints[6, 19].tolist() == values[19, :, 6].astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("values", "name", "problem"),
    [
        (np.zeros((20, 3, 5)), "other", "holds no array d_skel"),
        (np.zeros((19, 3, 5)), "d_skel", r"d_skel is \(19, 3, 5\), not 20 joints"),
        (np.zeros((20, 3)), "d_skel", "should have 1 to 10000 frames"),
        (np.zeros((20, 3, 0)), "d_skel", "should have 1 to 10000 frames"),
        (np.zeros((20, 3, 10_001), np.float32), "d_skel", "is damaged"),
        (np.zeros((20, 3, 30_000)), "d_skel", "holds no array d_skel"),
        (np.zeros((20, 3, 5), np.int16), "d_skel", "holds no array d_skel"),
        (np.zeros((20, 3, 5), np.complex128), "d_skel", "holds no array d_skel"),
        ({"field": 1.0}, "d_skel", "holds no array d_skel"),
    ],
)
def test_another_content_is_refused(tmp_path: Path, values: object, name: str, problem: str) -> None:
    with pytest.raises(CorruptInput, match=problem):
        read_utd_skeleton(written(tmp_path / "a.mat", values, name, compressed=True))


def test_files_that_are_too_large_of_another_kind_or_not_there_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(bytes(10**7))
    with pytest.raises(CorruptInput, match="larger than"):
        read_utd_skeleton(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    with pytest.raises(CorruptInput, match="is no MATLAB file of level 5; save it with -v6 or -v7"):
        read_utd_skeleton(path)
    with pytest.raises(CorruptInput, match="cannot be read"):
        read_utd_skeleton(tmp_path / "absent.mat")


def test_a_file_that_ends_early_says_so(tmp_path: Path) -> None:
    for compressed in (False, True):
        whole = written(tmp_path / "a.mat", np.ones((20, 3, 9)), compressed=compressed).read_bytes()
        for length in (132, 150, len(whole) - 9):
            (tmp_path / "a.mat").write_bytes(whole[:length])
            with pytest.raises(CorruptInput, match=r"is damaged \(an element is cut off\)"):
                read_utd_skeleton(tmp_path / "a.mat")


def test_other_variables_of_the_file_are_passed_over(tmp_path: Path) -> None:
    values = np.arange(120, dtype=np.float64).reshape(20, 3, 2)
    others = {"a": {"b": 1.0}, "text": "words", "cells": np.array([1, "x"], object), "flags": np.array([True])}
    for compressed in (False, True):
        savemat(tmp_path / "a.mat", {**others, "d_skel": values, "last": 1.0}, do_compression=compressed)
        assert read_utd_skeleton(tmp_path / "a.mat").tolist() == values.transpose(2, 0, 1).tolist()


def test_a_small_file_that_would_fill_the_memory_is_not_unpacked(tmp_path: Path) -> None:
    written(tmp_path / "a.mat", np.zeros(50_000_000, np.uint8), "zeros", compressed=True)
    assert (tmp_path / "a.mat").stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(CorruptInput, match="holds no array d_skel"):
        read_utd_skeleton(tmp_path / "a.mat")
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 900),
    compressed=st.booleans(),
)
def test_damage_is_an_error_of_the_file_and_nothing_else(
    tmp_path: Path, changes: list[tuple[int, int]], length: int, compressed: bool
) -> None:
    path = tmp_path / f"{compressed}.mat"
    if not path.exists():
        written(path, np.arange(60, dtype=np.float32).reshape(20, 3, 1), compressed=compressed)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    damaged = tmp_path / "damaged.mat"
    damaged.write_bytes(data[: max(length, len(data) // 2)])
    with contextlib.suppress(CorruptInput):
        assert read_utd_skeleton(damaged).shape[1:] == (20, 3)


def test_real_files(shared_data: Path) -> None:
    dataset = load_dataset("utd-mhad", shared_data / "skeletons" / "utd_mhad", shared_data / "text" / "utd_mhad.txt")
    assert len(dataset.samples) == 646
    assert dataset.classes[26] == "squat with two arms stretched out"
    split = dataset.split()
    subject = {sample.id: sample.attributes["subject"] for sample in dataset.samples}
    assert {subject[name] for name in split.train} == {1, 3, 5}
    assert {subject[name] for name in split.test} == {2, 4, 6}
    assert len(split.train) + len(split.test) == 646
    assert len(dataset.split("zero-shot-1").train) == pytest.approx(22 / 27 * len(split.train), abs=2)
    for sample in dataset.samples[::60]:
        keypoints = read_utd_skeleton(sample.files["skeleton"])
        assert np.array_equal(
            keypoints, loadmat(sample.files["skeleton"])["d_skel"].transpose(2, 0, 1).astype(np.float32)
        )
        assert np.isfinite(keypoints).all()
        # The head (0) is above the base of the spine (3) by about half a metre, left and right feet (15, 19) below it.
        height = np.median(keypoints[..., 1], axis=0)
        assert 0.3 < height[0] - height[3] < 0.9
        assert height[15] < height[3] > height[19]
