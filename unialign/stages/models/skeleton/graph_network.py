"""What graph networks of skeletons share: blocks over space and time, a mean over joints and persons, a classifier.

Legend: N clips, M persons, T frames, V joints, C channels, R = rows (one person of one clip), L classes, D width of the
features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unialign.stages.models.skeleton.graph import spatial_partition
from unialign.stages.skeleton_layouts import layout_from
from unialign.types import Json

# By the number of blocks: those, counted from 1, that have twice the width and half the frames of the one before.
WIDER_BLOCKS: Mapping[int, tuple[int, int]] = {10: (5, 8), 6: (3, 5)}

# (channels in, channels out, partition, stride, residual, dropout) to a module (R, C, T, V) -> (R, D, T / stride, V).
MakeBlock = Callable[[int, int, Tensor, int, bool, float], nn.Module]


@dataclass(frozen=True)
class Form:
    """How a network of pyskl's differs from ours. Source: kennymckormick/pyskl, models/gcns and heads/simple_head.py.

    wider: blocks, counted from 1, with twice the width and half the frames; empty: those of `WIDER_BLOCKS`.
    norm_persons: persons that share one input normalization, each with scales of its own (pyskl's "MVC"); 1: all alike.
    count_absent: absent persons are all-zero persons, which take part in the mean as any other.
    """

    wider: tuple[int, ...] = ()
    norm_persons: int = 1
    count_absent: bool = False


OURS = Form()


class Block(nn.Module):
    """One block (R, C, T, V) -> (R, D, ceil(T / stride), V): space, time, residual around both.

    space: (R, C, T, V) -> (R, D, T, V). time: (R, D, T, V) -> (R, D, ceil(T / stride), V).
    """

    def __init__(
        self, space: nn.Module, time: nn.Module, in_channels: int, out_channels: int, *, stride: int, residual: bool
    ) -> None:
        super().__init__()
        self.space = space
        self.time = time
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


class GraphNetwork(nn.Module):
    """Blocks and a linear classifier over the mean of frames, joints and persons.

    `forward(keypoints, present, persons)` takes (N, M, T, V, C) keypoints, a bool mask (N, M) and, in training, where
    the mask is set in `present.flatten()`, (P,) int64; without it a GPU has to be asked and waited for. It returns

    * tokens (N, ceil(T / 4), D): the mean over joints and present persons, D = 4 * width;
    * feature (N, D): the mean of the tokens;
    * logits (N, L).

    A clip without any present person gives NaN, unless the network's `Form` counts absent persons.
    """

    def __init__(
        self,
        make_block: MakeBlock,
        *,
        layout: str | Mapping[str, Json],
        num_classes: int,
        in_channels: int,
        width: int,
        blocks: int = 10,
        dropout: float = 0.0,
        head_dropout: float = 0.0,
        form: Form = OURS,
    ) -> None:
        """layout: the name of a known one, or a description (see `skeleton_layouts.Layout.plain`)."""
        super().__init__()
        partition = torch.tensor(spatial_partition(layout_from(layout)))
        self.form = form
        self.norm = nn.BatchNorm1d(form.norm_persons * partition.shape[-1] * in_channels)
        made, before, after = [], in_channels, width
        for number in range(1, blocks + 1):
            wider = number in (form.wider or WIDER_BLOCKS[blocks])
            after = after * 2 if wider else after
            # The first block has neither a residual nor dropout, as published.
            first = number == 1
            made.append(make_block(before, after, partition, 2 if wider else 1, not first, 0.0 if first else dropout))
            before = after
        self.blocks = nn.Sequential(*made)
        self.width = after
        self.classify = nn.Linear(after, num_classes)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)
        self.head_dropout = head_dropout

    def encode(self, rows: Tensor) -> Tensor:
        """Tokens (R, T', D) of single persons (R, T, V, C)."""
        num_rows, num_frames, num_joints, channels = rows.shape
        flat = rows.flatten(2)  # (R, T, V * C)
        together = flat.view(-1, self.form.norm_persons, *flat.shape[1:])  # (R / M, M, T, V * C), M is often 1
        flat = together.transpose(2, 3).flatten(1, 2)  # (R / M, M * V * C, T)
        normal = self.norm(flat).view(num_rows, num_joints, channels, num_frames)
        maps = self.blocks(normal.permute(0, 2, 3, 1).contiguous())  # (R, D, T', V)
        return torch.as_tensor(maps.mean(dim=3).transpose(1, 2))

    def forward(self, keypoints: Tensor, present: Tensor, persons: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        slots = keypoints.flatten(0, 1)
        if self.training and not self.form.count_absent:
            # Only persons that are there count in the batch statistics.
            there = present.flatten().nonzero().squeeze(1) if persons is None else persons
            encoded = self.encode(slots[there])
            rows = encoded.new_zeros(slots.shape[0], *encoded.shape[1:]).index_put((there,), encoded)
        else:
            # All rows, so that the shapes, and with them the last bits of a feature, do not depend on who is there.
            rows = self.encode(slots)
        counted = torch.ones_like(present) if self.form.count_absent else present
        weights = counted.to(rows.dtype)[:, :, None, None]  # (N, M, 1, 1)
        per_person = rows.view(*present.shape, *rows.shape[1:]).masked_fill(weights == 0, 0)
        tokens = per_person.sum(dim=1) / weights.sum(dim=1)  # (N, T', D)
        feature = tokens.mean(dim=1)
        kept = nn.functional.dropout(feature, self.head_dropout, self.training) if self.head_dropout else feature
        return {"tokens": tokens, "feature": feature, "logits": self.classify(kept)}
