"""Every backbone keeps one contract, and weights load or fail with a clear sentence."""

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.video import mvit_v2_s, swin3d_t

from unialign.errors import UsageError
from unialign.stages.models.backbones.registry import BACKBONES, build_backbone, hub_state_dict, load_pretrained
from unialign.stages.models.backbones.video_transformer import Mvit

SMALL = {"num_frames": 2, "image_size": 32}
# The others are too large for a test, or begin with zeros that pass no gradient: test_uniformer_v2, test_tea.
ORDINARY = [name for name in BACKBONES if not name.startswith(("uniformerv2", "tea", "pe-", "videomae", "vjepa"))]


@pytest.mark.parametrize("name", ORDINARY)
def test_every_backbone_runs_forward_and_backward(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, num_frames=4, image_size=32)
    frames = torch.randn(2, 4, 3, 32, 32)
    outputs = backbone(frames)
    width = backbone.width
    assert outputs["tokens"].shape[::2] == (2, width)
    assert outputs["tokens"].shape[1] in (2, 4)
    assert outputs["pooled"].shape == (2, width)
    assert outputs["grid"].shape == (2, outputs["tokens"].shape[1], *outputs["grid"].shape[2:4], width)
    (outputs["tokens"].square().sum() + (outputs["pooled"] * torch.randn(width)).sum()).backward()
    assert all(bool(value.isfinite().all()) for value in outputs.values())
    still = [key for key, value in backbone.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert still == []
    assert all(bool(value.grad.isfinite().all()) for value in backbone.parameters() if value.grad is not None)
    assert len(backbone.mean) == len(backbone.std) == 3


@pytest.mark.parametrize("name", ["tsm-resnet10", "vit-tiny-temporal"])
def test_another_number_of_frames_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="built for 2 frames and got 3"):
        build_backbone(name, **SMALL)(torch.randn(1, 3, 3, 32, 32))


def test_sizes_that_do_not_fit_and_unknown_names_are_rejected() -> None:
    with pytest.raises(UsageError, match="multiple of 16"):
        build_backbone("vit-tiny-temporal", num_frames=2, image_size=40)
    with pytest.raises(UsageError, match="even number"):
        build_backbone("mvit-v2-s", num_frames=3, image_size=64)
    with pytest.raises(UsageError, match="known: tsm-tiny"):
        build_backbone("resnet", **SMALL)


def test_mvit_has_the_blocks_of_torchvisions() -> None:
    with torch.device("meta"):
        published = mvit_v2_s(weights=None).state_dict()
        mine = Mvit(num_frames=16, image_size=224).network.state_dict()
    assert {key: value.shape for key, value in published.items() if not key.startswith("head.")} == {
        key: value.shape for key, value in mine.items()
    }


def _image_weights(name: str, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return dict(timm.create_model(name, pretrained=False, **options).state_dict())


def test_image_weights_load_and_the_head_is_dropped() -> None:
    backbone = build_backbone("tsm-resnet18", **SMALL)
    weights = _image_weights("resnet18")
    report = load_pretrained(backbone, weights)
    assert report.dropped == ("fc.weight", "fc.bias")
    assert report.kept_random == ()
    assert report.num_loaded == len(weights) - 2
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, weights[key])


@pytest.mark.parametrize(("name", "make"), [("mvit-v2-s", mvit_v2_s), ("swin3d-t", swin3d_t)])
def test_a_file_of_torchvisions_video_weights_loads(name: str, make: Any, tmp_path: Path) -> None:
    torch.manual_seed(7)
    published = make(weights=None)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    backbone = build_backbone(name, num_frames=16, image_size=224)
    report = load_pretrained(backbone, torch.load(tmp_path / "weights.pth", weights_only=True))
    assert report.kept_random == ()
    assert all(key.startswith("head.") for key in report.dropped)
    assert report.num_loaded == len(published.state_dict()) - 2
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, published.state_dict()[key])


def test_names_of_the_authors_checkpoints_are_understood() -> None:
    weights = {}
    for key, value in _image_weights("resnet18").items():
        name = key.replace("conv1.weight", "conv1.net.weight") if key.startswith("layer") else key
        weights[f"module.base_model.{name}"] = value
    weights["module.new_fc.weight"] = weights.pop("module.base_model.fc.weight")
    weights["module.new_fc.bias"] = weights.pop("module.base_model.fc.bias")
    backbone = build_backbone("tsm-resnet18", **SMALL)
    report = load_pretrained(backbone, {"epoch": 3, "state_dict": weights})
    assert report.dropped == ("module.new_fc.weight", "module.new_fc.bias")
    assert torch.equal(backbone.network.layer1[0].conv1.weight, weights["module.base_model.layer1.0.conv1.net.weight"])


