"""EfficientGCN, for its published weights: three inputs joined early, cheap temporal layers, attention to joints.

Legend: N clips, M persons, R = N M rows (one person of one clip), T frames, V joints, C and D channels in and out,
E reduced channels, K = 3 subsets of neighbors, L classes.

Source: Song et al., "Constructing Stronger and Faster Baselines for Skeleton-based Action Recognition", TPAMI 2022
(arXiv 2106.15125), sections 3 and 4. What the paper leaves open is from a copy of the authors' code
(1suancaiyu/EfficientGCNv1): swish in all layers, hard swish in the attention's bottleneck, the mean over joints,
frames and both persons before the classifier. JustinXu0/EfficientGCN_paddle agrees with it. Other copies do not:
Wuxiao85/paddle_EfficientGCNv pads the joints in a separable layer, whose residual then no longer fits, and
howmushroomsay/actionsystem ends with a softmax.
"""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from unialign.stages.models.skeleton.graph import spatial_partition
from unialign.stages.skeleton_layouts import layout_from
from unialign.types import Json

INPUTS = 3  # joints, velocities, bones
INPUT_CHANNELS = 6  # of each input, see `efficientgcn_clips`
WINDOW = 5  # frames
SAND_GLASS, SEPARABLE = "sand-glass", "separable"
LAYERS = (SAND_GLASS, SEPARABLE)

# (channels, stride, temporal layers) of a stage.
Stage = tuple[int, int, int]


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


