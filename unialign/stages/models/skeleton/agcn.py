"""Multi-stream adaptive graph convolutions (2s-AGCN with attention) as PYSKL has them, for its published weights.

Legend: R = rows (one person of one clip), T frames, V joints, C and D channels in and out, E = D / 4 channels of the
relations, K = 3 subsets of neighbors.

Source: Shi et al., "Skeleton-Based Action Recognition with Multi-Stream Adaptive Graph Convolutional Networks", IEEE
TIP 2020 (arXiv 1912.06971), sections III-B and III-C, and kennymckormick/pyskl (models/gcns/aagcn.py).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unialign.stages.models.skeleton.graph_network import OURS, Block, Form, GraphNetwork
from unialign.stages.models.skeleton.stgcn import WINDOW, time_window
from unialign.types import Json


class AdaptiveGraphConvolution(nn.Module):
    """Spatial block (R, C, T, V) -> (R, D, T, V): a graph per clip, then attention over joints, frames and channels.

    The graph of a subset is a learned one plus `strength` times the similarity of joints in the clip. Each attention
    adds the features, weighted by a number in (0, 1), to themselves.
    """

    def __init__(self, in_channels: int, out_channels: int, partition: Tensor) -> None:
        super().__init__()
        inner = out_channels // 4
        self.graph = nn.Parameter(partition.clone())  # (K, V, V)
        self.strength = nn.Parameter(torch.zeros(1))
        self.giver = nn.ModuleList(nn.Conv2d(in_channels, inner, 1) for _ in partition)
        self.taker = nn.ModuleList(nn.Conv2d(in_channels, inner, 1) for _ in partition)
        self.project = nn.ModuleList(nn.Conv2d(in_channels, out_channels, 1) for _ in partition)
        self.norm = nn.BatchNorm2d(out_channels)
        self.residual: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.residual = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))
        reach = (partition.shape[-1] - 1) // 2  # all joints; one less if their number is even
        self.over_joints = nn.Conv1d(out_channels, 1, 2 * reach + 1, padding=reach)
        self.over_frames = nn.Conv1d(out_channels, 1, WINDOW, padding=WINDOW // 2)
        self.over_channels = nn.Sequential(
            nn.Linear(out_channels, out_channels // 2), nn.ReLU(), nn.Linear(out_channels // 2, out_channels)
        )

    def graphs(self, rows: Tensor, subset: int) -> Tensor:
        """The graphs (R, V, V) of a subset: entry [v, w] is how much joint w takes from joint v."""
        given, taken = (part[subset](rows).flatten(1, 2) for part in (self.giver, self.taker))  # (R, E * T, V)
        similar = torch.tanh(given.transpose(1, 2) @ taken / given.shape[1])
        adapted: Tensor = self.graph[subset] + self.strength * similar
        return adapted

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        mixed = sum(project(rows @ self.graphs(rows, subset)[:, None]) for subset, project in enumerate(self.project))
        out = torch.relu(self.norm(mixed) + self.residual(rows))
        out = out + out * self.over_joints(out.mean(dim=2)).sigmoid().unsqueeze(2)
        out = out + out * self.over_frames(out.mean(dim=3)).sigmoid().unsqueeze(3)
        excited: Tensor = out + out * self.over_channels(out.mean(dim=(2, 3))).sigmoid()[:, :, None, None]
        return excited


def _block(before: int, after: int, partition: Tensor, stride: int, residual: bool, dropout: float) -> Block:
    space = AdaptiveGraphConvolution(before, after, partition)
    return Block(space, time_window(after, stride, dropout), before, after, stride=stride, residual=residual)


class AGCN(GraphNetwork):
    """AGCN, see `GraphNetwork`."""

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
