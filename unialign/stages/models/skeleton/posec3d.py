"""PoseConv3D: a 3-D convolutional network on heatmaps of joints or limbs, for its published weights.

Legend: N clips, M persons, T frames, V joints, K heatmaps of a frame (joints or limbs), S side of a heatmap in pixels,
L classes, D width of the features.

Source: Duan et al., "Revisiting Skeleton-based Action Recognition", CVPR 2022 (arXiv 2104.13586), section 3 and
equations 1 and 2, and kennymckormick/pyskl (models/cnns/resnet3d_slowonly.py, datasets/pipelines/heatmap_related.py,
configs/posec3d). Heatmaps are drawn by the network, so that a clip is as small as its keypoints.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SIGMA = 0.6  # of a heatmap's bell, in pixels
LOWEST_SCORE = 1e-3
# COCO-17 in the order of the authors' configurations: the heatmaps of a network of limbs.
LIMBS = (
    *((0, 5), (0, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (11, 13), (13, 15)),
    *((6, 12), (12, 14), (14, 16), (0, 1), (0, 2), (1, 3), (2, 4), (11, 12)),
)
STRIDES = ((1, 2), (1, 2), (2, 2))  # of time and of the image, by stage


def joint_heatmaps(keypoints: Tensor, side: int) -> Tensor:
    """(N, V, T, S, S): at each pixel the largest of the persons' bells, whose height is the joint's score.

    keypoints: (N, M, T, V, 3), x and y in pixels of the heatmap, and score. A bell ends at 3 sigma.
    """
    place, score = keypoints[..., :2], keypoints[..., 2]
    maps = keypoints.new_zeros(len(keypoints), *keypoints.shape[2:4], side, side)
    for person in range(keypoints.shape[1]):
        maps = torch.maximum(maps, _bells(place[:, person], score[:, person], side))
    return maps.transpose(1, 2)


def limb_heatmaps(keypoints: Tensor, side: int) -> Tensor:
    """(N, K, T, S, S): as `joint_heatmaps`, around the segment between two joints; its height is the smaller score."""
    starts, ends = (torch.tensor(part, device=keypoints.device) for part in zip(*LIMBS, strict=True))
    maps = keypoints.new_zeros(len(keypoints), keypoints.shape[2], len(LIMBS), side, side)
    for person in range(keypoints.shape[1]):
        first, last = keypoints[:, person, :, starts], keypoints[:, person, :, ends]  # (N, T, K, 3)
        maps = torch.maximum(maps, _tubes(first, last, side))
    return maps.transpose(1, 2)


def _bells(place: Tensor, score: Tensor, side: int) -> Tensor:
    """(..., S, S) for joints at (..., 2) with scores (...)."""
    pixel = torch.arange(side, device=place.device, dtype=place.dtype)
    apart = pixel - place[..., None]  # (..., 2, S)
    bell = torch.exp(-(apart**2) / 2 / SIGMA**2) * _near(pixel, place, place)
    height = torch.where(score >= LOWEST_SCORE, score, 0)
    across, down = bell.unbind(dim=-2)
    drawn: Tensor = down[..., :, None] * across[..., None, :] * height[..., None, None]
    return drawn


def _tubes(first: Tensor, last: Tensor, side: int) -> Tensor:
    """(..., S, S) for segments between (..., 3) and (..., 3). A segment shorter than a pixel is a bell at its start."""
    pixel = torch.arange(side, device=first.device, dtype=first.dtype)
    start, way = first[..., :2], last[..., :2] - first[..., :2]
    length = (way**2).sum(dim=-1)[..., None, None]  # squared
    x, y = pixel - start[..., :1], pixel - start[..., 1:]  # (..., S) each
    along = (x[..., None, :] * way[..., 0, None, None] + y[..., :, None] * way[..., 1, None, None]) / length.clamp(
        min=1
    )
    along = along.clamp(0, 1)
    far = (x[..., None, :] - along * way[..., 0, None, None]) ** 2
    far = far + (y[..., :, None] - along * way[..., 1, None, None]) ** 2
    near = _near(pixel, torch.minimum(first, last)[..., :2], torch.maximum(first, last)[..., :2])
    window = near[..., 1, :, None] & near[..., 0, None, :]
    height = torch.minimum(first[..., 2], last[..., 2])
    height = torch.where(height >= LOWEST_SCORE, height, 0)
    tube = torch.exp(-far / 2 / SIGMA**2) * window * height[..., None, None]
    short = _bells(start, torch.where(height > 0, first[..., 2], 0), side)
    return torch.where(length < 1, short, tube)


def _near(pixel: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Which pixels (S) lie between low and high (..., 2), with 3 sigma more: (..., 2, S)."""
    start, end = torch.trunc(low - 3 * SIGMA)[..., None], torch.trunc(high + 3 * SIGMA)[..., None]
    return (pixel >= start) & (pixel <= end)