def _window(channels: int, stride: int = 1, *, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, (WINDOW, 1), (stride, 1), (WINDOW // 2, 0), groups=groups)


def _shortcut(channels: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 else _normed(nn.Conv2d(channels, channels, 1, (stride, 1)))


class DistanceGraph(nn.Module):
    """Spatial layer (R, C, T, V) -> (R, D, T, V): a fixed graph, one subset for each distance, with learned weights.

    `graph` comes with the weights: joints 0, 1 and 2 bones apart, each divided by how many are at most 10 bones away.
    Here it begins as the partition of the other networks.
    """

    graph: Tensor

    def __init__(self, in_channels: int, out_channels: int, partition: Tensor) -> None:
        super().__init__()
        self.register_buffer("graph", partition.clone())  # (K, V, V)
        self.importance = nn.Parameter(torch.ones_like(partition))
        self.project = nn.Conv2d(in_channels, out_channels * len(partition), 1)
        self.norm = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels
        self.residual = nn.Identity() if same else _normed(nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        projected = self.project(rows).unflatten(1, (len(self.graph), -1))  # (R, K, D, T, V)
        mixed = torch.einsum("rkdtv,kvw->rdtw", projected, self.graph * self.importance)
        return silu(self.norm(mixed) + self.residual(rows))


class FullWindow(nn.Module):
    """Temporal layer (R, C, T, V) -> the same shape: one full convolution over five frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.window = _window(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        return silu(self.norm(self.window(rows)) + rows)


class SandGlass(nn.Module):
    """Temporal layer (R, C, T, V) -> (R, C, ceil(T / stride), V): depthwise, 1x1 to E, 1x1 back to C, depthwise."""

    def __init__(self, channels: int, stride: int, *, inner: int) -> None:
        super().__init__()
        self.before = _normed(_window(channels, groups=channels))
        self.narrow = _normed(nn.Conv2d(channels, inner, 1))
        self.widen = _normed(nn.Conv2d(inner, channels, 1))
        self.after = _normed(_window(channels, stride, groups=channels))
        self.residual = _shortcut(channels, stride)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        narrow = self.narrow(silu(self.before(rows)))
        return torch.as_tensor(self.after(silu(self.widen(narrow))) + self.residual(rows))


class Separable(nn.Module):
    """Temporal layer (R, C, T, V) -> (R, C, ceil(T / stride), V): 1x1 to more channels, depthwise, 1x1 back to C.

    expand: times as many channels in between; 0 leaves the first convolution out.
    """

    def __init__(self, channels: int, stride: int, *, expand: int) -> None:
        super().__init__()
        inner = channels * expand or channels
        self.widen = _normed(nn.Conv2d(channels, inner, 1)) if expand else None
        self.window = _normed(_window(inner, stride, groups=inner))
        self.narrow = _normed(nn.Conv2d(inner, channels, 1))
        self.residual = _shortcut(channels, stride)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        wide = rows if self.widen is None else silu(self.widen(rows))
        return torch.as_tensor(self.narrow(silu(self.window(wide))) + self.residual(rows))


class JointAttention(nn.Module):
    """Weighs (R, C, T, V) by frame and by joint, each from the mean over the other (ST-JointAtt, section 4.4)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.squeeze = _normed(nn.Conv2d(channels, inner, 1))
        self.over_frames = nn.Conv2d(inner, channels, 1)
        self.over_joints = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        # Joints take their place behind the frames, so that one normalization sees both.
        means = torch.cat([rows.mean(dim=3), rows.mean(dim=2)], dim=2).unsqueeze(3)  # (R, C, T + V, 1)
        squeezed = nn.functional.hardswish(self.squeeze(means))
        frames, joints = torch.split(squeezed, list(rows.shape[2:]), dim=2)
        weights = self.over_frames(frames).sigmoid() * self.over_joints(joints).sigmoid().transpose(2, 3)
        return silu(self.norm(rows * weights) + rows)


class EfficientStage(nn.Module):
    """One stage (R, C, T, V) -> (R, D, ceil(T / stride), V): a spatial layer, some temporal ones, attention."""

    def __init__(
        self, in_channels: int, stage: Stage, partition: Tensor, *, layer: str, expand: int, reduction: int
    ) -> None:
        super().__init__()
        channels, stride, depth = stage
        inner = channels // reduction
        self.space = DistanceGraph(in_channels, channels, partition)
        strides = [stride if index == 0 else 1 for index in range(depth)]
        self.times = nn.Sequential(
            *(
                SandGlass(channels, each, inner=inner)
                if layer == SAND_GLASS
                else Separable(channels, each, expand=expand)
                for each in strides
            )
        )
        self.attend = JointAttention(channels, inner)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        return torch.as_tensor(self.attend(self.times(self.space(rows))))


class InputBranch(nn.Module):
    """One input (R, 6, T, V) -> (R, D, T', V): normalization, a stem, the first stages."""

    def __init__(self, stem: int, stages: nn.Sequential, partition: Tensor) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(INPUT_CHANNELS)
        self.stem_space = DistanceGraph(INPUT_CHANNELS, stem, partition)
        self.stem_time = FullWindow(stem)
        self.stages = stages

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        return torch.as_tensor(self.stages(self.stem_time(self.stem_space(self.norm(rows)))))


class EfficientGCN(nn.Module):
    """EfficientGCN-B0 with sand-glass layers unless told otherwise.

    `forward(keypoints, present)` takes clips of the recipe "efficientgcn-3d", (N, M, T, V, 18), and a mask (N, M) that
    changes nothing: an absent person is one at zero and counts in the mean, as in training. It returns tokens
    (N, T', D), feature (N, D) and logits (N, L).
    """

    def __init__(
        self,
        *,
        layout: str | Mapping[str, Json],
        num_classes: int,
        stem: int = 64,
        branch: Sequence[Stage] = ((48, 1, 0), (32, 1, 0)),
        trunk: Sequence[Stage] = ((64, 2, 1), (128, 2, 1)),
        layer: str = SAND_GLASS,
        expand: int = 0,
        reduction: int = 2,
    ) -> None:
        """branch, trunk: stages of each input, and behind them. layer: one of `LAYERS`. expand: see `Separable`.

        reduction: channels of a stage for each one in a bottleneck. Raises `ValueError` for another layer.
        """
        super().__init__()
        if layer not in LAYERS:
            raise ValueError(f"a temporal layer {layer!r}; known are {', '.join(LAYERS)}")
        partition = torch.tensor(spatial_partition(layout_from(layout)))

        def stages(before: int, sizes: Sequence[Stage]) -> nn.Sequential:
            befores = [before, *(channels for channels, _, _ in sizes)]
            return nn.Sequential(
                *(
                    EfficientStage(each, size, partition, layer=layer, expand=expand, reduction=reduction)
                    for each, size in zip(befores, sizes, strict=False)
                )
            )

        self.branches = nn.ModuleList(InputBranch(stem, stages(stem, branch), partition) for _ in range(INPUTS))
        joined = INPUTS * (branch[-1][0] if branch else stem)
        self.trunk = stages(joined, trunk)
        self.width = trunk[-1][0] if trunk else joined
        self.frames_per_token = prod(stride for _, stride, depth in (*branch, *trunk) if depth)
        self.classify = nn.Linear(self.width, num_classes)

    def forward(self, keypoints: Tensor, present: Tensor, persons: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        del persons  # all rows count
        rows = keypoints.flatten(0, 1).permute(0, 3, 1, 2)  # (R, 18, T, V)
        inputs = zip(self.branches, torch.split(rows, INPUT_CHANNELS, dim=1), strict=True)
        maps = self.trunk(torch.cat([branch(each) for branch, each in inputs], dim=1))  # (R, D, T', V)
        tokens = maps.mean(dim=3).unflatten(0, present.shape).mean(dim=1).transpose(1, 2)
        feature = tokens.mean(dim=1)
        return {"tokens": tokens, "feature": feature, "logits": self.classify(feature)}
