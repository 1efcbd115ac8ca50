"""Transformers over tubes: published files load under their names and compute what they compute there."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unialign.errors import UsageError
from unialign.stages.models.backbones.registry import BACKBONES, build_backbone, check_pretrained, load_pretrained
from unialign.stages.models.backbones.tube_transformer import POSITIONS, TubeTransformer, tube_transformer

WIDTH, DEPTH, HEADS, T = 48, 2, 2, 4
# The first values of the grid (of the clip's feature for "sines") that public code gives for `_made(positions)` and
# `_video()`: facebookresearch/vjepa2 for "rotary"; the same with the rotation and the scaling of its V-JEPA 2.1 for
# "scaled"; OpenGVLab/VideoMAEv2 for "sines".
PUBLISHED: dict[str, list[float]] = {
    "rotary": [-0.162546, -0.366591, -0.103621, 0.104003],
    "scaled": [-0.161432, -0.366556, -0.103997, 0.104013],
    "sines": [-0.718011, -0.183841, 0.107347, -0.02521],
}


def _backbone(positions: str) -> TubeTransformer:
    return TubeTransformer(
        width=WIDTH, depth=DEPTH, heads=HEADS, hidden=96, patch=16, num_frames=T, positions=positions
    )


def _video() -> Tensor:
    return torch.randn(2, T, 3, 48, 32, generator=torch.Generator().manual_seed(1))


def _made(positions: str) -> dict[str, Tensor]:
    """Weights that are the same on every machine, under this package's names."""
    generator = torch.Generator().manual_seed(2)
    shapes = {name: value.shape for name, value in sorted(_backbone(positions).state_dict().items())}
    made = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    if positions == "sines":  # keys have no bias there
        for name in made:
            if name.endswith("qkv.bias"):
                made[name][WIDTH : 2 * WIDTH] = 0
    return made


def _released(positions: str) -> dict[str, Any]:
    """The same as a file of its authors has them."""
    made = _made(positions)
    if positions == "sines":
        for name in [name for name in made if name.endswith("qkv.bias")]:
            queries, _, values = made.pop(name).chunk(3)
            made |= {name.replace("qkv.bias", "q_bias"): queries, name.replace("qkv.bias", "v_bias"): values}
        named = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: made[name] for name in made}
        return {"module": named | {"head.weight": torch.zeros(5, WIDTH), "head.bias": torch.zeros(5)}}
    if positions == "scaled":
        modality = torch.full((1, 1, WIDTH), 0.25)
        made = {f"norms_block.3.{name[5:]}" if name.startswith("norm.") else name: made[name] for name in made}
        made["patch_embed.proj.bias"] = made["patch_embed.proj.bias"] - 0.25
        made |= {"video_mod_embed": modality, "img_mod_embed": modality, "norms_block.0.bias": torch.ones(WIDTH)}
    named = {f"module.backbone.{name}": value for name, value in made.items()}
    return {"epoch": 3, "encoder": {}, "target_encoder": named, "predictor": {}}


