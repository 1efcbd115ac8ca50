"""UniFormerV2: begins as CLIP, loads published names, and its parts against literal loops."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor

from unialign.errors import UsageError
from unialign.stages.models.backbones.registry import build_backbone, load_pretrained
from unialign.stages.models.backbones.uniformer_v2 import (
    CLIP_MEAN,
    CLIP_STD,
    DepthwiseConv3d,
    GlobalAggregator,
    UniFormerV2,
    in_time,
    local_time,
    uniformer_v2,
)
from unialign.stages.models.flops import cost

B, T, D, LAYERS = 2, 3, 16, 3


def _tower(size: int = 32) -> VisionTransformer:
    return VisionTransformer(
        image_size=size,
        patch_size=16,
        width=D,
        layers=LAYERS,
        heads=2,
        mlp_ratio=4.0,
        output_dim=8,
        act_layer=QuickGELU,
    )


def _backbone(seed: int = 0, size: int = 32, num_global: int = 2, num_local: int = 2) -> UniFormerV2:
    torch.manual_seed(seed)
    return UniFormerV2(network=_tower(size), num_frames=T, num_global=num_global, num_local=num_local, dropout=0.0)


def _stirred(backbone: UniFormerV2) -> UniFormerV2:
    """With what begins at zero moved away from it."""
    for name, parameter in backbone.named_parameters():
        if not name.startswith("network."):
            torch.nn.init.normal_(parameter, std=0.3)
    return backbone


@pytest.mark.parametrize("num_local", [0, 1, 2])
def test_at_the_start_every_frame_is_seen_as_by_clip(num_local: int) -> None:
    backbone = _backbone(num_local=num_local).eval()
    tower = _tower().eval()
    tower.load_state_dict(backbone.network.state_dict(), strict=False)
    tower.proj, tower.output_tokens = None, True
    frames = torch.randn(B, T, 3, 32, 32)
    with torch.no_grad():
        outputs = backbone(frames)
        classes, patches = tower(frames.flatten(0, 1))
        hidden = torch.stack([tower.transformer(tower._embeds(clip))[:, 0] for clip in frames])  # (B, T, D)
    assert torch.allclose(outputs["tokens"].flatten(0, 1), classes, atol=1e-5)
    assert torch.allclose(outputs["grid"].flatten(2, 3).flatten(0, 1), patches, atol=1e-5)
    assert outputs["grid"].shape == (B, T, 2, 2, D)
    # The query is zero, and a layer norm does not see the weight of the other half.
    assert torch.allclose(outputs["pooled"], tower.ln_post(hidden.mean(dim=1)).detach(), atol=1e-3)


@pytest.mark.parametrize(("num_global", "num_local"), [(1, 0), (3, 1), (2, 2)])
def test_every_parameter_gets_a_gradient_once_zeros_have_moved(num_global: int, num_local: int) -> None:
    backbone = _stirred(_backbone(num_global=num_global, num_local=num_local))
    outputs = backbone(torch.randn(B, T, 3, 32, 32))
    total = (outputs["pooled"] * torch.randn(D)).sum()
    total.backward()
    still = [key for key, value in backbone.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert still == []  # of the pooled feature alone
    assert (outputs["tokens"].shape, outputs["pooled"].shape) == ((B, T, D), (B, D))


def test_zeros_at_the_start_hold_nothing_back_for_long() -> None:
    backbone = _backbone()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    frames, target = torch.randn(B, T, 3, 32, 32), torch.randn(D)
    for _ in range(3):
        optimizer.zero_grad()
        (backbone(frames)["pooled"] * target).sum().backward()
        optimizer.step()
    assert [key for key, value in backbone.named_parameters() if value.grad is None or not bool(value.grad.any())] == []


def test_local_time_equals_literal_loops() -> None:
    torch.manual_seed(0)
    width, inner = 6, 4
    module = local_time(width).double().eval()
    torch.nn.init.normal_(module[3].weight)
    volume = torch.randn(1, width, T, 1, 2, dtype=torch.float64)
    first, middle, last = (module[index].weight.detach() for index in (1, 2, 3))
    biases = [module[index].bias.detach() for index in (1, 2, 3)]
    assert first.shape[0] == inner
    with torch.no_grad():
        found = module(volume)
    normed = volume / math.sqrt(1 + module[0].eps)
    for place in range(2):
        narrow = [
            [float(first[i, :, 0, 0, 0] @ normed[0, :, t, 0, place] + biases[0][i]) for t in range(T)]
            for i in range(inner)
        ]
        for t in range(T):
            mixed = torch.zeros(inner, dtype=torch.float64)
            for i in range(inner):
                near = sum(
                    float(middle[i, 0, tap, 0, 0]) * narrow[i][t + tap - 1] for tap in range(3) if 0 <= t + tap - 1 < T
                )
                mixed[i] = near + biases[1][i]
            for channel in range(width):
                expected = float(last[channel, :, 0, 0, 0] @ mixed + biases[2][channel])
                assert float(found[0, channel, t, 0, place]) == pytest.approx(expected, abs=1e-10)


class _Marks(torch.nn.Module):
    """100 t + 10 h + w at each place, 1000 d more a channel."""

    def forward(self, volume: Tensor) -> Tensor:
        _, width, frames, height, columns = volume.shape
        sizes = ((width, 1000), (frames, 100), (height, 10), (columns, 1))
        marks = [torch.arange(size) * step for size, step in sizes]
        d, t, h, w = torch.meshgrid(*marks, indexing="ij")
        return (d + t + h + w).expand_as(volume)


def test_modules_of_time_see_each_patch_at_its_place_and_no_class_token() -> None:
    height, columns, width = 2, 4, 3
    hidden = torch.zeros(B * T, 1 + height * columns, width)
    found = in_time(_Marks(), hidden, (T, height, columns))
    assert not bool(found[:, 0].any())
    for frame in range(B * T):
        for place in range(height * columns):
            row, column = divmod(place, columns)
            mark = 100 * (frame % T) + 10 * row + column
            assert found[frame, 1 + place].tolist() == [mark, 1000 + mark, 2000 + mark]


def _norm(row: Tensor) -> Tensor:
    return (row - row.mean()) / torch.sqrt(row.var(unbiased=False) + 1e-5)


def test_gradients_of_depthwise_weights_are_single_precision_on_a_cpu() -> None:
    """torch 2.15 gives numbers of up to 1e22 for some of them in bfloat16, on processors with AVX-512."""
    torch.manual_seed(0)
    convolution, volume = DepthwiseConv3d(D, (3, 3, 3)), torch.randn(B, D, T, 2, 2)
    gradients = []
    for half in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            convolved = convolution(volume)
        assert convolved.dtype == torch.float32
        gradients.append(torch.autograd.grad(convolved.square().sum(), convolution.weight)[0])
    assert torch.equal(*gradients)


def test_the_global_query_equals_literal_loops() -> None:
    torch.manual_seed(0)
    module = GlobalAggregator(width=4, heads=2, dropout=0.0).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    for norm in (module.ln_1, module.ln_2, module.ln_3):
        torch.nn.init.ones_(norm.weight)
        torch.nn.init.zeros_(norm.bias)
    query, tokens = torch.randn(1, 1, 4, dtype=torch.float64), torch.randn(1, 5, 4, dtype=torch.float64)
    weight, bias = module.attn.in_proj_weight.detach(), module.attn.in_proj_bias.detach()
    with torch.no_grad():
        found = module(query, tokens)[0, 0]
        asked = weight[:4] @ _norm(query[0, 0]) + bias[:4]
        keys = [weight[4:8] @ _norm(token) + bias[4:8] for token in tokens[0]]
        values = [weight[8:] @ _norm(token) + bias[8:] for token in tokens[0]]
        heads = []
        for part in (slice(0, 2), slice(2, 4)):
            scores = torch.stack([asked[part] @ key[part] / math.sqrt(2) for key in keys]).softmax(dim=0)
            heads.append(sum(score * value[part] for score, value in zip(scores, values, strict=True)))
        moved = query[0, 0] + module.attn.out_proj(torch.cat(heads))
        inner = module.mlp[0](_norm(moved))
        moved = moved + module.mlp[3](inner / (1 + torch.exp(-1.702 * inner)))
    assert torch.allclose(found, moved, atol=1e-10)


def test_frames_see_each_other_only_through_the_modules_of_time() -> None:
    frames = torch.randn(B, T, 3, 32, 32)
    changed = frames.clone()
    changed[1, 0] += 1.0
    for num_local in (0, 1):
        backbone = _stirred(_backbone(num_local=num_local)).eval()
        with torch.no_grad():
            before, after = backbone(frames), backbone(changed)
        assert torch.equal(before["pooled"][0], after["pooled"][0])
        assert not torch.allclose(before["pooled"][1], after["pooled"][1])
        assert torch.allclose(before["tokens"][1, 1], after["tokens"][1, 1]) == (num_local == 0)


def test_weights_of_a_whole_clip_load_from_a_file_and_its_text_tower_is_dropped(tmp_path: Path) -> None:
    torch.manual_seed(5)
    tower = _tower(size=64)
    whole = {f"visual.{key}": value for key, value in tower.state_dict().items()}
    whole |= {"transformer.resblocks.0.ln_1.weight": torch.zeros(7), "logit_scale": torch.zeros(())}
    torch.save({"state_dict": {f"module.{key}": value for key, value in whole.items()}}, tmp_path / "clip.pt")
    backbone = _backbone()
    report = load_pretrained(backbone, torch.load(tmp_path / "clip.pt", weights_only=True))
    assert set(report.dropped) == {
        "module.visual.proj",
        "module.transformer.resblocks.0.ln_1.weight",
        "module.logit_scale",
    }
    assert report.num_loaded == len(tower.state_dict()) - 1
    assert {key.split(".")[0] for key in report.kept_random} == {
        "query", "balance", "positions", "aggregators", "local_first", "local_second",
    }  # fmt: skip
    assert torch.equal(backbone.network.conv1.weight, tower.conv1.weight)
    assert backbone.network.positional_embedding.shape == (1 + 4, D)
    assert torch.equal(backbone.network.positional_embedding[0], tower.positional_embedding[0])


def _published(backbone: UniFormerV2) -> dict[str, Tensor]:
    """The weights under the authors' names."""
    names = {}
    for key, value in backbone.state_dict().items():
        name = key.removeprefix("network.")
        name = name.replace("query", "transformer.temporal_cls_token").replace("positions.", "transformer.dpe.")
        name = name.replace("aggregators.", "transformer.dec.").replace("ln_post.", "transformer.proj.0.")
        name = "transformer.balance" if name == "balance" else name
        for which, local in (("lmhra1", "local_first."), ("lmhra2", "local_second.")):
            if name.startswith(local):
                layer, rest = name.removeprefix(local).split(".", 1)
                name = f"transformer.resblocks.{layer}.{which}.pos_embed.{rest}"
        names[f"backbone.{name}"] = value.unsqueeze(2) if name == "conv1.weight" else value
    return names | {"backbone.transformer.proj.2.weight": torch.zeros(5, D)}


