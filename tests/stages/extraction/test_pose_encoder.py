"""Contract of encoder files: what was saved is loaded, public weights are known, other files give one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.made_encoder import write_encoder
from unialign.errors import CorruptInput, UsageError
from unialign.stages.extraction.pose_clips import agcn_3d, clip_grid
from unialign.stages.extraction.pose_encoder import Encoder, encode, load_encoder
from unialign.stages.models.skeleton.stgcnpp import STGCNPlusPlus
from unialign.stages.skeleton_layouts import LAYOUTS


def small_encoder() -> Encoder:
    torch.manual_seed(5)
    config = {"layout": "coco-17", "num_classes": 3, "width": 6}
    network = STGCNPlusPlus(**config)
    network(torch.randn(4, 2, 16, 17, 3), torch.ones(4, 2).bool())  # batch statistics worth keeping
    return Encoder(
        name="stgcn++",
        network=network.eval(),
        config=config,
        layout=LAYOUTS["coco-17"],
        recipe="pyskl-2d",
        clip_len=16,
        width=network.width,
        classes=("a", "b", "c"),
        protocol="made",
        dataset="made",
    )


def test_saved_encoder_comes_back(tmp_path: Path):
    encoder = small_encoder()
    write_encoder(tmp_path / "encoder.pt", encoder)
    loaded = load_encoder(tmp_path / "encoder.pt")
    for field in ("name", "config", "layout", "recipe", "clip_len", "width", "classes", "protocol", "dataset"):
        assert getattr(loaded, field) == getattr(encoder, field), field
    assert not loaded.network.training
    keypoints, present = torch.randn(2, 2, 16, 17, 3), torch.ones(2, 2).bool()
    with torch.no_grad():
        expected, found = encoder.network(keypoints, present), loaded.network(keypoints, present)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize("change", ["model", "layout", "recipe"])
def test_unknown_names_in_a_checkpoint_are_rejected(tmp_path: Path, change: str):
    write_encoder(tmp_path / "encoder.pt", small_encoder(), **{change: "other"})
    with pytest.raises(CorruptInput, match=f"names the {change} 'other'"):
        load_encoder(tmp_path / "encoder.pt")


def test_weights_of_another_size_are_rejected(tmp_path: Path):
    encoder = small_encoder()
    write_encoder(tmp_path / "encoder.pt", encoder, config={**encoder.config, "width": 12})
    with pytest.raises(CorruptInput, match="do not fit"):
        load_encoder(tmp_path / "encoder.pt")


def test_other_files_give_one_sentence(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file"):
        load_encoder(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CorruptInput, match="not a file of plain PyTorch weights"):
        load_encoder(tmp_path / "text.pt")
    torch.save(small_encoder().network, tmp_path / "code.pt")
    with pytest.raises(CorruptInput, match="not a file of plain PyTorch weights"):
        load_encoder(tmp_path / "code.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(CorruptInput, match="holds a Tensor"):
        load_encoder(tmp_path / "tensor.pt")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CorruptInput, match="lacks model, config"):
        load_encoder(tmp_path / "other.pt")


def to_ntu(kinect1: np.ndarray) -> np.ndarray:
    """Kinect v1 joints (T, 20, 3) of UTD-MHAD as NTU's 25, roughly: tips and thumbs lie on the hand."""
    head, shoulders, base = kinect1[:, 0], kinect1[:, 1], kinect1[:, 3]
    middle = (base + shoulders) / 2
    spine = [base, middle, shoulders + 0.4 * (head - shoulders), head]
    hands = [kinect1[:, joint] for joint in (7, 7, 11, 11)]
    limbs = [kinect1[:, joint] for joint in range(4, 20)]
    return np.stack([*spine, *limbs, 0.85 * shoulders + 0.15 * middle, *hands], axis=1)


def test_public_shift_gcn_understands_another_camera(shared_data: Path):
    """UTD-MHAD was made with Kinect v1 by other people, and yet actions that NTU has too come out on top."""
    loadmat = pytest.importorskip("scipy.io").loadmat
    encoder = load_encoder(shared_data / "weights" / "shift_gcn" / "ntu_ShiftGCN_joint_xsub.pt")
    assert (encoder.name, encoder.layout.name, encoder.recipe) == ("shift-gcn", "ntu-25", "agcn-3d")
    assert encoder.dataset == "ntu60"
    names = (shared_data / "text" / "label_maps_pyskl" / "nturgbd_120.txt").read_text().splitlines()
    same = {3: "hand waving", 5: "throw", 24: "standing up (from sitting position)", 25: "sitting down"}
    (view,) = clip_grid(1, False)
    clips = []
    for action in same:
        path = shared_data / "skeletons" / "utd_mhad" / f"a{action}_s1_t1_skeleton.mat"
        poses = to_ntu(loadmat(path)["d_skel"].transpose(2, 0, 1))
        clips.append(agcn_3d(poses[:, None], encoder.layout, view, encoder.shape(), None))
    features = encode(encoder, clips, batch_size=len(clips))["feature"]
    with torch.no_grad():
        logits = encoder.network.get_submodule("fc")(torch.from_numpy(features))
    assert [names[index] for index in logits.argmax(dim=1)] == list(same.values())
