"""Temporal shift: against a literal loop, and where it sits in a ResNet."""

import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.models.backbones.tsm import ShiftedConv2d, small_tsm, temporal_shift, tsm


@settings(max_examples=25, deadline=None)
@given(clips=st.integers(1, 3), frames=st.integers(1, 5), channels=st.integers(1, 20), seed=st.integers(0, 99))
def test_shift_equals_a_literal_loop(clips: int, frames: int, channels: int, seed: int) -> None:
    images = torch.randn(clips * frames, channels, 2, 3, generator=torch.Generator().manual_seed(seed))
    expected = torch.zeros_like(images)
    for clip in range(clips):
        for frame in range(frames):
            for channel in range(channels):
                if channel < channels // 8:
                    origin = frame + 1
                elif channel < 2 * (channels // 8):
                    origin = frame - 1
                else:
                    origin = frame
                if 0 <= origin < frames:
                    expected[clip * frames + frame, channel] = images[clip * frames + origin, channel]
    assert torch.equal(temporal_shift(images, frames), expected)


def test_every_block_shifts_its_first_convolution_only() -> None:
    network = tsm("resnet50", num_frames=4, image_size=32)
    shifted = [name for name, module in network.named_modules() if isinstance(module, ShiftedConv2d)]
    blocks = [name for name, _ in network.named_modules() if name.count(".") == 2 and name.split(".")[1][:5] == "layer"]
    assert shifted == [f"{block}.conv1" for block in blocks]
    assert len(shifted) == 16


def test_names_of_the_weights_stay_those_of_the_image_network() -> None:
    plain = timm.create_model("resnet18", pretrained=False, num_classes=0)
    assert list(tsm("resnet18", num_frames=2, image_size=32).network.state_dict()) == list(plain.state_dict())


def test_clips_of_a_batch_do_not_touch_each_other_but_frames_do() -> None:
    torch.manual_seed(0)
    network = small_tsm(32, num_frames=3, image_size=32).eval()
    frames = torch.randn(2, 3, 3, 32, 32)
    changed = frames.clone()
    changed[1, 0] += 1.0
    with torch.no_grad():
        before, after = network(frames)["tokens"], network(changed)["tokens"]
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1, 1], after[1, 1])


def test_a_difference_backbone_does_not_see_what_stands_still() -> None:
    backbone = small_tsm(16, True, num_frames=4, image_size=32).eval()
    moving = torch.randn(1, 4, 3, 32, 32)
    still = torch.randn(1, 1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(moving)["pooled"], backbone(moving + still)["pooled"], atol=1e-4, rtol=1e-4)