def test_names_of_the_authors_checkpoints_are_understood() -> None:
    first, second = _stirred(_backbone()), _backbone(seed=1)
    report = load_pretrained(second, {"epoch": 55, "model_state": _published(first)})
    assert report.kept_random == ()
    assert report.dropped == ("backbone.transformer.proj.2.weight",)
    converted = {"network.conv1.weight", "network.positional_embedding"}
    for key, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[key]) != (key in converted), key


VARIANTS: dict[str, dict[str, Any]] = {
    "kinetics": {"num_global": 2},
    "frozen": {"num_global": 2, "frozen": True},
    "ssv2": {"num_global": 3, "num_local": 2, "stem": True},
}
# The first logits that the authors' own code (OpenGVLab/UniFormerV2, uniformerv2_model.py) gives for `_made(kind)` and
# `_video()`, normalized with 0.45 and 0.225.
AUTHORS_LOGITS: dict[str, list[float]] = {
    "kinetics": [-0.628854, 0.114765, -0.281835, -0.592646],
    "frozen": [-0.07746, -1.480073, -0.608139, 0.046306],
    "ssv2": [-0.452981, 0.247975, 0.246725, 0.984988],
}


def _variant(kind: str) -> UniFormerV2:
    return UniFormerV2(network=_tower(), num_frames=4, dropout=0.0, **VARIANTS[kind])


