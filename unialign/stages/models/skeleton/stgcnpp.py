"""ST-GCN++, the graph network that skeleton encoders trained here use.

Legend: N clips, M persons, T frames, V joints, C channels, R = rows (one person of one clip), K = 3 subsets, L classes,
D width of the features.

Source: Duan et al., "PYSKL: Towards Good Practices for Skeleton Action Recognition", arXiv 2205.09443, section 3, and
the settings of kennymckormick/pyskl (configs/stgcn++). Deviation: persons that are absent take no part in the mean nor,
in training, in the batch statistics (there they count as all-zero persons).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unialign.stages.models.skeleton.graph import spatial_partition
from unialign.stages.skeleton_layouts import layout_from
from unialign.types import Json

DILATIONS = (1, 2, 3, 4)
NUM_BRANCHES = len(DILATIONS) + 2
NUM_BLOCKS = 10
WIDER_BLOCKS = (5, 8)  # counted from 1: twice the width, half the frames


class GraphConvolution(nn.Module):
    """Spatial block (R, C, T, V) -> (R, D, T, V): one 1x1 convolution a subset, mixed along a learned graph.

    The graph is a parameter that starts as the partition; the residual is inside the block.
    """

    def __init__(self, in_channels: int, out_channels: int, partition: Tensor) -> None:
        super().__init__()
        self.graph = nn.Parameter(partition.clone())  # (K, V, V)
        self.project = nn.Conv2d(in_channels, out_channels * len(partition), 1)
        self.norm = nn.BatchNorm2d(out_channels)
        self.residual: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.residual = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))

    def mix(self, rows: Tensor) -> Tensor:
        """The graph convolution alone, before normalisation and residual."""
        projected = self.project(rows).unflatten(1, (len(self.graph), -1))  # (R, K, D, T, V)
        return torch.einsum("rkdtv,kvw->rdtw", projected, self.graph)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        return torch.relu(self.norm(self.mix(rows)) + self.residual(rows))


def pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    """What every temporal branch but the last begins with: 1x1 convolution, normalisation, ReLU."""
    return [nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels), nn.ReLU()]


class TemporalBranches(nn.Module):
    """Temporal block (R, D, T, V) -> (R, D, ceil(T / stride), V).

    Six branches share the channels: four convolutions over 3 frames with dilations 1-4, a maximum over 3 frames, a 1x1
    convolution; a 1x1 convolution joins them.
    """

    def __init__(self, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        part = channels // NUM_BRANCHES
        branches: list[nn.Module] = []
        for index, dilation in enumerate(DILATIONS):
            # The first branch takes what is left over by the division.
            size = channels - part * (NUM_BRANCHES - 1) if index == 0 else part
            window = nn.Conv2d(size, size, (3, 1), (stride, 1), (dilation, 0), (dilation, 1))
            branches.append(nn.Sequential(*pointwise(channels, size), window))
        branches.append(nn.Sequential(*pointwise(channels, part), nn.MaxPool2d((3, 1), (stride, 1), (1, 0))))
        branches.append(nn.Conv2d(channels, part, 1, (stride, 1)))
        self.branches = nn.ModuleList(branches)
        self.join = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1))
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        joined = self.join(torch.cat([branch(rows) for branch in self.branches], dim=1))
        return torch.as_tensor(self.dropout(self.norm(joined)))


class Block(nn.Module):
    """One of the ten blocks (R, C, T, V) -> (R, D, ceil(T / stride), V): space, time, residual around both."""

    def __init__(
        self, in_channels: int, out_channels: int, partition: Tensor, *, stride: int, residual: bool, dropout: float
    ) -> None:
        super().__init__()
        self.space = GraphConvolution(in_channels, out_channels, partition)
        self.time = TemporalBranches(out_channels, stride, dropout)
        self.residual: nn.Module | None = None
        if residual and in_channels == out_channels and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, (stride, 1))
            self.residual = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        out = self.time(self.space(rows))
        return torch.relu(out if self.residual is None else out + self.residual(rows))


class STGCNPlusPlus(nn.Module):
    """Ten blocks and a linear classifier over the mean of frames, joints and persons.

    `forward(keypoints, present)` takes (N, M, T, V, C) keypoints and a bool mask (N, M); it returns

    * tokens (N, ceil(T / 4), D): the mean over joints and present persons, D = 4 * width;
    * feature (N, D): the mean of the tokens;
    * logits (N, L).

    layout: a name of `skeleton_layouts.LAYOUTS`, or a description of a layout (`Layout.plain`).
    A clip without any present person gives NaN.
    """

    def __init__(
        self,
        *,
        layout: str | Mapping[str, Json],
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width < NUM_BRANCHES:
            raise ValueError(f"width {width} is less than the {NUM_BRANCHES} branches of a block")
        partition = torch.from_numpy(spatial_partition(layout_from(layout)))
        self.norm = nn.BatchNorm1d(partition.shape[-1] * in_channels)
        blocks, before, after = [], in_channels, width
        for number in range(1, NUM_BLOCKS + 1):
            wider = number in WIDER_BLOCKS
            after = after * 2 if wider else after
            # The first block has neither a residual nor dropout, as published.
            first = number == 1
            blocks.append(
                Block(
                    before,
                    after,
                    partition,
                    stride=2 if wider else 1,
                    residual=not first,
                    dropout=0.0 if first else dropout,
                )
            )
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.width = after
        self.classify = nn.Linear(after, num_classes)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    def encode(self, rows: Tensor) -> Tensor:
        """Tokens (R, T', D) of single persons (R, T, V, C)."""
        num_rows, num_frames, num_joints, channels = rows.shape
        flat = rows.flatten(2).transpose(1, 2)  # (R, V * C, T)
        normal = self.norm(flat).view(num_rows, num_joints, channels, num_frames)
        maps = self.blocks(normal.permute(0, 2, 3, 1).contiguous())  # (R, D, T', V)
        return torch.as_tensor(maps.mean(dim=3).transpose(1, 2))

    def forward(self, keypoints: Tensor, present: Tensor) -> dict[str, Tensor]:
        """See the class."""
        persons, mask = keypoints.flatten(0, 1), present.flatten()
        if self.training:
            # Only persons that are there count in the batch statistics.
            encoded = self.encode(persons[mask])
            rows = encoded.new_zeros(len(mask), *encoded.shape[1:]).index_put((mask,), encoded)
        else:
            # All rows, so that the shapes, and with them the last bits of a feature, do not depend on who is there.
            rows = self.encode(persons)
        weights = present.to(rows.dtype)[:, :, None, None]  # (N, M, 1, 1)
        per_person = rows.view(*present.shape, *rows.shape[1:]).masked_fill(weights == 0, 0)
        tokens = per_person.sum(dim=1) / weights.sum(dim=1)  # (N, T', D)
        feature = tokens.mean(dim=1)
        return {"tokens": tokens, "feature": feature, "logits": self.classify(feature)}
