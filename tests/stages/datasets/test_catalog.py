"""Datasets by name, and the demonstration set."""

import pickle
from pathlib import Path

import pytest

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.catalog import DATASETS, load_dataset


def demo_root(
    tmp_path: Path, classes: str = "label,name,description\n0,wave,one arm up\n1,bow,\n0,wave,a greeting\n"
) -> Path:
    for name in ("S001C001P001R001A001", "S001C002P002R001A002"):
        for path in (tmp_path / "rgb" / f"{name}_rgb.mp4", tmp_path / "skeletons" / f"{name}.skeleton"):
            path.parent.mkdir(exist_ok=True)
            path.touch()
    (tmp_path / "classes.csv").write_text(classes)
    return tmp_path


def test_the_demonstration_set_is_read(tmp_path: Path) -> None:
    dataset = load_dataset("demo", demo_root(tmp_path))
    assert dataset.classes == ("wave", "bow")
    assert dataset.descriptions == (("one arm up", "a greeting"), ())
    assert [sorted(sample.files) for sample in dataset.samples] == [["skeleton", "video"]] * 2
    assert list(dataset.protocols) == ["xsub", "xview"]
    assert dataset.split("xsub").train == ("S001C001P001R001A001",)
    assert dataset.split("xview").train == ("S001C002P002R001A002",)


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        ("", "first line must be"),
        ("label,name\n0,wave\n", "first line must be"),
        ("label,name,description\n0,wave,x\n", "no row with label 1"),
        ("label,name,description\n0,wave,x\n2,bow,x\n", "without gaps"),
        ("label,name,description\n0,wave,x\n0,bow,x\n", "line 3 gives label 0 a second name"),
        ("label,name,description\n0,wave,x\n1,wave,x\n", "same name"),
        ("label,name,description\n0,wave,x\none,bow,x\n", "line 3"),
        ("label,name,description\n", "without gaps"),
    ],
)
def test_broken_classes_are_refused(tmp_path: Path, classes: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        load_dataset("demo", demo_root(tmp_path, classes))


def test_a_demonstration_set_needs_its_parts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"classes\.csv: missing"):
        load_dataset("demo", tmp_path)
    (tmp_path / "classes.csv").write_text("label,name,description\n0,wave,x\n")
    with pytest.raises(UsageError, match="no clips"):
        load_dataset("demo", tmp_path)


def test_an_unknown_dataset_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"known are {', '.join(DATASETS)}"):
        load_dataset("ntu6", tmp_path)


@pytest.mark.parametrize("name", list(DATASETS))
def test_a_missing_root_tells_where_to_give_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"--root, UNIALIGN_DATA or `data:` in unialign.yaml"):
        load_dataset(name, tmp_path / "absent")


@pytest.mark.parametrize("name", ["ntu60", "ntu120", "folder", "demo"])
def test_an_empty_root_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=str(tmp_path)):
        load_dataset(name, tmp_path)


def test_labels_only_go_where_they_are_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="brings its own labels"):
        load_dataset("ntu60", tmp_path, tmp_path / "labels.csv")
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4,wave\n")
    assert load_dataset("folder", tmp_path, tmp_path / "list.txt").classes == ("wave",)


def test_an_unsafe_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(pickle.Pickler))
    with pytest.raises(CorruptInput, match="could run code"):
        load_dataset("pyskl", path)