def _video() -> Tensor:
    return torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def _made(kind: str) -> dict[str, Tensor]:
    """A checkpoint of the authors' with made-up weights that are the same on every machine."""
    generator = torch.Generator().manual_seed(4)
    made = {name.replace(".stem.", ".conv1."): value for name, value in _published(_variant(kind)).items()}
    for name, value in sorted(made.items()):
        if name.endswith("running_var"):
            made[name] = 0.5 + torch.rand(value.shape, generator=generator)
        elif value.is_floating_point():
            made[name] = torch.randn(value.shape, generator=generator) * 0.3
    return made


@pytest.mark.parametrize("kind", list(VARIANTS))
def test_published_weights_compute_what_they_compute_there(kind: str) -> None:
    backbone, weights = _variant(kind).eval(), _made(kind)
    load_pretrained(backbone, {"model_state": weights})
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (backbone.mean, backbone.std))
    with torch.no_grad():
        outputs = backbone((_video() - mean) / std)
    logits = outputs["pooled"] @ weights["backbone.transformer.proj.2.weight"].T
    torch.testing.assert_close(logits[0, :4], torch.tensor(AUTHORS_LOGITS[kind]), atol=1e-5, rtol=1e-5)
    assert outputs["tokens"].shape == (2, 2 if kind == "ssv2" else 4, D)
    trained = {name.split(".")[0] for name, each in backbone.named_parameters() if each.requires_grad}
    assert ("network" in trained, "balance" in trained) == ((True, False) if kind == "frozen" else (True, True))
    assert backbone.network.transformer.resblocks[0].ln_1.weight.requires_grad == (kind != "frozen")


