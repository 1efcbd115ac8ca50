"""Contract of stochastic depth: which blocks are skipped, how often, and only in training."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from unialign.errors import UsageError
from unialign.stages.models.backbones.tube_transformer import TubeTransformer
from unialign.stages.models.drop_path import set_drop_path


def transformer() -> TubeTransformer:
    torch.manual_seed(0)
    return TubeTransformer(width=16, depth=3, heads=2, hidden=32, patch=8, num_frames=2, positions="sines")


def test_later_blocks_are_skipped_more_often_and_evaluation_skips_none() -> None:
    network, frames = transformer(), torch.randn(64, 2, 3, 16, 16)
    plain = network.eval()(frames)["pooled"]
    set_drop_path(network, 0.5)
    assert [each.p for each in network.modules() if isinstance(each, StochasticDepth)] == [0.0, 0.25, 0.5]
    assert torch.equal(network.eval()(frames)["pooled"], plain)
    network.train()
    changed = (network(frames)["pooled"] - plain).abs().amax(dim=1) > 1e-6
    assert changed.all()  # a branch that is not skipped counts more
    # Without branches a clip passes through as it came.
    last = network.blocks[-1]
    tokens = torch.randn(400, 3, 16)
    skipped = (last(tokens, None) == tokens).flatten(1).all(dim=1).float().mean()
    assert 0.15 < float(skipped) < 0.35  # both branches: 0.5 x 0.5


def test_rates_of_zero_are_the_network_without_it() -> None:
    network, frames = transformer().train(), torch.randn(2, 2, 3, 16, 16)
    plain = network(frames)["pooled"]
    set_drop_path(network, 0.0)
    assert torch.equal(network(frames)["pooled"], plain)


def test_a_network_without_such_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"drop_path is for MViT, Swin, VideoMAE and V-JEPA"):
        set_drop_path(nn.Sequential(nn.Linear(2, 2)), 0.1)
