"""Shift-GCN, written so that the public NTU RGB+D weights load strictly.

Legend: N clips, M persons, T frames, V joints, C channels, R = N * M rows, L classes.

Source: Cheng et al., "Skeleton-Based Action Recognition with Shift Graph Convolutional Network", CVPR 2020, and the
behavior of kchengiva/Shift-GCN (CC-BY-NC-4.0, as are its weights). Deviations: the temporal shift is plain torch and
passes the true gradient (there a CUDA kernel replaces the gradient of a shift by its sign times 0.01), and the shift
along joints, which the public kernel allows but never learns (|xpos| < 1e-9 in its weights), is left out.

Parameter and buffer names are those of the public state dict.
"""

import torch
from torch import Tensor, nn

WIDTHS = (64, 64, 64, 64, 128, 128, 128, 256, 256, 256)
STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)


def temporal_shift(rows: Tensor, shifts: Tensor, stride: int) -> Tensor:
    """Each channel moved along time by its own real number of frames: (R, C, T, V) -> (R, C, T // stride, V).

    Output frame t of channel c is the input at t * stride + shifts[c], linearly interpolated between the two frames
    around; beyond the ends it is zero. With a stride of 2 the position is half a frame later, in the middle of the two
    frames that an output frame stands for.
    """
    num_frames = rows.shape[2]
    positions = shifts if stride == 1 else shifts + 0.5
    whole = torch.floor(positions.detach())
    part = (positions - whole)[:, None, None]  # (C, 1, 1)
    starts = torch.arange(num_frames // stride, device=rows.device) * stride
    lower = whole.long()[:, None] + starts  # (C, T')
    channels = torch.arange(rows.shape[1], device=rows.device)[:, None]

    def term(frames: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        inside = ((frames >= 0) & (frames < num_frames))[:, :, None]
        return rows[:, channels, frames.clamp(0, num_frames - 1)], inside * weight  # (R, C, T', V), (C, T', 1)

    values, weights = term(lower, 1 - part)
    return torch.addcmul(values * weights, *term(lower + 1, part))


def joint_shift(num_joints: int, channels: int, direction: int) -> Tensor:
    """For each entry of a flattened (V, C) frame the entry that moves there: channel c comes from `c` joints further.

    `direction` is 1 for the shift in front of the pointwise convolution and -1 for its undoing behind it.
    """
    entries = torch.arange(num_joints * channels)
    return (entries + direction * (entries % channels) * channels) % (num_joints * channels)


class Shift(nn.Module):
    """Learned temporal shift, one real number of frames a channel."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.ypos = nn.Parameter(torch.empty(channels).uniform_(-1, 1))
        self.register_buffer("xpos", torch.zeros(channels))  # unused, see the top of the file

    def forward(self, rows: Tensor) -> Tensor:
        """(R, C, T, V) -> (R, C, T // stride, V)."""
        return temporal_shift(rows, self.ypos, self.stride)


class ShiftGraphConvolution(nn.Module):
    """Spatial block (R, C, T, V) -> (R, D, T, V): shift over all joints, masked pointwise convolution, shift back."""

    shift_in: Tensor
    shift_out: Tensor

    def __init__(self, in_channels: int, out_channels: int, num_joints: int) -> None:
        super().__init__()
        self.Linear_weight = nn.Parameter(torch.randn(in_channels, out_channels) * out_channels**-0.5)
        self.Linear_bias = nn.Parameter(torch.zeros(1, 1, out_channels))
        self.Feature_Mask = nn.Parameter(torch.zeros(1, num_joints, in_channels))
        self.bn = nn.BatchNorm1d(num_joints * out_channels)
        self.down: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.down = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))
        self.register_buffer("shift_in", joint_shift(num_joints, in_channels, 1))
        self.register_buffer("shift_out", joint_shift(num_joints, out_channels, -1))

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        num_rows, channels, num_frames, num_joints = rows.shape
        frames = rows.permute(0, 2, 3, 1).reshape(num_rows * num_frames, num_joints * channels)
        shifted = frames[:, self.shift_in].view(-1, num_joints, channels)  # (R * T, V, C)
        weighted = shifted * (torch.tanh(self.Feature_Mask) + 1)
        projected = weighted @ self.Linear_weight + self.Linear_bias  # (R * T, V, D)
        back = self.bn(projected.flatten(1)[:, self.shift_out])
        space = back.view(num_rows, num_frames, num_joints, -1).permute(0, 3, 1, 2)  # (R, D, T, V)
        return torch.relu(space + self.down(rows))


class ShiftTemporalConvolution(nn.Module):
    """Temporal block (R, D, T, V) -> (R, D, T // stride, V): shift, pointwise convolution, ReLU, shift."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shift_in = Shift(channels, 1)
        self.shift_out = Shift(channels, stride)
        self.temporal_linear = nn.Conv2d(channels, channels, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        mixed = torch.relu(self.temporal_linear(self.shift_in(self.bn(rows))))
        return torch.as_tensor(self.bn2(self.shift_out(mixed)))


class Shortcut(nn.Module):
    """Residual of a block that changes width or rate: (R, C, T, V) -> (R, D, T // stride, V)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, (stride, 1))
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        return torch.as_tensor(self.bn(self.conv(rows)))


class Unit(nn.Module):
    """One of the ten blocks (R, C, T, V) -> (R, D, T // stride, V)."""

    def __init__(self, in_channels: int, out_channels: int, num_joints: int, *, stride: int, residual: bool) -> None:
        super().__init__()
        self.gcn1 = ShiftGraphConvolution(in_channels, out_channels, num_joints)
        self.tcn1 = ShiftTemporalConvolution(out_channels, stride)
        self.residual: nn.Module | None = None
        if residual and in_channels == out_channels and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            self.residual = Shortcut(in_channels, out_channels, stride)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        out = self.tcn1(self.gcn1(rows))
        return torch.relu(out if self.residual is None else out + self.residual(rows))


class ShiftGCN(nn.Module):
    """Ten units and a linear classifier over the mean of frames, joints and all M person slots.

    `forward(keypoints, present)` takes (N, M, T, V, C) keypoints, T a multiple of 4, and a mask (N, M); it returns
    tokens (N, T / 4, 256), their mean feature (N, 256) and logits (N, L).

    The public weights were trained with absent persons as zeros that take part in the mean, so `present` is not used: a
    lone person's features are the mean of that person's and of a fixed vector.
    """

    width = WIDTHS[-1]

    def __init__(self, *, num_classes: int, num_joints: int = 25, num_persons: int = 2, in_channels: int = 3) -> None:
        super().__init__()
        self.data_bn = nn.BatchNorm1d(num_persons * num_joints * in_channels)
        before = in_channels
        for index, (after, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
            unit = Unit(before, after, num_joints, stride=stride, residual=index > 0)
            self.add_module(f"l{index + 1}", unit)
            before = after
        self.fc = nn.Linear(before, num_classes)

    def forward(self, keypoints: Tensor, present: Tensor) -> dict[str, Tensor]:
        """See the class."""
        num_clips, num_persons, num_frames, num_joints, channels = keypoints.shape
        if num_frames % 4:
            raise ValueError(f"Shift-GCN needs a multiple of 4 frames, not {num_frames}")
        flat = keypoints.permute(0, 1, 3, 4, 2).reshape(num_clips, -1, num_frames)  # (N, M * V * C, T)
        normal = self.data_bn(flat).view(num_clips * num_persons, num_joints, channels, num_frames)
        rows = normal.permute(0, 2, 3, 1).contiguous()  # (R, C, T, V)
        for index in range(len(WIDTHS)):
            rows = self.get_submodule(f"l{index + 1}")(rows)
        persons = rows.mean(dim=3).unflatten(0, (num_clips, num_persons))  # (N, M, D, T')
        tokens = persons.mean(dim=1).transpose(1, 2)
        feature = tokens.mean(dim=1)
        return {"tokens": tokens, "feature": feature, "logits": self.fc(feature)}
