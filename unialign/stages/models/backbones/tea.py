"""Temporal Excitation and Aggregation (TEA) over timm's ResNet-50 and Res2Net-50.

Legend: B batch, T frames, C channels, H W height and width, D width.

Source: Li et al., "TEA: Temporal Excitation and Aggregation for Action Recognition", CVPR 2020 (arXiv 2004.01398):

    motion excitation    M_t = transform(reduce(X_{t+1})) - reduce(X_t), zero for the last frame
                         A = 2 sigmoid(expand(mean over H, W of M)) - 1;    X = X + X * A      (equations 1 to 6)
    multiple temporal aggregation: channels in four fragments, each convolved over time (channel by channel, 3 frames)
                         and space and added to the next, so that later fragments see further    (equations 7 to 9)

Two networks, because ImageNet's ResNet-50 has one dense 3 x 3 convolution where TEA has three of a quarter's width:
    "tea-res2net50"  the authors' network: Res2Net-50 26w4s, whose ImageNet weights fit
    "tea-resnet50"   ResNet-50, whose ImageNet weights fit: the fragments are added to the next after the convolution
                     over time already, by learned gates that begin at zero, and one dense 3 x 3 convolution follows
Deviation in both: everything begins as the image network. "tea-res2net50-released" does as the authors' code
(Phoenix1327/tea-action-recognition): the last fragment's convolution begins as a shift and the excitation at random,
and the attention is sigmoid - 1/2, half of what equation 5 says, so that weights trained with it compute the same.
"""

from collections.abc import Collection, Mapping
from typing import Any

import timm
import torch
import torch.nn.functional as functional
from timm.models.res2net import Bottle2neck
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from unialign.stages.models.backbones.tsm import IMAGENET_MEAN, IMAGENET_STD, frame_outputs

NUM_FRAGMENTS = 4


