"""CTR-GCN: a graph of its own for every channel, refined by what a clip shows.

Legend: R = rows (one person of one clip), T frames, V joints, C and D channels in and out, E channels of the relations,
K = 3 subsets of neighbors.

Source: Chen et al., "Channel-wise Topology Refinement Graph Convolution for Skeleton-Based Action Recognition", ICCV
2021 (arXiv 2107.12213), section 3 and figures 3 and 4. The classifier and the treatment of persons are those of
`graph_network`, so that both networks are compared alike. Where the paper is silent: E is an eighth of C, at least 8.
`rectified` is from kennymckormick/pyskl, models/gcns/ctrgcn.py.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from unialign.stages.models.skeleton.graph_network import OURS, Block, Form, GraphNetwork
from unialign.types import Json

DILATIONS = (1, 2)
NUM_BRANCHES = len(DILATIONS) + 2
WINDOW = 5  # frames


class RefinedGraphConvolution(nn.Module):
    """Spatial block (R, C, T, V) -> (R, D, T, V): a 1x1 convolution per subset, mixed along refined graphs.

    The graph of a subset is a learned one that all channels share, plus `strength` times relations of the channel:
    tanh of the differences between the joints' embeddings, averaged over time. `strength` starts at 0.
    """

    def __init__(self, in_channels: int, out_channels: int, partition: Tensor) -> None:
        super().__init__()
        inner = max(8, in_channels // 8)
        self.graph = nn.Parameter(partition.clone())  # (K, V, V)
        self.strength = nn.Parameter(torch.zeros(1))
        self.taker = nn.ModuleList(nn.Conv2d(in_channels, inner, 1) for _ in partition)
        self.giver = nn.ModuleList(nn.Conv2d(in_channels, inner, 1) for _ in partition)
        self.relate = nn.ModuleList(nn.Conv2d(inner, out_channels, 1) for _ in partition)
        self.project = nn.ModuleList(nn.Conv2d(in_channels, out_channels, 1) for _ in partition)
        self.norm = nn.BatchNorm2d(out_channels)
        self.residual: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.residual = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))

    def graphs(self, rows: Tensor, subset: int) -> Tensor:
        """The refined graphs (R, D, V, V) of a subset: entry [v, w] is how much joint w takes from joint v."""
        pooled = rows.mean(dim=2, keepdim=True)
        taken, given = self.taker[subset](pooled).squeeze(2), self.giver[subset](pooled).squeeze(2)  # (R, E, V)
        relations = torch.tanh(taken.unsqueeze(2) - given.unsqueeze(3))  # (R, E, V, V)
        refined: Tensor = self.graph[subset] + self.strength * self.relate[subset](relations)
        return refined

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        mixed = sum(project(rows) @ self.graphs(rows, subset) for subset, project in enumerate(self.project))
        return torch.relu(self.norm(mixed) + self.residual(rows))


class MultiScaleTime(nn.Module):
    """Temporal block (R, D, T, V) -> (R, D, ceil(T / stride), V).

    Four branches share the channels: convolutions over 5 frames with dilations 1 and 2, a maximum over 3 frames, a 1x1
    convolution. rectified: a ReLU behind them, which PYSKL's networks have and the paper's do not.
    """

    def __init__(self, channels: int, stride: int, dropout: float, *, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        part = channels // NUM_BRANCHES
        first = channels - part * (NUM_BRANCHES - 1)  # takes what is left over by the division
        branches: list[nn.Module] = []
        for index, dilation in enumerate(DILATIONS):
            size = part if index else first
            reach = dilation * (WINDOW // 2)
            window = nn.Conv2d(size, size, (WINDOW, 1), (stride, 1), (reach, 0), (dilation, 1))
            branches.append(nn.Sequential(*_reduced(channels, size), window, nn.BatchNorm2d(size)))
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        branches.append(nn.Sequential(*_reduced(channels, part), pool, nn.BatchNorm2d(part)))
        branches.append(nn.Sequential(nn.Conv2d(channels, part, 1, (stride, 1)), nn.BatchNorm2d(part)))
        self.branches = nn.ModuleList(branches)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        joined = torch.cat([branch(rows) for branch in self.branches], dim=1)
        return torch.as_tensor(self.dropout(joined.relu() if self.rectified else joined))


def _block(
    before: int,
    after: int,
    partition: Tensor,
    stride: int,
    residual: bool,
    dropout: float,
    *,
    rectified: bool = False,
) -> Block:
    space = RefinedGraphConvolution(before, after, partition)
    time = MultiScaleTime(after, stride, dropout, rectified=rectified)
    return Block(space, time, before, after, stride=stride, residual=residual)


class CTRGCN(GraphNetwork):
    """CTR-GCN, see `GraphNetwork`. blocks: 10 as published, or 6 for small data. rectified: see `MultiScaleTime`."""

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
        rectified: bool = False,
    ) -> None:
        if width < NUM_BRANCHES:
            raise ValueError(f"width {width} is less than the {NUM_BRANCHES} branches of a block")
        super().__init__(
            partial(_block, rectified=rectified),
            layout=layout,
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            blocks=blocks,
            dropout=dropout,
            head_dropout=head_dropout,
            form=form,
        )


def _reduced(channels: int, size: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, size, 1), nn.BatchNorm2d(size), nn.ReLU()]
