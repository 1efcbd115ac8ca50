"""Contract of published encoders: released files load, compute what their own code does, and say what they read."""

from pathlib import Path
from random import Random

import pytest
import torch

from tests import made_published
from tests.made_encoder import write_encoder
from tests.stages.extraction.test_pose_encoder import small_encoder
from unialign.errors import CorruptInput, UnialignError, UsageError
from unialign.stages.extraction.pose_encoder import load_encoder
from unialign.stages.extraction.published_encoders import Reading

# The first logits that PYSKL's own code (commit 3f6795f) gives for the same weights and clips, in float32 on a CPU.
GRAPH_LOGITS: dict[tuple[str, int], list[float]] = {
    ("stgcn++", 17): [-0.075171, 0.064642, 0.027487, 0.20152],
    ("stgcn++", 25): [0.081157, -0.279716, 0.008819, -0.05536],
    ("stgcn", 17): [0.143285, 0.142169, 0.265448, -0.000946],
    ("stgcn", 25): [0.147245, 0.012097, -0.072606, -0.123163],
    ("aagcn", 17): [-0.09089, 0.521198, 0.033758, -0.102588],
    ("aagcn", 25): [-0.186389, 0.101688, -0.033986, 0.055195],
    ("ctrgcn", 17): [-0.156035, 0.081465, 0.032938, 0.299459],
    ("ctrgcn", 25): [0.260382, -0.117074, 0.247408, -0.050433],
}
HEATMAP_LOGITS: dict[str, list[float]] = {
    "joint": [0.454303, 0.598281, 0.688849, 0.042408],
    "limb": [0.473852, 0.613345, 0.715424, 0.048453],
}
# The same of a copy of EfficientGCN's code (1suancaiyu/EfficientGCNv1, commit 6c0a13e).
EFFICIENT_LOGITS: dict[str, list[float]] = {
    "B0": [0.183946, -0.110633, -0.193967, -0.092427],
    "B2": [-0.550649, 0.162913, -0.379936, -0.029183],
}


def clip(joints: int) -> torch.Tensor:
    """One clip of 40 frames of two persons, the second of whom is absent."""
    generator = torch.Generator().manual_seed(6)
    made = torch.randn(1, 2, 40, joints, 3, generator=generator)
    made[:, 1] = 0
    return made


def heatmap_clip() -> torch.Tensor:
    """One clip of 6 frames of two persons, pixels of a heatmap: some outside, some limbs short, some joints unseen."""
    generator = torch.Generator().manual_seed(7)
    made = torch.rand(1, 2, 6, 17, 3, generator=generator)
    made[..., :2] = made[..., :2] * 74 - 5
    made[:, 0, :, 7] = made[:, 0, :, 5] + torch.tensor([0.3, 0.2, 0.0])
    made[:, 1, 2:4, :, 2] = 0
    return made


@pytest.mark.parametrize(("kind", "joints"), list(GRAPH_LOGITS))
def test_graph_networks_compute_what_they_compute_in_pyskl(tmp_path: Path, kind: str, joints: int):
    encoder = load_encoder(made_published.checkpoint(tmp_path / "ntu60_xsub" / "j.pth", kind, joints=joints))
    with torch.no_grad():
        found = encoder.network(clip(joints), torch.tensor([[True, False]]))
    expected = torch.tensor(GRAPH_LOGITS[kind, joints])
    torch.testing.assert_close(found["logits"][0, :4], expected, atol=1e-5, rtol=1e-5)
    assert found["tokens"].shape == (1, encoder.num_tokens(40), encoder.width)
    assert (encoder.layout.name, encoder.recipe) == {17: ("coco-17", "pyskl-2d"), 25: ("ntu-25", "pyskl-3d")}[joints]


@pytest.mark.parametrize("stream", list(HEATMAP_LOGITS))
def test_posec3d_computes_what_it_computes_in_pyskl(tmp_path: Path, stream: str):
    encoder = load_encoder(made_published.checkpoint(tmp_path / "slowonly_r50_gym" / f"{stream}.pth", "posec3d"))
    with torch.no_grad():
        found = encoder.network(heatmap_clip(), torch.tensor([[True, True]]))
    expected = torch.tensor(HEATMAP_LOGITS[stream])
    torch.testing.assert_close(found["logits"][0, :4], expected, atol=1e-5, rtol=1e-5)
    assert found["tokens"].shape == (1, encoder.num_tokens(6), 512)
    assert (encoder.recipe, encoder.clip_len, encoder.dataset) == ("heatmap-64", 48, "gym99")