def test_a_vits_positions_are_resampled_and_its_temporal_part_stays_random() -> None:
    backbone = build_backbone("vit-tiny-temporal", **SMALL)
    weights = _image_weights("vit_tiny_patch16_224")
    report = load_pretrained(backbone, weights)
    assert report.dropped == ("head.weight", "head.bias")
    assert report.kept_random
    assert all(key.startswith("temporal") for key in report.kept_random)
    assert backbone.network.pos_embed.shape == (1, 1 + 4, 192)
    assert torch.equal(backbone.network.pos_embed[:, 0], weights["pos_embed"][:, 0])
    assert torch.equal(backbone.network.norm.weight, weights["norm.weight"])


@pytest.mark.parametrize("name", ["tsm-resnet10", "vit-tiny-temporal"])
def test_own_weights_come_back_from_a_file(name: str, tmp_path: Path) -> None:
    first, second = build_backbone(name, **SMALL), build_backbone(name, **SMALL)
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    report = load_pretrained(second, torch.load(tmp_path / "weights.pt", weights_only=True))
    assert report.kept_random == ()
    assert report.dropped == ()
    for key, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[key])


def test_weights_that_do_not_fit_are_listed_and_nothing_changes() -> None:
    backbone = build_backbone("tsm-resnet18", **SMALL)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    weights = _image_weights("resnet18")
    del weights["layer1.0.conv1.weight"]
    weights["layer9.weight"] = torch.zeros(1)
    weights["bn1.weight"] = torch.zeros(3)
    expected = r"1 missing \(network.layer1.0.conv1.weight\); 1 unexpected \(layer9.weight\); 1 of another shape"
    with pytest.raises(UsageError, match=expected):
        load_pretrained(backbone, weights)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_part_of_the_temporal_weights_is_not_enough() -> None:
    backbone = build_backbone("vit-tiny-temporal", **SMALL)
    weights = dict(backbone.state_dict())
    del weights["temporal_embedding"]
    with pytest.raises(UsageError, match=r"missing \(temporal_embedding\)"):
        load_pretrained(backbone, weights)


def test_hub_weights_without_a_network_name_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="give --backbone-weights FILE"):
        hub_state_dict("tsm-resnet18")
    with pytest.raises(UsageError, match="no published weights for backbone 'tsm-resnet10'"):
        hub_state_dict("tsm-resnet10")


def test_video_hub_weights_are_never_unpickled_freely(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def fake(url: str, **options: Any) -> dict[str, torch.Tensor]:
        seen.update(options, url=url)
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fake)
    with pytest.raises(UsageError, match=r"no route to host.*give --backbone-weights FILE"):
        hub_state_dict("swin3d-t")
    assert seen["weights_only"] is True


@pytest.mark.parametrize("name", ["tsm-tiny-difference", "tsm-resnet50", "tea-resnet50", "tea-res2net50"])
def test_convolutions_compute_with_channels_last_from_end_to_end(name: str) -> None:
    """No weight and no map is reordered in a step: what fast kernels take, on GPUs above all."""
    network = BACKBONES[name](num_frames=2, image_size=32)
    others: list[nn.Module] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        last = [each.is_contiguous(memory_format=torch.channels_last) for each in (*inputs, module.weight)]
        others.extend([module] if not all(last) else [])

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        module.register_forward_hook(look)
    with torch.no_grad():
        network(torch.randn(1, 2, 3, 32, 32))
    assert len(convolutions) > 10
    assert not others


def test_efficientnet_loads_from_both_families_of_names() -> None:
    weights = _image_weights("tf_efficientnet_lite0")
    inside = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    inside |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    places = list(dict.fromkeys(tuple(name.split(".")[:3]) for name in weights if name.startswith("blocks.")))
    other = {}
    for name, value in weights.items():
        layer, *rest = name.split(".")
        if layer == "blocks":
            number = places.index((layer, *rest[:2]))  # blocks are counted through
            names = first if number == 0 else inside
            other[f"_blocks.{number}.{names[rest[2]]}.{rest[3]}"] = value
        else:
            other[f"{outside[layer]}.{rest[0]}"] = value
    for entries in (weights, other):
        backbone = build_backbone("efficientnet-lite0", **SMALL)
        report = load_pretrained(backbone, entries)
        assert (report.kept_random, report.num_loaded) == ((), len(weights) - 2)
        assert all(torch.equal(value, weights[name]) for name, value in backbone.network.state_dict().items())
    with pytest.raises(UsageError, match="do not fit the backbone"):
        load_pretrained(build_backbone("efficientnet-lite0", **SMALL), {"_blocks.99._bn0.weight": torch.zeros(1)})
