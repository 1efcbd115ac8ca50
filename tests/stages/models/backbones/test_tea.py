"""TEA: its modules against literal loops, and networks that begin as the image networks they load."""

import math

import pytest
import timm
import torch
from torch import Tensor

from unialign.stages.models.backbones.registry import build_backbone, load_pretrained
from unialign.stages.models.backbones.tea import (
    MotionExcitation,
    TeaNetwork,
    TimeCascade,
    TimeConvolution,
    tea_res2net,
)

B, T, C, H, W = 2, 3, 8, 2, 3


def _images(seed: int = 0, channels: int = C) -> Tensor:
    return torch.randn(B * T, channels, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("released", [False, True])
def test_motion_excitation_equals_literal_loops(released: bool) -> None:
    torch.manual_seed(0)
    module = MotionExcitation(C, num_frames=T, reduction=4, released=released).double().eval()
    torch.nn.init.normal_(module.expand_norm.weight)
    images = _images()
    inner = 2
    reduce, transform = module.reduce.weight.detach(), module.transform.weight.detach()
    expand = module.expand.weight.detach()
    scale = 1 / math.sqrt(1 + module.reduce_norm.eps)  # running mean 0 and variance 1

    def reduced(frame: int, channel: int, row: int, column: int) -> float:
        if not (0 <= row < H and 0 <= column < W):
            return 0.0
        return scale * sum(float(reduce[channel, c, 0, 0]) * float(images[frame, c, row, column]) for c in range(C))

    with torch.no_grad():
        found = module(images)
    for clip in range(B):
        for time in range(T):
            frame = clip * T + time
            motion = [0.0] * inner
            for channel in range(inner) if time < T - 1 else ():
                for row in range(H):
                    for column in range(W):
                        ahead = sum(
                            float(transform[channel, 0, y, x])
                            * reduced(frame + 1, channel, row + y - 1, column + x - 1)
                            for y in range(3)
                            for x in range(3)
                        )
                        motion[channel] += (ahead - reduced(frame, channel, row, column)) / (H * W)
            for c in range(C):
                total = sum(float(expand[c, channel, 0, 0]) * motion[channel] for channel in range(inner))
                total *= float(module.expand_norm.weight.detach()[c]) / math.sqrt(1 + module.expand_norm.eps)
                attention = 2 / (1 + math.exp(-total)) - 1
                attention = attention / 2 if released else attention
                assert torch.allclose(found[frame, c], images[frame, c] * (1 + attention), atol=1e-10)


def _literal_time(images: Tensor, weight: Tensor) -> Tensor:
    result = torch.zeros_like(images)
    for clip in range(B):
        for time in range(T):
            for channel in range(images.shape[1]):
                for tap in range(3):
                    if 0 <= time + tap - 1 < T:
                        value = images[clip * T + time + tap - 1, channel]
                        result[clip * T + time, channel] += weight[tap, channel] * value
    return result


def test_convolution_over_time_and_cascade_equal_literal_loops() -> None:
    torch.manual_seed(1)
    cascade = TimeCascade(C, num_frames=T).double()
    for parameter in cascade.parameters():
        torch.nn.init.normal_(parameter)
    images = _images()
    weights = [time.weight.detach() for time in cascade.times]
    one = TimeConvolution(2, num_frames=T).double()
    one.load_state_dict({"weight": weights[0]})
    with torch.no_grad():
        assert torch.allclose(one(images[:, :2]), _literal_time(images[:, :2], weights[0]))
        found = cascade(images)
    expected = [images[:, :2], _literal_time(images[:, 2:4], weights[0])]
    for index in (2, 3):
        gate = cascade.gates.detach()[index - 2]
        fed = images[:, 2 * index : 2 * index + 2] + gate[None, :, None, None] * expected[-1]
        expected.append(_literal_time(fed, weights[index - 1]))
    assert torch.allclose(found, torch.cat(expected, dim=1))


@pytest.mark.parametrize(("name", "image"), [("tea-resnet50", "resnet50"), ("tea-res2net50", "res2net50_26w_4s")])
def test_with_image_weights_each_frame_is_seen_as_by_the_image_network(name: str, image: str) -> None:
    torch.manual_seed(0)
    # Without zeros at the ends of the blocks, which would hide what is inside.
    plain = timm.create_model(image, pretrained=False, zero_init_last=False).double().eval()
    backbone = build_backbone(name, num_frames=2, image_size=64).double().eval()
    report = load_pretrained(backbone, plain.state_dict())
    assert report.dropped == ("fc.weight", "fc.bias")
    assert report.kept_random
    assert all(".act1." in key or ".motion." in key or ".times." in key for key in report.kept_random)
    frames = torch.randn(1, 2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        outputs = backbone(frames)
        maps = plain.forward_features(frames[0])
    assert torch.allclose(outputs["grid"][0], maps.permute(0, 2, 3, 1))
    assert torch.allclose(outputs["tokens"][0], maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", ["resnet", "res2net"])
def test_after_one_step_every_parameter_gets_a_gradient_and_time_matters(kind: str) -> None:
    torch.manual_seed(0)
    backbone: TeaNetwork
    if kind == "resnet":
        backbone = build_backbone("tea-resnet50", num_frames=3, image_size=32)  # type: ignore[assignment]
    else:
        backbone = tea_res2net((1, 1, 1, 2), num_frames=3, image_size=32)
    frames, target = torch.randn(2, 3, 3, 32, 32), torch.randn(backbone.width)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        outputs = backbone(frames)
        (outputs["pooled"] * target).sum().backward()
        still = [key for key, value in backbone.named_parameters() if value.grad is None or not bool(value.grad.any())]
        optimizer.step()
    assert still == []
    assert outputs["grid"].shape == (2, 3, 1, 1, 2048)
    backbone.eval()
    changed = frames.clone()
    changed[1, 0] += 1.0
    with torch.no_grad():
        before, after = backbone(frames)["tokens"], backbone(changed)["tokens"]
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1, 1], after[1, 1])


AUTHORS_NAMES = {
    "motion.reduce.": "me.conv1.",
    "motion.reduce_norm.": "me.bn1.",
    "motion.transform.": "me.conv2.",
    "motion.expand.": "me.conv3.",
    "motion.expand_norm.": "me.bn3.",
}


def test_names_of_the_authors_code_are_understood() -> None:
    torch.manual_seed(2)
    first, second = (tea_res2net((1, 1, 1, 1), True, num_frames=3, image_size=32) for _ in range(2))
    for parameter in first.parameters():
        torch.nn.init.normal_(parameter)
    published = {}
    for key, value in first.network.state_dict().items():
        for ours, theirs in AUTHORS_NAMES.items():
            key = key.replace(ours, theirs)
        if ".times." in key:
            key = key.replace(".times.", ".shifts.").replace(".weight", ".conv.weight")
            value = value.T[:, None]  # (C, 1, 3), of the frame before, the frame itself, the frame behind
        published[f"module.base_model.{key}"] = value
    report = load_pretrained(second, {"state_dict": published | {"module.new_fc.weight": torch.zeros(5, 2048)}})
    assert (report.dropped, report.kept_random) == (("module.new_fc.weight",), ())
    for key, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[key]), key


def test_the_last_fragment_of_the_authors_begins_as_a_shift() -> None:
    block = tea_res2net((1, 1, 1, 1), True, num_frames=T, image_size=32).network.layer1[0]
    images = torch.randn(T, block.width, 2, 2)
    half = block.width // 2
    with torch.no_grad():
        moved, kept = block.times[-1](images), block.times[0](images)
    assert torch.equal(moved[:-1, :half], images[1:, :half])
    assert torch.equal(moved[1:, half:], images[:-1, half:])
    assert torch.equal(kept, images)


def test_another_number_of_frames_is_rejected() -> None:
    with pytest.raises(ValueError, match="built for 2 frames and got 3"):
        tea_res2net((1, 1, 1, 1), num_frames=2, image_size=32)(torch.randn(1, 3, 3, 32, 32))