@pytest.mark.parametrize("size", list(EFFICIENT_LOGITS))
def test_efficientgcn_computes_what_it_computes_in_public_code(tmp_path: Path, size: str):
    path = made_published.efficient_checkpoint(tmp_path / f"2001_EfficientGCN-{size}_ntu-xset120.pth.tar", size)
    encoder = load_encoder(path)
    keypoints = torch.randn(1, 2, 21, 25, 18, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        found = encoder.network(keypoints, torch.tensor([[True, False]]))
    expected = torch.tensor(EFFICIENT_LOGITS[size])
    torch.testing.assert_close(found["logits"][0, :4], expected, atol=1e-5, rtol=1e-5)
    assert found["tokens"].shape == (1, encoder.num_tokens(21), encoder.width)
    assert (encoder.layout.name, encoder.recipe, encoder.clip_len) == ("ntu-25", "efficientgcn-3d", 288)
    assert (encoder.dataset, encoder.protocol) == ("ntu120", "xset")
    assert encoder.reading
    assert load_encoder(path, encoder.reading).reading == encoder.reading, "as a worker loads it"
    with pytest.raises(UsageError, match="'bone' is not one of efficientgcn's"):
        load_encoder(path, Reading(stream="bone"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"main_stream.block-1_tcn-0.depth_conv2.1.weight": None}, "do not fit.*trunk.1.times.0.after.1.weight"),
        ({"main_stream.block-1_scn.scale": torch.ones(3)}, "do not fit.*trunk.1.space.scale"),
        ({"input_branches.2.init_bn.weight": torch.ones(3)}, "do not fit.*branches.2.norm.weight"),
        ({"classifier.fc.weight": None}, "not whole"),
    ],
)
def test_half_of_an_efficientgcn_is_refused(tmp_path: Path, change: dict[str, torch.Tensor | None], message: str):
    state = {**made_published.efficient_state("B0"), **change}
    path = tmp_path / "2001_EfficientGCN-B0_ntu-xsub.pth.tar"
    torch.save({"model": {name: value for name, value in state.items() if value is not None}}, path)
    with pytest.raises(CorruptInput, match=message):
        load_encoder(path)


@pytest.mark.parametrize(
    ("name", "kind", "joints", "reading", "trained_on"),
    [
        ("stgcnpp_ntu60_xsub_hrnet/jm", "stgcn++", 17, ("pyskl-2d-joint-motion", 100), ("ntu60", "xsub")),
        ("stgcnpp_ntu120_xset_3dkp/bm", "stgcn++", 25, ("pyskl-3d-bone-motion", 100), ("ntu120", "xset")),
        ("stgcn_vanilla_ntu60_xview_3dkp/b", "stgcn", 25, ("pyskl-3d-padded-bone", 300), ("ntu60", "xview")),
        ("slowonly_r50_ucf101_k400p/s1_joint", "posec3d", 17, ("heatmap-56", 48), ("ucf101", "")),
        ("mine/stgcnpp_8xb16-bone-motion-u100-80e_ntu60-xsub-keypoint-2d_20221228-cd11a691", "stgcn++", 17,
         ("pyskl-2d-bone-motion", 100), ("ntu60", "xsub")),
    ],
)  # fmt: skip
def test_a_path_says_what_the_file_reads(
    tmp_path: Path, name: str, kind: str, joints: int, reading: tuple[str, int], trained_on: tuple[str, str]
):
    encoder = load_encoder(made_published.checkpoint(tmp_path / f"{name}.pth", kind, joints=joints))
    assert (encoder.recipe, encoder.clip_len) == reading
    assert (encoder.dataset, encoder.protocol) == trained_on


def test_flags_say_it_where_the_path_does_not(tmp_path: Path):
    path = made_published.checkpoint(tmp_path / "downloaded.pth", "ctrgcn", joints=25)
    with pytest.raises(UsageError, match=r"does not say which stream.*--stream"):
        load_encoder(path)
    encoder = load_encoder(path, Reading(stream="bone", clip_len=64))
    assert (encoder.recipe, encoder.clip_len) == ("pyskl-3d-bone", 64)
    assert encoder.reading
    assert load_encoder(path, encoder.reading).reading == encoder.reading, "as a worker loads it"
    assert load_encoder(path, Reading(stream="joint", recipe="agcn-3d")).recipe == "agcn-3d"
    for wrong, message in (
        (Reading(stream="limb"), "'limb' is not one of ctr-gcn's"),
        (Reading(stream="bone", recipe="agcn-3d"), "does not fit the stream bone"),
        (Reading(stream="joint", recipe="pyskl-2d"), "one of pyskl-3d"),
        (Reading(stream="joint", layout="coco-17"), "25 joints, but the layout coco-17 has 17"),
        (Reading(stream="joint", layout="octopus"), "'octopus' is unknown"),
    ):
        with pytest.raises(UsageError, match=message):
            load_encoder(path, wrong)


