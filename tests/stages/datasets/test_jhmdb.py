"""J-HMDB: classes, splits and joints, from generated files as released and from DD-Net's pickles."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.datasets.jhmdb import ACTIONS, JHMDB_PICKLES, read_jhmdb_skeleton
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.skeleton_files import SkeletonFiles


def released(root: Path, clips: int = 2) -> Path:
    """As released, with `clips` clips of each class: even ones train in split 1 and are tested in split 2."""
    for action in ACTIONS:
        for at in range(clips):
            folder = root / "joint_positions" / action / f"{action}_clip_{at}"
            folder.mkdir(parents=True)
            savemat(folder / "joint_positions.mat", {"pos_img": np.full((2, 15, 6), 10.0 + at), "scale": np.ones(6)})
            (root / "ReCompress_Videos" / action).mkdir(parents=True, exist_ok=True)
            (root / "ReCompress_Videos" / action / f"{action}_clip_{at}.avi").touch()
        (root / "splits").mkdir(exist_ok=True)
        for number in (1, 2):
            lines = [f"{action}_clip_{at}.avi {(at + number + 1) % 2 + 1}" for at in range(clips)]
            (root / "splits" / f"{action}_test_split{number}.txt").write_text("\n".join(lines))
    return root


def test_classes_files_and_splits_are_those_of_the_release(tmp_path: Path) -> None:
    dataset = load_dataset("jhmdb", released(tmp_path))
    assert (len(dataset.classes), len(dataset.samples)) == (21, 42)
    assert (dataset.classes[0], dataset.classes[9], dataset.classes[20]) == ("brush hair", "pull-up", "wave")
    first = dataset.samples[0]
    assert (first.id, first.label, sorted(first.files)) == ("brush_hair/brush_hair_clip_0", 0, ["skeleton", "video"])
    assert list(dataset.protocols) == ["split1", "split2"]
    assert all(name.endswith("_0") for name in dataset.split("split1").train)
    assert dataset.split("split2").test == dataset.split("split1").train
    assert dataset.notes == ()


def test_clips_of_a_list_that_are_not_here_are_noted_and_other_lines_refused(tmp_path: Path) -> None:
    released(tmp_path)
    path = tmp_path / "splits" / "wave_test_split1.txt"
    path.write_text(path.read_text() + "\nlost.avi 1\n")
    dataset = load_dataset("jhmdb", tmp_path)
    assert dataset.notes == ("1 clips of split 1 are not here",)
    assert "wave/lost" not in dataset.split("split1").train
    path.write_text("wave_clip_0 1")
    with pytest.raises(CorruptInput, match="line 1 is not `<clip>"):
        load_dataset("jhmdb", tmp_path)


def test_joints_are_pixels_and_a_single_frame_is_read(tmp_path: Path) -> None:
    place = np.random.default_rng(0).uniform(0, 240, (2, 15, 6))
    place[0, 3, 2] = np.nan
    savemat(tmp_path / "a.mat", {"pos_img": place})
    clip = read_jhmdb_skeleton(tmp_path / "a.mat")
    assert (clip.keypoints.shape, clip.image_size) == ((6, 1, 15, 3), (240, 320))
    assert np.isnan(clip.keypoints[2, 0, 3]).all()
    np.testing.assert_allclose(clip.keypoints[5, 0, 14], [*place[:, 14, 5], 1], rtol=1e-6)
    savemat(tmp_path / "a.mat", {"pos_img": place[:, :, 0]})
    assert read_jhmdb_skeleton(tmp_path / "a.mat").keypoints.shape == (1, 1, 15, 3)
    for wrong in (place[:, :14], place[:1], np.zeros((2, 15, 0)), np.zeros((2, 15, 2, 2))):
        savemat(tmp_path / "a.mat", {"pos_img": wrong})
        with pytest.raises(CorruptInput, match="not 2 x 15 x 1 to 10000 frames"):
            read_jhmdb_skeleton(tmp_path / "a.mat")


def test_roots_without_clips_double_files_and_links_outside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file of jhmdb found"):
        load_dataset("jhmdb", tmp_path / "empty")
    root = released(tmp_path / "data")
    (root / "copy" / "wave").mkdir(parents=True)
    (root / "copy" / "wave" / "wave_clip_0.avi").touch()
    with pytest.raises(UsageError, match="two video files of one sample"):
        load_dataset("jhmdb", root)
    (tmp_path / "empty" / "GT_train_1.pkl").symlink_to(root / "copy" / "wave" / "wave_clip_0.avi")
    with pytest.raises(UsageError, match="out of the data root"):
        load_dataset("jhmdb", tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "has no lists 'pose' and 'label'"),
        ({"pose": [], "label": ["a"]}, "has no lists 'pose' and 'label'"),
        ({"pose": [np.zeros((2, 15, 2))], "label": [1]}, "clip 0 has no class name"),
        ({"pose": [np.zeros((2, 14, 2))], "label": ["a"]}, "clip 0 is no array"),
        ({"pose": [np.zeros((0, 15, 2))], "label": ["a"]}, "clip 0 is no array"),
        ({"pose": [[1]], "label": ["a"]}, "clip 0 is no array"),
        ({"pose": [np.zeros((2, 15, 2), "U1")], "label": ["a"]}, "clip 0 is no array"),
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, content: Any, problem: str) -> None:
    (tmp_path / "GT_train_1.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CorruptInput, match=problem):
        load_dataset("jhmdb", tmp_path)


def test_one_pickle_of_a_pair_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "GT_train_1.pkl").write_bytes(pickle.dumps({"pose": [np.zeros((2, 15, 2))], "label": ["wave"]}))
    with pytest.raises(UsageError, match="one of them is missing"):
        load_dataset("jhmdb", tmp_path)


def test_the_real_pickles_become_poses(shared_data: Path) -> None:
    dataset = load_dataset("jhmdb", shared_data / "skeletons" / "jhmdb")
    split = dataset.split()
    assert (len(split.train), len(split.test), len(dataset.classes)) == (433, 176, 14)
    sources = [Source(each.id, each.files["skeleton"]) for each in dataset.samples[::30]]
    extractor = SkeletonFiles(JHMDB_PICKLES)
    found = list(extractor.run(sources))
    assert {each.status for each in found} == {"ok"}
    assert [each.source for each in found] == [each.digest for each in dataset.samples[::30]]
    for each in found:
        keypoints = each.arrays["keypoints"]
        assert keypoints.shape[1:] == (1, 15, 3)
        # A person stands, sits or hangs: the face (2) is above the belly (1) in most frames.
        assert each.arrays["frame_size"].tolist() == [240, 320]
    above = np.mean(
        [np.median(each.arrays["keypoints"][:, 0, 2, 1] - each.arrays["keypoints"][:, 0, 1, 1]) < 0 for each in found]
    )
    assert above > 0.9
    assert next(iter(extractor.run([Source("split1/test/9999", sources[0].path)]))).status == "missing-file"