@pytest.mark.parametrize("positions", POSITIONS)
def test_published_weights_compute_what_they_compute_there(positions: str) -> None:
    backbone = _backbone(positions).eval()
    report = load_pretrained(backbone, _released(positions))
    assert report.kept_random == ()
    assert (
        set(report.dropped)
        == {
            "sines": {"head.weight", "head.bias"},
            "rotary": set(),
            "scaled": {"img_mod_embed", "norms_block.0.bias"},
        }[positions]
    )
    with torch.no_grad():
        outputs = backbone(_video())
    assert outputs["grid"].shape == (2, T // 2, 3, 2, WIDTH)
    assert outputs["tokens"].shape == (2, T // 2, WIDTH)
    found = outputs["pooled"] if positions == "sines" else outputs["grid"].flatten(1, 3)[:, 5]
    torch.testing.assert_close(found[1, :4], torch.tensor(PUBLISHED[positions]), atol=1e-5, rtol=1e-5)


def test_names_of_transformers_are_understood() -> None:
    made, named = _made("rotary"), {}
    for name, value in made.items():
        name = name.replace("patch_embed.", "encoder.embeddings.patch_embeddings.")
        name = name.replace("blocks.", "encoder.layer.").replace(".attn.proj.", ".attention.proj.")
        name = f"encoder.layernorm.{name[5:]}" if name.startswith("norm.") else name
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                named[name.replace(".attn.qkv.", f".attention.{part}.")] = third
        else:
            named[name] = value
    backbone = _backbone("rotary")
    report = load_pretrained(backbone, named | {"predictor.layernorm.bias": torch.zeros(4)})
    assert report.dropped == ("predictor.layernorm.bias",)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, made[name]), name


def test_own_weights_come_back_and_half_matches_are_refused() -> None:
    first = _backbone("rotary")
    second = _backbone("rotary")
    load_pretrained(second, {f"backbone.{name}": value for name, value in first.state_dict().items()})
    for name, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]), name
    released = _released("sines")
    del released["module"]["blocks.1.attn.v_bias"]
    with pytest.raises(
        UsageError, match=r"1 missing \(blocks.1.attn.qkv.bias\); 1 unexpected \(blocks.1.attn.q_bias\)"
    ):
        load_pretrained(_backbone("sines"), released)


def test_values_of_no_network_end_in_a_sentence() -> None:
    for change in (
        {"norms_block.x.weight": torch.zeros(1)},
        {"blocks.0.attn.q_bias": torch.zeros(()), "blocks.0.attn.v_bias": torch.zeros(3, 3)},
        {"norm.weight": 3},
    ):
        with pytest.raises(UsageError, match="do not fit the backbone"):
            load_pretrained(_backbone("sines"), _released("sines")["module"] | change)


@pytest.mark.parametrize("positions", POSITIONS)
def test_places_matter_and_every_parameter_learns(positions: str) -> None:
    backbone = _backbone(positions)
    backbone.load_state_dict(_made(positions))
    frames = _video()
    outputs = backbone(frames)
    (outputs["pooled"] * torch.randn(WIDTH)).sum().backward()
    still = {name for name, each in backbone.named_parameters() if each.grad is None or not bool(each.grad.any())}
    assert still == set()
    backwards = backbone(frames.flip(1))["pooled"]
    assert not torch.allclose(outputs["pooled"], backwards, atol=1e-5)


def test_the_size_of_v_jepa_2_1_g_is_the_published_one() -> None:
    """1,013,267,968 with what is left out: patches of single images, three norms, and two modality vectors."""
    with torch.device("meta"):
        backbone = build_backbone("vjepa2.1-g16", num_frames=16, image_size=384)
    left_out = 1408 * (3 * 16 * 16 + 1) + 3 * 2 * 1408 + 2 * 1408
    assert sum(each.numel() for each in backbone.parameters()) + left_out == 1_013_267_968


def test_clips_that_do_not_fit_are_rejected() -> None:
    with pytest.raises(UsageError, match="even number"):
        tube_transformer("s", "sines", num_frames=5, image_size=32)
    with pytest.raises(UsageError, match="multiple of 14"):
        BACKBONES["videomae-v2-g14"](num_frames=2, image_size=32)
    with pytest.raises(ValueError, match="built for 4 frames and got 2"):
        _backbone("rotary")(_video()[:, :2])


def test_a_perception_encoder_of_timm_is_a_transformer_on_each_frame() -> None:
    with torch.device("meta"):
        network = build_backbone("pe-core-b16", num_frames=2, image_size=224).network
    weights = {name: torch.zeros(value.shape) for name, value in network.state_dict().items()}
    report = check_pretrained("pe-core-b16", weights | {"head.weight": torch.zeros(1)}, num_frames=2, image_size=224)
    assert (report.dropped, len(report.kept_random) > 40) == (("head.weight",), True)
    assert all(name.startswith("temporal") for name in report.kept_random)