class Convolution3d(nn.Sequential):
    """Convolution without bias, and normalization: (N, C, T, S, S) -> (N, D, T', S', S')."""

    def __init__(self, before: int, after: int, size: tuple[int, int, int], stride: tuple[int, int] = (1, 1)) -> None:
        strides = (stride[0], stride[1], stride[1])
        padding = (size[0] // 2, size[1] // 2, size[2] // 2)
        super().__init__(nn.Conv3d(before, after, size, strides, padding, bias=False), nn.BatchNorm3d(after))


class Bottleneck(nn.Module):
    """Residual block (N, C, T, S, S) -> (N, 4 D, T', S', S'); deep: its first convolution sees three frames."""

    def __init__(self, before: int, width: int, stride: tuple[int, int], *, deep: bool, first: bool) -> None:
        super().__init__()
        self.reduce = Convolution3d(before, width, (3 if deep else 1, 1, 1))
        self.window = Convolution3d(width, width, (1, 3, 3), stride)
        self.expand = Convolution3d(width, 4 * width, (1, 1, 1))
        self.residual: nn.Module = nn.Identity()
        if first:
            self.residual = Convolution3d(before, 4 * width, (1, 1, 1), stride)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        inner = torch.relu(self.window(torch.relu(self.reduce(maps))))
        return torch.relu(self.expand(inner) + self.residual(maps))


class PoseConv3D(nn.Module):
    """SlowOnly-R50 with three stages on heatmaps, and a linear classifier.

    `forward(keypoints, present)` takes clips of the recipe "heatmap-64" (or "-56"), (N, M, T, 17, 3): pixels of the
    heatmap and scores. The heatmaps hold all persons at once, so `present` is not used. It returns tokens
    (N, ceil(T / 2), D), feature (N, D) and logits (N, L), D = 16 * width.

    blocks: of each stage. limbs: heatmaps of limbs in place of joints. side: S.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        blocks: Sequence[int] = (4, 6, 3),
        num_heatmaps: int = 17,
        width: int = 32,
        limbs: bool = False,
        side: int = 64,
    ) -> None:
        super().__init__()
        self.limbs, self.side = limbs, side
        self.stem = Convolution3d(num_heatmaps, width, (1, 7, 7))
        self.pool = nn.MaxPool3d((1, 3, 3), 1, (0, 1, 1))
        stages, before = [], width
        for index, (count, stride) in enumerate(zip(blocks, STRIDES, strict=True)):
            inner = width * 2**index
            made = []
            for number in range(count):
                # The first stage sees single frames.
                block_stride = stride if number == 0 else (1, 1)
                made.append(Bottleneck(before, inner, block_stride, deep=index > 0, first=number == 0))
                before = 4 * inner
            stages.append(nn.Sequential(*made))
        self.stages = nn.Sequential(*stages)
        self.width = before
        self.classify = nn.Linear(before, num_classes)

    def forward(self, keypoints: Tensor, present: Tensor) -> dict[str, Tensor]:
        """See the class."""
        heatmaps = (limb_heatmaps if self.limbs else joint_heatmaps)(keypoints, self.side)
        maps = self.stages(self.pool(torch.relu(self.stem(heatmaps))))  # (N, D, T', S', S')
        tokens = maps.mean(dim=(3, 4)).transpose(1, 2)
        feature = tokens.mean(dim=1)
        return {"tokens": tokens, "feature": feature, "logits": self.classify(feature)}