def test_own_weights_and_clips_are_not_converted() -> None:
    for kind in VARIANTS:
        first, second = _stirred(_variant(kind)), _variant(kind)
        load_pretrained(second, {f"backbone.{key}": value for key, value in first.state_dict().items()})
        for key, value in second.state_dict().items():
            assert torch.equal(value, first.state_dict()[key]), (kind, key)


def test_clip_begins_in_the_middle_frame_of_a_stem() -> None:
    """And sees what it saw, though the stem's frames are normalized otherwise."""
    torch.manual_seed(5)
    tower = _tower()
    backbone = _variant("ssv2").eval()
    load_pretrained(backbone, {f"visual.{key}": value for key, value in tower.state_dict().items()})
    tower.proj, tower.output_tokens = None, True
    colors = {name: [torch.tensor(each).view(3, 1, 1) for each in pair] for name, pair in (
        ("clip", (CLIP_MEAN, CLIP_STD)), ("own", (backbone.mean, backbone.std)))}  # fmt: skip
    frames = _video()
    with torch.no_grad():
        found = backbone((frames - colors["own"][0]) / colors["own"][1])["tokens"]
        classes, _ = tower.eval()((frames[:, ::2].flatten(0, 1) - colors["clip"][0]) / colors["clip"][1])
    torch.testing.assert_close(found.flatten(0, 1), classes, atol=1e-5, rtol=1e-5)


def test_half_matches_are_refused() -> None:
    for kind, other in (("kinetics", "frozen"), ("frozen", "kinetics"), ("ssv2", "kinetics"), ("kinetics", "ssv2")):
        with pytest.raises(UsageError, match="do not fit the backbone"):
            load_pretrained(_variant(kind), {"model_state": _made(other)})


def test_parameters_and_multiply_adds_are_the_published_ones() -> None:
    classes = {
        "uniformerv2-b16": 400,
        "uniformerv2-l14": 400,
        "uniformerv2-b16-local": 174,
        "uniformerv2-l14-local": 174,
        "uniformerv2-b16-ssv2": 174,
    }
    millions = {
        "uniformerv2-b16": 115,
        "uniformerv2-l14": 354,
        "uniformerv2-b16-local": 163,
        "uniformerv2-l14-local": 574,
        "uniformerv2-b16-ssv2": 163,
    }
    for name, published in millions.items():
        frames = 16 if name == "uniformerv2-l14" else 8
        with torch.device("meta"):
            backbone = build_backbone(name, num_frames=frames, image_size=224)
            found = cost(backbone, torch.empty(1, frames, 3, 224, 224)) if classes[name] == 400 else None
        total = sum(each.numel() for each in backbone.parameters()) + (backbone.width + 1) * classes[name]
        if "local" in name:  # the authors' stem looks at three frames
            total += 2 * backbone.network.conv1.weight.numel()
        assert round(total / 1e6) == published, name
        if found is not None:
            expected = (
                1332.43 if name == "uniformerv2-l14" else 148.1
            )  # ART prints the first; the second is counted here
            assert found.multiply_adds / 1e9 == pytest.approx(expected, rel=2e-3)


def test_what_does_not_fit_is_rejected() -> None:
    with pytest.raises(ValueError, match="3 layers do not have 4 global"):
        _backbone(num_global=4)
    with pytest.raises(ValueError, match="built for 3 frames and got 2"):
        _backbone()(torch.randn(1, 2, 3, 32, 32))
    with pytest.raises(UsageError, match="multiple of 14"):
        uniformer_v2("ViT-L-14-quickgelu", 4, num_frames=2, image_size=64)
    with pytest.raises(UsageError, match=r"num_frames 3.*even number"):
        UniFormerV2(network=_tower(), num_frames=3, num_global=1, stem=True)