def test_our_own_encoder_says_itself_how_its_clips_are_made(tmp_path: Path):
    write_encoder(tmp_path / "encoder.pt", small_encoder())
    with pytest.raises(UsageError, match="says itself"):
        load_encoder(tmp_path / "encoder.pt", Reading(stream="bone"))
    assert load_encoder(tmp_path / "encoder.pt", Reading(clip_len=32)).clip_len == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.gcn.3.tcn.bn.weight": None}, "do not fit.*blocks.3.time.norm.weight"),
        ({"backbone.gcn.3.tcn.bn.scale": torch.ones(3)}, "do not fit.*blocks.3.time.norm.scale"),
        ({"cls_head.fc_cls.weight": None}, "not whole"),
        ({"backbone.gcn.2.gcn.conv.weight": torch.ones(3)}, "do not fit.*blocks.2.space.project.weight"),
    ],
)
def test_half_matches_are_refused(tmp_path: Path, change: dict[str, torch.Tensor | None], message: str):
    state = {**made_published.state("stgcn++"), **change}
    torch.save({"state_dict": {name: value for name, value in state.items() if value is not None}}, tmp_path / "j.pth")
    with pytest.raises(CorruptInput, match=message):
        load_encoder(tmp_path / "j.pth")


def test_weights_that_repeat_one_number_are_refused(tmp_path: Path):
    """As a classifier of a billion classes they would take a terabyte."""
    state = made_published.state("stgcn++")
    state["cls_head.fc_cls.weight"] = torch.zeros(1, 1).expand(10**9, 256)
    torch.save({"state_dict": state}, tmp_path / "j.pth")
    with pytest.raises(CorruptInput, match="larger than what is stored"):
        load_encoder(tmp_path / "j.pth")


@pytest.mark.parametrize("seed", range(12))
def test_changed_files_give_one_sentence(tmp_path: Path, seed: int):
    """Names and shapes that no network has; each ends in an error that names the file, or in a whole network."""
    random = Random(seed)
    state = made_published.state(random.choice(["stgcn++", "ctrgcn", "posec3d", "efficientgcn"]))
    for _ in range(random.randint(1, 3)):
        name = random.choice(sorted(state))
        value = state.pop(name)
        kept, shaped = random.choice([
            (name, value.reshape(-1)),
            (name, torch.zeros(())),
            (name.replace(".0.", ".x.", 1), value),
            (f"backbone.blocks.x.{name}", value),
            (name, torch.zeros(0, 3)),
            (random.choice(sorted(state)), value),
        ])  # fmt: skip
        state[kept] = shaped
    torch.save({"state_dict": state}, tmp_path / "joint.pth")
    said = ""
    try:
        load_encoder(tmp_path / "joint.pth")
    except UnialignError as error:
        said = str(error)
    assert not said or said.startswith(str(tmp_path / "joint.pth"))


def test_other_networks_of_pyskl_are_refused_by_name(tmp_path: Path):
    torch.save({"state_dict": {"backbone.gcn.0.gcn.pre.0.weight": torch.ones(1)}}, tmp_path / "j.pth")
    with pytest.raises(CorruptInput, match=r"does not have; it loads ST-GCN\+\+"):
        load_encoder(tmp_path / "j.pth")


def test_the_genuine_gesture_network_loads(shared_data: Path):
    """PYSKL's demo: six blocks, hands of 21 joints without a score, one hand to a clip."""
    path = shared_data / "weights" / "pyskl" / "stgcnpp_hagrid.pth"
    encoder = load_encoder(path)
    assert (encoder.layout.name, encoder.recipe, encoder.clip_len) == ("hand-21", "pyskl-boxed", 10)
    with torch.no_grad():
        found = encoder.network(torch.zeros(2, 1, 10, 21, 2), torch.ones(2, 1).bool())
    assert found["logits"].shape == (2, 40)
    assert found["tokens"].shape == (2, encoder.num_tokens(), 128)
    assert torch.isfinite(found["logits"]).all()