class MotionExcitation(nn.Module):
    """Channels weighted by how they change from frame to frame, (B*T, C, H, W) to the same.

    Batch normalization after reduce and expand, as the authors have it; the second begins at zero, so that A does.
    released: as in the authors' code, see above.
    """

    def __init__(self, channels: int, *, num_frames: int, reduction: int = 16, released: bool = False) -> None:
        super().__init__()
        self.released = released
        inner = max(1, channels // reduction)
        self.num_frames = num_frames
        self.reduce = nn.Conv2d(channels, inner, kernel_size=1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(inner)
        self.transform = nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner, bias=False)
        self.expand = nn.Conv2d(inner, channels, kernel_size=1, bias=False)
        self.expand_norm = nn.BatchNorm2d(channels)
        if not released:
            nn.init.zeros_(self.expand_norm.weight)

    def forward(self, images: Tensor) -> Tensor:
        """The excited features."""
        reduced = self.reduce_norm(self.reduce(images))  # (B*T, C/16, H, W)
        here, ahead = (each.view(-1, self.num_frames, *each.shape[1:]) for each in (reduced, self.transform(reduced)))
        motion = (ahead[:, 1:] - here[:, :-1]).mean(dim=(3, 4))  # (B, T - 1, C/16)
        pooled = functional.pad(motion, (0, 0, 0, 1)).flatten(0, 1)[..., None, None]  # (B*T, C/16, 1, 1)
        share = self.expand_norm(self.expand(pooled)).sigmoid()  # (B*T, C, 1, 1)
        attention: Tensor = share - 0.5 if self.released else 2 * share - 1
        return images + images * attention


class TimeConvolution(nn.Module):
    """Each channel over three frames, (B*T, C, H, W) to the same; nothing beyond the clip's ends. Begins as identity.

    weight (3, C): of the frame before, the frame itself, the frame behind. shift: begins as a shift instead, the first
    half of the channels from the frame behind, the others from the frame before.
    """

    def __init__(self, channels: int, *, num_frames: int, shift: bool = False) -> None:
        super().__init__()
        self.num_frames = num_frames
        start = torch.tensor([0.0, 1.0, 0.0])[:, None].repeat(1, channels)
        if shift:
            half = channels // 2
            start[:, :half] = torch.tensor([0.0, 0.0, 1.0])[:, None]
            start[:, half : 2 * half] = torch.tensor([1.0, 0.0, 0.0])[:, None]
        self.weight = nn.Parameter(start)

    def forward(self, images: Tensor) -> Tensor:
        """The convolved features."""
        clips = images.view(-1, self.num_frames, *images.shape[1:])  # (B, T, C, H, W)
        before, itself, behind = self.weight[..., None, None].unbind()
        nothing = torch.zeros_like(clips[:, :1])
        total = clips * itself
        total = total + torch.cat([nothing, clips[:, :-1]], dim=1) * before
        total = total + torch.cat([clips[:, 1:], nothing], dim=1) * behind
        return total.flatten(0, 1)


class TimeCascade(nn.Module):
    """Four fragments of the channels, (B*T, C, H, W) to the same; begins as identity.

    Y_1 = X_1, Y_2 = time(X_2), Y_i = time(X_i + g_i * Y_{i-1}): fragment i sees 2 i - 1 frames. g_i: a channel's own.
    """

    def __init__(self, channels: int, *, num_frames: int) -> None:
        super().__init__()
        self.width = channels // NUM_FRAGMENTS
        self.times = nn.ModuleList(
            [TimeConvolution(self.width, num_frames=num_frames) for _ in range(NUM_FRAGMENTS - 1)]
        )
        self.gates = nn.Parameter(torch.zeros(NUM_FRAGMENTS - 2, self.width))

    def forward(self, images: Tensor) -> Tensor:
        """The aggregated features."""
        first, second, *others = torch.split(images, self.width, dim=1)
        fragments = [first, self.times[0](second)]
        for fragment, gate, time in zip(others, self.gates, self.times[1:], strict=True):
            fragments.append(time(fragment + gate[:, None, None] * fragments[-1]))
        return torch.cat(fragments, dim=1)


class TeaBottle2neck(Bottle2neck):  # type: ignore[misc]
    """timm's block of a Res2Net with excitation and with time; the names of the image network's weights stay."""

    def __init__(self, *arguments: Any, num_frames: int, released: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.motion = MotionExcitation(self.width * self.scale, num_frames=num_frames, released=released)
        last = self.scale - 1
        self.times = nn.ModuleList(
            [
                TimeConvolution(self.width, num_frames=num_frames, shift=released and index == last)
                for index in range(self.scale)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) to (B*T, C', H', W')."""
        *fragments, last = self.motion(self.relu(self.bn1(self.conv1(x)))).split(self.width, dim=1)
        done: list[Tensor] = []
        for fragment, time, conv, bn in zip(fragments, self.times, self.convs, self.bns, strict=False):
            fed = fragment if self.is_first or not done else fragment + done[-1]
            done.append(self.relu(bn(conv(time(fed)))))
        last = self.times[-1](last)
        done.append(last if self.pool is None else self.pool(last))
        shortcut = x if self.downsample is None else self.downsample(x)
        moved: Tensor = self.relu(self.bn3(self.conv3(torch.cat(done, dim=1))) + shortcut)
        return moved


class TeaNetwork(nn.Module):
    """A ResNet whose blocks hold the modules of this file.

    frames (B, T, 3, H, W), float32, normalized with `mean` and `std` -> tokens (B, T, D), grid (B, T, H', W', D),
    pooled (B, D), the tokens' mean.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    # Names in checkpoints of the authors' code.
    published_names = (
        (r"\.me\.conv1\.", ".motion.reduce."),
        (r"\.me\.bn1\.", ".motion.reduce_norm."),
        (r"\.me\.conv2\.", ".motion.transform."),
        (r"\.me\.conv3\.", ".motion.expand."),
        (r"\.me\.bn3\.", ".motion.expand_norm."),
        (r"\.shifts\.(\d+)\.conv\.", r".times.\1."),
    )

    def __init__(self, *, network: nn.Module, num_frames: int) -> None:
        super().__init__()
        self.network: Any = network.to(memory_format=torch.channels_last)
        self.num_frames = num_frames
        self.width = int(network.num_features)  # type: ignore[arg-type]
        kinds = (MotionExcitation, TimeConvolution, TimeCascade)
        # What image weights do not have.
        self.own_prefixes = tuple(f"{name}." for name, module in self.named_modules() if isinstance(module, kinds))

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Features of each frame, of each place and of the clip. Raises ValueError for another number of frames."""
        if frames.shape[1] != self.num_frames:
            raise ValueError(f"this backbone was built for {self.num_frames} frames and got {frames.shape[1]}")
        pictures = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (B*T, 3, H, W)
        return frame_outputs(self.network.forward_features(pictures), self.num_frames)

    def adapted(self, given: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """The given weights; the authors' convolutions over time, (C, 1, 3), become (3, C)."""
        del names
        return {
            name: value.squeeze(1).T if ".times." in name and value.ndim == 3 else value
            for name, value in given.items()
        }


def tea_resnet(name: str, *, num_frames: int, image_size: int) -> TeaNetwork:
    """TEA over the timm ResNet of that name, one of bottleneck blocks ("resnet50"); `image_size` is free."""
    del image_size  # a convolution takes any size
    network = timm.create_model(name, pretrained=False, num_classes=0, zero_init_last=False)
    for block in network.modules():
        if isinstance(block, Bottleneck):
            channels = block.conv2.in_channels
            # The activation has no weights, so names of the image network's weights stay.
            block.act1 = nn.Sequential(
                block.act1,
                MotionExcitation(channels, num_frames=num_frames),
                TimeCascade(channels, num_frames=num_frames),
            )
    return TeaNetwork(network=network, num_frames=num_frames)


def tea_res2net(
    layers: tuple[int, int, int, int], released: bool = False, *, num_frames: int, image_size: int
) -> TeaNetwork:
    """TEA over a Res2Net 26w4s with that many blocks a stage ((3, 4, 6, 3): Res2Net-50); `image_size` is free.

    released: as the authors' code, see above.
    """
    del image_size
    network = ResNet(
        TeaBottle2neck,
        layers,
        num_classes=0,
        base_width=26,
        block_args={"scale": NUM_FRAGMENTS, "num_frames": num_frames, "released": released},
        zero_init_last=False,
    )
    return TeaNetwork(network=network, num_frames=num_frames)
