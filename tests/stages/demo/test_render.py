import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from unialign.errors import UsageError
from unialign.stages.datasets.demo import load_demo
from unialign.stages.datasets.kinect_files import read_skeleton
from unialign.stages.demo.motions import CLASSES, DESCRIPTIONS
from unialign.stages.demo.render import (
    list_clips,
    render_collection,
    skeleton_path,
    video_path,
)
from unialign.stages.demo.scene import SIZE, stage_take, track_take
from unialign.stages.video import decode_frames


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    render_collection(root, performers=1, cameras=1, workers=1)
    return root


def test_file_names_follow_the_ntu_grammar(rendered):
    videos = sorted(path.name for path in (rendered / "rgb").iterdir())
    skeletons = sorted(path.name for path in (rendered / "skeletons").iterdir())
    assert len(videos) == len(skeletons) == len(CLASSES)
    assert all(re.fullmatch(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}_rgb\.mp4", name) for name in videos)
    assert [name.removesuffix("_rgb.mp4") for name in videos] == [Path(name).stem for name in skeletons]


def test_skeleton_file_has_the_ntu_structure(rendered):
    lines = (rendered / "skeletons" / "S001C001P001R001A003.skeleton").read_text().splitlines()
    num_frames = int(lines.pop(0))
    assert len(lines) == num_frames * (1 + 1 + 1 + 25)
    for frame in range(num_frames):
        block = lines[frame * 28 : (frame + 1) * 28]
        assert block[0] == "1"
        assert len(block[1].split()) == 10
        assert int(block[1].split()[0]) > 2**53  # would not survive a float
        assert block[2] == "25"
        assert all(len(line.split()) == 12 and line.split()[-1] == "2" for line in block[3:])


def test_skeleton_file_holds_the_tracked_joints(rendered):
    key = list_clips(1, 1, 1)[4]
    joints, pixels = track_take(stage_take(key, seed=0))
    clip = read_skeleton(skeleton_path(rendered, key))
    assert clip.keypoints.shape == (len(joints), 1, 25, 3)
    np.testing.assert_allclose(clip.keypoints[:, 0], joints, atol=1e-6)
    np.testing.assert_allclose(clip.pixels[:, 0], pixels, atol=1e-3)


def test_video_and_skeleton_have_the_same_frames(rendered):
    for key in list_clips(1, 1, 1)[:3]:
        frames = np.stack(list(decode_frames(video_path(rendered, key))))
        assert frames.shape == (read_skeleton(skeleton_path(rendered, key)).num_frames, *SIZE, 3)
        assert frames.std() > 20


def test_class_list_has_names_and_descriptions(rendered):
    with (rendered / "classes.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["label", "name", "description"]
    assert [(int(label), name, text) for label, name, text in rows[1:]] == [
        (label, name, DESCRIPTIONS[label]) for label, name in enumerate(CLASSES)
    ]


def test_dataset_adapter_reads_the_collection(rendered):
    dataset = load_demo(rendered)
    assert dataset.classes == CLASSES
    assert [sample.id for sample in dataset.samples] == [key.name for key in list_clips(1, 1, 1)]
    assert [sample.label for sample in dataset.samples] == list(range(len(CLASSES)))
    assert all(set(sample.files) == {"video", "skeleton"} for sample in dataset.samples)
    assert len(dataset.split("xsub").train) == len(CLASSES)


def test_number_of_workers_does_not_change_a_byte(rendered, tmp_path):
    render_collection(tmp_path, performers=1, cameras=1, workers=2)
    assert digests(tmp_path) == digests(rendered)


def test_second_call_renders_only_what_is_missing(rendered):
    before = digests(rendered)
    keys = list_clips(1, 1, 1)
    skeleton_path(rendered, keys[2]).unlink()
    video_path(rendered, keys[5]).unlink()
    kept = {
        path: path.stat().st_mtime_ns for path in (rendered / "rgb").iterdir() if path != video_path(rendered, keys[2])
    }
    calls: list[tuple[int, int]] = []
    render_collection(rendered, performers=1, cameras=1, workers=1, progress=lambda *counts: calls.append(counts))
    assert calls == [(13, 15), (14, 15), (15, 15)]
    assert digests(rendered) == before
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_folder_of_another_seed_is_rejected(rendered):
    before = digests(rendered)
    with pytest.raises(UsageError, match="another seed"):
        render_collection(rendered, seed=1, performers=1, cameras=1)
    assert digests(rendered) == before


@pytest.mark.parametrize(
    "wrong", [{"performers": 0}, {"cameras": 4}, {"replications": 1000}, {"workers": 0}, {"seed": -1}]
)
def test_impossible_counts_are_rejected(wrong, tmp_path):
    with pytest.raises(UsageError, match="not"):
        render_collection(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_clips_are_sorted_and_distinct():
    keys = list_clips(10, 2, 1)
    names = [key.name for key in keys]
    assert names == sorted(names)
    assert len(set(names)) == 10 * 2 * len(CLASSES)
