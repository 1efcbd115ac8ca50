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

from unialign.stages.models.skeleton.graph_network import OURS, Block, Form, GraphNetwork
from unialign.types import Json

DILATIONS = (1, 2, 3, 4)
NUM_BRANCHES = len(DILATIONS) + 2


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
        """The graph convolution alone, before normalization and residual."""
        projected = self.project(rows).unflatten(1, (len(self.graph), -1))  # (R, K, D, T, V)
        return torch.einsum("rkdtv,kvw->rdtw", projected, self.graph)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        return torch.relu(self.norm(self.mix(rows)) + self.residual(rows))


def pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    """What every temporal branch but the last begins with: 1x1 convolution, normalization, ReLU."""
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


def _block(before: int, after: int, partition: Tensor, stride: int, residual: bool, dropout: float) -> Block:
    space, time = GraphConvolution(before, after, partition), TemporalBranches(after, stride, dropout)
    return Block(space, time, before, after, stride=stride, residual=residual)


class STGCNPlusPlus(GraphNetwork):
    """ST-GCN++, see `GraphNetwork`. blocks: 10 as published, or 6 for small data."""

    def __init__(
        self,
        *,
        layout: str | Mapping[str, Json],
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        blocks: int = 10,
        dropout: float = 0.0,
        head_dropout: float = 0.0,
        form: Form = OURS,
    ) -> None:
        if width < NUM_BRANCHES:
            raise ValueError(f"width {width} is less than the {NUM_BRANCHES} branches of a block")
        super().__init__(
            _block,
            layout=layout,
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            blocks=blocks,
            dropout=dropout,
            head_dropout=head_dropout,
            form=form,
        )
