"""Contract of Shift-GCN: the shifts are their definitions, gradients are true, the public weights fit strictly."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.models.skeleton.shift_gcn import ShiftGCN, joint_shift, temporal_shift


def literal_shift(rows: torch.Tensor, shifts: torch.Tensor, stride: int) -> torch.Tensor:
    num_frames = rows.shape[2]
    out = torch.zeros(*rows.shape[:2], num_frames // stride, rows.shape[3], dtype=rows.dtype)
    for channel in range(rows.shape[1]):
        for frame in range(num_frames // stride):
            position = frame * stride + float(shifts[channel]) + (0.5 if stride == 2 else 0.0)
            below = math.floor(position)
            for source, weight in ((below, 1 - (position - below)), (below + 1, position - below)):
                if 0 <= source < num_frames:
                    out[:, channel, frame] += weight * rows[:, channel, source]
    return out


@settings(max_examples=30, deadline=None)
@given(
    shifts=st.lists(st.floats(-9, 9), min_size=1, max_size=4), frames=st.integers(2, 9), stride=st.sampled_from([1, 2])
)
def test_temporal_shift_is_the_literal_interpolation(shifts: list[float], frames: int, stride: int):
    values = torch.tensor(shifts, dtype=torch.float64)
    rows = torch.randn(2, len(shifts), frames, 3, dtype=torch.float64)
    torch.testing.assert_close(temporal_shift(rows, values, stride), literal_shift(rows, values, stride))


@pytest.mark.parametrize("stride", [1, 2])
def test_temporal_shift_has_the_true_gradient(stride: int):
    rows = torch.randn(2, 3, 6, 2, dtype=torch.float64, requires_grad=True)
    # Away from whole numbers, where the derivative of a linear interpolation jumps.
    shifts = torch.tensor([-1.3, 0.2, 2.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: temporal_shift(x, y, stride), (rows, shifts))


def test_joint_shift_mixes_all_joints_and_is_undone():
    into, back = joint_shift(5, 4, 1), joint_shift(5, 4, -1)
    entries = torch.arange(20)
    assert torch.equal(entries[into][back], entries)
    # Joint v, channel c comes from joint (v + c) mod V, same channel.
    for joint in range(5):
        for channel in range(4):
            assert into[joint * 4 + channel] == ((joint + channel) % 5) * 4 + channel


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    # In training, batch normalization takes away the effect of the biases in front of it.
    network = ShiftGCN(num_classes=4).eval()
    network(torch.randn(2, 2, 8, 25, 3), torch.ones(2, 2).bool())["logits"].square().sum().backward()
    without = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_a_length_that_the_strides_do_not_divide_is_rejected():
    with pytest.raises(ValueError, match="multiple of 4"):
        ShiftGCN(num_classes=4)(torch.randn(1, 2, 6, 25, 3), torch.ones(1, 2).bool())


@pytest.mark.parametrize(("name", "num_classes"), [("ntu", 60), ("ntu120", 120)])
def test_public_weights_load_strictly_and_agree_on_the_shifts(shared_data: Path, name: str, num_classes: int):
    path = shared_data / "weights" / "shift_gcn" / f"{name}_ShiftGCN_joint_xsub.pt"
    state = torch.load(path, weights_only=True)
    network = ShiftGCN(num_classes=num_classes)
    fresh = network.state_dict()
    for key, value in state.items():
        if not value.is_floating_point() and "shift" in key:
            assert torch.equal(fresh[key], value), key
        if key.endswith("xpos"):
            assert value.abs().max() < 1e-9, key
    network.load_state_dict(state, strict=True)
