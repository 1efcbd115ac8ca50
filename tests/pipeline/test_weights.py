"""Contract of `unialign weights`: what each file is, what takes it, whether it loads; a bad one ends nothing."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from tests import made_published
from tests.made_encoder import write_encoder
from tests.stages.extraction.test_pose_encoder import small_encoder
from unialign.cli import app
from unialign.errors import UsageError
from unialign.pipeline.weights import found_weights
from unialign.stages.models.backbones.registry import build_backbone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("weights")
    made_published.checkpoint(made / "stgcnpp_ntu60_xsub_hrnet" / "b.pth", "stgcn++")
    made_published.checkpoint(made / "renamed.pth", "ctrgcn", joints=25)
    write_encoder(made / "encoder.pt", small_encoder())
    state = build_backbone("tsm-tiny", num_frames=4, image_size=32).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, made / "tsm.safetensors")
    torch.save({"a": torch.zeros(2)}, made / "other.pt")
    (made / "text.pt").write_text("hello")
    with zipfile.ZipFile(made / "yolo.pt", "w") as archive:
        archive.writestr("yolo/data.pkl", b"\x80\x02cultralytics.nn.tasks\nPoseModel\n.")
    (made / "notes.txt").write_text("no weights")
    (made / "gone.pt").symlink_to(made / "nothing")
    # A cache and a training run beside them.
    for path in ("cache/clips/poses/yolo-0.zarr/records/index.bin", "runs/a/checkpoints/last.pt"):
        (made / path).parent.mkdir(parents=True)
        (made / path).write_text("neither")
    (made / "runs/a/config.yaml").write_text("model: art\n")
    return made


def test_each_file_is_what_it_is(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = {each.path: each for each in found_weights(folder, lambda done, total: seen.append((done, total)))}
    assert {name: (each.what, each.loads) for name, each in found.items()} == {
        "encoder.pt": ("skeleton encoder stgcn++", True),
        "other.pt": ("unknown", False),
        "renamed.pth": ("skeleton encoder", False),
        "stgcnpp_ntu60_xsub_hrnet/b.pth": ("skeleton encoder stgcn++", True),
        "text.pt": ("unknown", False),
        "tsm.safetensors": ("video or image network", True),
        "yolo.pt": ("Ultralytics network", None),
    }
    assert found["stgcnpp_ntu60_xsub_hrnet/b.pth"].note == "coco-17, pyskl-2d-bone, 100 frames, trained on ntu60 xsub"
    assert "--stream" in found["renamed.pth"].note
    assert found["tsm.safetensors"].uses == ("train --backbone-weights (tsm-tiny, tsm-tiny-difference)",)
    assert "0 entries" not in found["tsm.safetensors"].note
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] == sum(each.size for each in found.values())


def test_the_command_lists_them_for_machines_and_for_people(folder: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["weights", "--folder", str(folder), "--json"])
    assert shown.exit_code == 0, shown.output
    files = json.loads(shown.stdout.splitlines()[-1])["files"]
    assert [each["path"] for each in files] == sorted(each["path"] for each in files)
    assert all(len(each["digest"]) == 64 for each in files)
    assert "which folder" in str(CliRunner().invoke(app, ["weights"]).exception)
    with pytest.raises(UsageError, match="holds no weight files"):
        found_weights(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        found_weights(folder / "text.pt")


def test_the_files_at_hand_are_known(shared_data: Path) -> None:
    known = {each.path: (each.known, each.loads) for each in found_weights(shared_data / "weights" / "shift_gcn")}
    assert known["ntu_ShiftGCN_joint_xsub.pt"] == ("Shift-GCN, NTU 60 xsub, joints", True)
