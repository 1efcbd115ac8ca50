"""ST-GCN as PYSKL has it, for its published weights.

Legend: R = rows (one person of one clip), T frames, V joints, C and D channels in and out, K = 3 subsets of neighbors.

Source: Yan et al., "Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action Recognition", AAAI 2018
(arXiv 1801.07455), sections 3.2 to 3.6, and the settings of kennymckormick/pyskl (models/gcns/stgcn.py).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unialign.stages.models.skeleton.graph_network import OURS, Block, Form, GraphNetwork
from unialign.types import Json

WINDOW = 9  # frames


class WeightedGraphConvolution(nn.Module):
    """Spatial block (R, C, T, V) -> (R, D, T, V): a fixed graph whose edges have learned weights.

    `graph` comes with the weights (ST-GCN's partition by distance to the center); here it begins as PYSKL's.
    """

    graph: Tensor

    def __init__(self, in_channels: int, out_channels: int, partition: Tensor) -> None:
        super().__init__()
        self.register_buffer("graph", partition.clone())  # (K, V, V)
        self.importance = nn.Parameter(torch.ones_like(partition))
        self.project = nn.Conv2d(in_channels, out_channels * len(partition), 1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        projected = self.project(rows).unflatten(1, (len(self.graph), -1))  # (R, K, D, T, V)
        mixed = torch.einsum("rkdtv,kvw->rdtw", projected, self.graph * self.importance)
        return torch.relu(self.norm(mixed))


def time_window(channels: int, stride: int, dropout: float) -> nn.Sequential:
    """Temporal block (R, D, T, V) -> (R, D, ceil(T / stride), V): one convolution over nine frames."""
    window = nn.Conv2d(channels, channels, (WINDOW, 1), (stride, 1), (WINDOW // 2, 0))
    return nn.Sequential(window, nn.BatchNorm2d(channels), nn.Dropout(dropout))


def _block(before: int, after: int, partition: Tensor, stride: int, residual: bool, dropout: float) -> Block:
    space = WeightedGraphConvolution(before, after, partition)
    return Block(space, time_window(after, stride, dropout), before, after, stride=stride, residual=residual)


class STGCN(GraphNetwork):
    """ST-GCN, see `GraphNetwork`."""

    def __init__(
        self,
        *,
        layout: str | Mapping[str, Json],
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        blocks: int = 10,
        form: Form = OURS,
    ) -> None:
        super().__init__(
            _block,
            layout=layout,
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            blocks=blocks,
            form=form,
        )
