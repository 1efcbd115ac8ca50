"""Temporal Shift Module (TSM) over timm's ResNets.

Legend: B batch, T frames, C channels, H W height and width, D width.

Source: Lin, Gan, Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019: residual
shift in every block, 1/8 of the channels forward and 1/8 backward, the rest untouched. Deviation: the classification
head is left out; the frames' pooled features are the tokens, and "pooled" is their mean (TSM averages the frames'
scores; with a linear head that is the same).
"""

from typing import Any

import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def temporal_shift(images: Tensor, num_frames: int, fraction: int = 8) -> Tensor:
    """Features of the same shape (B*T, C, H, W) whose first C/fraction channels come from the next frame, the second
    C/fraction from the previous one; where there is no such frame they are zero.

    Source: TSM, section 3 and figure 1b (offline, bi-directional shift).
    """
    clips = images.view(-1, num_frames, *images.shape[1:])  # (B, T, C, H, W)
    fold = images.shape[1] // fraction
    nothing = torch.zeros_like(clips[:, :1, :fold])  # (B, 1, C/8, H, W)
    from_next = torch.cat([clips[:, 1:, :fold], nothing], dim=1)
    from_previous = torch.cat([nothing, clips[:, :-1, fold : 2 * fold]], dim=1)
    moved = torch.cat([from_next, from_previous, clips[:, :, 2 * fold :]], dim=2)
    return moved.flatten(0, 1)  # (B*T, C, H, W)


class ShiftedConv2d(nn.Conv2d):
    """A convolution whose input is shifted in time first; its parameters keep the plain convolution's names.

    Input and output: (B*T, C, H, W).
    """

    num_frames: int

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of the shifted input."""
        return super().forward(temporal_shift(input, self.num_frames))


def shifted(convolution: nn.Conv2d, num_frames: int) -> ShiftedConv2d:
    """The same convolution (same weights) with the shift in front of it."""
    result = ShiftedConv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        dilation=convolution.dilation,  # type: ignore[arg-type]
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    result.num_frames = num_frames
    result.load_state_dict(convolution.state_dict())
    return result


class TemporalShiftNetwork(nn.Module):
    """A ResNet with the residual shift in each block: the first convolution sees shifted features, the skip path not.

    frames (B, T, 3, H, W), float32, normalized with `mean` and `std` -> tokens (B, T, D), grid (B, T, H', W', D),
    pooled (B, D).
    difference: the network sees each frame less the mean of the clip, so that what stands still is gone. Source: the
    idea of RGB difference, Wang et al., Temporal Segment Networks, ECCV 2016; there the frame before is taken away.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    own_prefixes: tuple[str, ...] = ()

    def __init__(self, *, network: nn.Module, num_frames: int, difference: bool = False) -> None:
        super().__init__()
        self.network: Any = network
        self.difference = difference
        self.num_frames = num_frames
        self.width = int(network.num_features)  # type: ignore[arg-type]
        for block in network.modules():
            if isinstance(block, (BasicBlock, Bottleneck)):
                block.conv1 = shifted(block.conv1, num_frames)
        network.to(memory_format=torch.channels_last)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Features of each frame and of the clip. Raises ValueError for another number of frames."""
        if frames.shape[1] != self.num_frames:
            raise ValueError(f"this backbone was built for {self.num_frames} frames and got {frames.shape[1]}")
        if self.difference:
            frames = frames - frames.mean(dim=1, keepdim=True)
        # Channels last is what convolutions are fastest with, on CPUs and with half precision on GPUs.
        pictures = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (B*T, 3, H, W)
        return frame_outputs(self.network.forward_features(pictures), self.num_frames)


def frame_outputs(maps: Tensor, num_frames: int) -> dict[str, Tensor]:
    """What a backbone gives whose features are maps (B*T, D, H', W') of the frames: tokens and grid, and their mean."""
    grid = maps.permute(0, 2, 3, 1).reshape(-1, num_frames, *maps.shape[2:], maps.shape[1])  # (B, T, H', W', D)
    tokens = maps.mean(dim=(2, 3)).view(-1, num_frames, maps.shape[1])  # (B, T, D)
    return {"tokens": tokens, "grid": grid, "pooled": tokens.mean(dim=1)}


def tsm(name: str, *, num_frames: int, image_size: int) -> TemporalShiftNetwork:
    """TSM over the timm ResNet of that name ("resnet50"); `image_size` is free."""
    del image_size  # a convolution takes any size
    # zero_init_last=False: a block whose last scale is 0 would pass no gradient to its convolutions at the first step.
    network = timm.create_model(name, pretrained=False, num_classes=0, zero_init_last=False)
    return TemporalShiftNetwork(network=network, num_frames=num_frames)


def small_tsm(width: int, difference: bool = False, *, num_frames: int, image_size: int) -> TemporalShiftNetwork:
    """TSM over a ResNet of four basic blocks, the first with `width` channels, the last with 8 times as many.

    It trains on a CPU: 1.2 M parameters with a width of 32, 0.3 M with 16.
    """
    del image_size
    # The usual 7 x 7 stem has 64 channels whatever the width, and would cost more than all blocks together.
    network = ResNet(
        BasicBlock,
        (1, 1, 1, 1),
        num_classes=0,
        channels=tuple(width * factor for factor in (1, 2, 4, 8)),
        stem_type="deep",
        stem_width=width // 2,
        zero_init_last=False,
    )
    return TemporalShiftNetwork(network=network, num_frames=num_frames, difference=difference)
