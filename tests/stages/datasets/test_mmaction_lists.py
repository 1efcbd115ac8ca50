"""Lists of mmaction2: a path, a blank and a class number on each line."""

from pathlib import Path

import pytest

from unialign.errors import UsageError
from unialign.stages.datasets.catalog import load_dataset


def listed(root: Path, *lines: str) -> Path:
    path = root / "train_list_videos.txt"
    path.write_text("\n".join(lines) + "\n")
    for line in lines:
        clip = root / line.rpartition(" ")[0]
        clip.parent.mkdir(parents=True, exist_ok=True)
        clip.touch()
    return path


def test_paths_may_hold_blanks_and_numbers_are_labels(tmp_path: Path) -> None:
    labels = listed(tmp_path, "some class/a b.mp4 10", "v/x.avi 2", "v/z.webm 0")
    dataset = load_dataset("folder", tmp_path, labels)
    assert dataset.classes == ("0", "2", "10")
    assert {sample.id: sample.label for sample in dataset.samples} == {
        "some class/a b": 2,
        "v/x": 1,
        "v/z": 0,
    }


@pytest.mark.parametrize("line", ["v/y.mp4", "v/y.mp4 wave", "v/y.mp4 12 3.5", "v/y.mp4,wave", "v/y, z.mp4 1"])
def test_a_line_of_another_form_is_refused(tmp_path: Path, line: str) -> None:
    labels = listed(tmp_path, "v/x.mp4 1", line)
    with pytest.raises(UsageError, match="line 2 is not `path number` like line 1"):
        load_dataset("folder", tmp_path, labels)


def test_folders_of_images_have_their_number_before_the_label(tmp_path: Path) -> None:
    labels = tmp_path / "train_list_rawframes.txt"
    labels.write_text("frames/v.1/x 30 1\nframes/y 8 0\nframes/gone 8 0\n")
    for folder in ("frames/v.1/x", "frames/y"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "img_00001.jpg").touch()
    dataset = load_dataset("folder", tmp_path, labels)
    assert {sample.id: sample.label for sample in dataset.samples} == {
        "frames/v.1/x": 1,
        "frames/y": 0,
        "frames/gone": 0,
    }
    assert [sample.id for sample in dataset.samples if not sample.files] == ["frames/gone"]
    labels.write_text("frames/x 30 1\nv/y.mp4 1\n")
    with pytest.raises(UsageError, match="line 2 is not `path number` like line 1"):
        load_dataset("folder", tmp_path, labels)
