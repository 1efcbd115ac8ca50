"""docs/tutorials/: the files and commands of every page, in smaller sizes where a page would take long."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.pages import ROOT, run_page
from unialign.stages.demo.render import list_clips, skeleton_path
from unialign.stages.demo.scene import stage_take, track_take
from unialign.stages.demo.skeleton_file import format_skeleton
from unialign.stages.video import encode_clip

pytestmark = pytest.mark.usefixtures("fork_server")


def test_every_tutorial_is_run_by_a_test() -> None:
    run = Path(__file__).read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs" / "tutorials").glob("*.md")} - {"index.md"}
    assert {name for name in pages if f'"tutorials/{name}"' not in run} == set()


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory: pytest.TempPathFactory, fork_server: None) -> Path:
    """The folder in which the page on own skeletons was followed; other pages go on in it."""
    folder = tmp_path_factory.mktemp("skeletons")
    said = run_page("tutorials/own-skeletons.md", folder)
    assert "coco-17" in said[1]
    assert (folder / "wave.png").read_bytes().startswith(b"\x89PNG")
    return folder


def test_zero_shot_then_an_ablation(skeletons: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(skeletons, tmp_path / "work")
    run_page("tutorials/zero-shot.md", folder)
    run_page("tutorials/ablation.md", folder)
    (table,) = folder.glob("runs/**/ablation.tex")
    assert "with descriptions" in table.read_text(encoding="utf-8")


def test_a_cluster_then_migrating(skeletons: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(skeletons, tmp_path / "work")
    _, _, again, _, _ = run_page("tutorials/cluster.md", folder)
    assert "0 extracted, 120 reused" in again
    *_, baseline = run_page("tutorials/migrating.md", folder)
    assert "1-nn" in baseline


def test_own_videos(tmp_path: Path) -> None:
    for shade, name in enumerate(("wave", "jump")):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number in range(6):
            picture = np.full((16, 48, 64, 3), 60 + 90 * shade + number, dtype=np.uint8)
            encode_clip(tmp_path / "clips" / name / f"{number}.mp4", picture, fps=12)
    run_page(
        "tutorials/own-videos.md",
        tmp_path,
        {
            "unialign init clips --weights yolo11n-pose.pt": "unialign init clips",
            "unialign run": "unialign run train.unialign.modalities=[video] --epochs 2",
        },
    )
    assert list(tmp_path.glob("runs/*/report.html"))


def test_ntu60_on_skeletons_of_the_same_format(tmp_path: Path) -> None:
    """The rendered collection has the names and files of NTU RGB+D; its third performer is a tested one there."""
    (tmp_path / "ntu" / "skeletons").mkdir(parents=True)
    for key in list_clips(performers=3, cameras=1, replications=1):
        skeleton_path(tmp_path / "ntu", key).write_bytes(
            format_skeleton(*track_take(stage_take(key, 0)), key.performer)
        )
    train = "unialign train --model stgcn++ --dataset ntu60 --root ntu --protocol xsub"
    said = run_page("tutorials/ntu60.md", tmp_path, {train: f"{train} --epochs 1 train.encoder.width=8"})
    assert "16,487" in said[0]
    assert "stgcn++" in said[-1]
