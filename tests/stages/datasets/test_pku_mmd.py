"""PKU-MMD: instances of long recordings, official splits, and damaged files."""

from pathlib import Path

import numpy as np
import pytest

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.datasets.pku_mmd import PKU_CLASSES, PKU_SKELETONS, pku_digest, read_pku_skeleton
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.skeleton_files import SkeletonFiles

RECORDINGS = ("0002-L", "0002-M", "0003-L", "0004-R")


def values(seed: int, frames: int = 40) -> np.ndarray:
    found = np.random.default_rng(seed).uniform(0.1, 3, (frames, 2, 25, 3)).round(4)
    found[5:, 1] = 0
    return found


def made(root: Path) -> Path:
    for folder in ("PKU_Skeleton_Renew", "Train_Label_PKU_final"):
        (root / folder).mkdir(parents=True)
    for at, name in enumerate(RECORDINGS):
        rows = values(at).reshape(40, 150)
        text = "\n".join(" ".join(f"{value:.4f}" for value in row) for row in rows)
        (root / "PKU_Skeleton_Renew" / f"{name}.txt").write_text(text + "\n")
        (root / "Train_Label_PKU_final" / f"{name}.txt").write_text(f"{at + 1},3,12,2\n51,20,40,1\n")
    (root / "cross-subject.txt").write_text(
        "Training videos:\n0002-L, 0002-M, \nValidataion videos:\n0003-L, 0004-R, \n"
    )
    (root / "cross-view.txt").write_text("Training videos:\n0002-M, 0004-R\nValidation videos:\n0002-L, 0003-L")
    return root


def test_instances_have_labels_splits_and_frames(tmp_path: Path) -> None:
    dataset = load_dataset("pku-mmd", made(tmp_path))
    assert len(dataset.samples) == 8
    first = dataset.samples[0]
    assert (first.id, dataset.classes[first.label], first.attributes) == (
        "0002-L@20-40",
        "writing",
        {"recording": 2, "view": 1},
    )
    assert list(dataset.protocols)[:3] == ["xsub", "xview", "smie-7"]
    assert {name[:6] for name in dataset.split("xsub").train} == {"0002-L", "0002-M"}
    assert {name[:6] for name in dataset.split("xview").test} == {"0002-L", "0003-L"}
    found = list(
        SkeletonFiles(PKU_SKELETONS).run([Source(each.id, each.files["skeleton"]) for each in dataset.samples])
    )
    assert {each.status for each in found} == {"ok"}
    keypoints = found[1].arrays["keypoints"]  # 0002-L@3-12
    assert keypoints.shape == (10, 2, 25, 3)
    np.testing.assert_array_equal(keypoints[:3], values(0)[2:5].astype(np.float32))
    assert np.isnan(keypoints[3:, 1]).all()
    assert found[0].source != found[1].source


def test_the_classes_are_those_of_the_descriptions(shared_data: Path) -> None:
    lines = (shared_data / "text" / "smie" / "pku_des.txt").read_text().splitlines()
    assert len(lines) == len(PKU_CLASSES) == 51
    for line, name in zip(lines, PKU_CLASSES, strict=True):
        said = set(line.split('"')[1].lower().replace("/", " ").split())
        assert said & set(name.replace("/", " ").split()), (line, name)


def test_a_changed_frame_is_of_its_instance_only(tmp_path: Path) -> None:
    path = made(tmp_path) / "PKU_Skeleton_Renew" / "0002-L.txt"
    before = [pku_digest(path, f"0002-L@{span}") for span in ("3-12", "20-40")]
    lines = path.read_text().splitlines()
    lines[25] = lines[25].replace("1", "2", 1)
    path.write_text("\n".join(lines) + "\n ")
    after = [pku_digest(path, f"0002-L@{span}") for span in ("3-12", "20-40")]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_damaged_recordings_and_lists_are_refused(tmp_path: Path) -> None:
    root = made(tmp_path)
    path = root / "PKU_Skeleton_Renew" / "0002-L.txt"
    with pytest.raises(CorruptInput, match="has 40 frames, but 0002-L@30-41 ends at frame 41") as raised:
        read_pku_skeleton(path, "0002-L@30-41")
    assert raised.value.status == "truncated"
    with pytest.raises(KeyError):
        read_pku_skeleton(path, "0002-L")
    for text, problem in (
        ("1 2 3\n", "line 1 has 3 numbers"),
        (" ".join(["x"] * 150), "line 1 holds something"),
        ("\xff", "not ASCII"),
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(CorruptInput, match=problem):
            read_pku_skeleton(path, "0002-L@1-1")
    label = root / "Train_Label_PKU_final" / "0002-L.txt"
    for text, problem in (
        ("52,1,2,1", "label from 1 to 51"),
        ("1,5,2,1", "label,start,end"),
        ("1,3,12,2\n2,3,12,2", "have two labels, 1 and 2"),
    ):
        label.write_text(text)
        with pytest.raises(UsageError, match=problem):
            load_dataset("pku-mmd", root)
    label.write_text("1,3,12,2")
    (root / "cross-subject.txt").write_text("0002-L\nTraining:\n")
    with pytest.raises(UsageError, match="before the first header"):
        load_dataset("pku-mmd", root)
    (root / "cross-subject.txt").write_text("Training:\n0002-L\n")
    with pytest.raises(UsageError, match="is no list of training and validation"):
        load_dataset("pku-mmd", root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no labels of pku-mmd found"):
        load_dataset("pku-mmd", tmp_path / "empty")


def test_phase_2_has_recordings_and_lists_of_other_names(tmp_path: Path) -> None:
    root = tmp_path / "v2"
    for folder in ("skeleton", "label"):
        (root / folder).mkdir(parents=True)
    for at, name in enumerate(("A01N01-L", "A01N01-M", "A02N03-R")):
        text = "\n".join(" ".join(f"{value:.4f}" for value in row) for row in values(at).reshape(40, 150))
        (root / "skeleton" / f"{name}.txt").write_text(text)
        (root / "label" / f"{name}.txt").write_text("51,3,12,2\n1,20,40,1\n")
    (root / "cross_subject_v2.txt").write_text("Training:\nA01N01-L, A01N01-M\nValidation:\nA02N03-R")
    dataset = load_dataset("pku-mmd-2", root)
    assert [sample.id for sample in dataset.samples][:2] == ["A01N01-L@20-40", "A01N01-L@3-12"]
    assert dataset.samples[0].attributes == {"recording": "A01N01", "view": 1}
    assert list(dataset.protocols) == ["xsub"]
    assert {name[:8] for name in dataset.split().test} == {"A02N03-R"}
    found = read_pku_skeleton(dataset.samples[1].files["skeleton"], "A01N01-L@3-12")
    np.testing.assert_array_equal(found.keypoints[0, 0], values(0)[2, 0].astype(np.float32))
    with pytest.raises(UsageError, match="no labels of pku-mmd found"):
        load_dataset("pku-mmd", root)


def test_instances_that_are_known_to_be_unusable_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "label").mkdir()
    (tmp_path / "label" / "0089-M.txt").write_text("23,1,9,1\n23,20,30,1\n")
    (tmp_path / "label" / "0089-L.txt").write_text("22,1,9,1\n")
    dataset = load_dataset("pku-mmd", tmp_path)
    assert [sample.id for sample in dataset.samples] == ["0089-L@1-9", "0089-M@20-30"]
    assert "1 instance with unusable skeletons left out" in dataset.notes
