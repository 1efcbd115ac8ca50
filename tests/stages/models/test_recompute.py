"""Contract of activation checkpointing: less is kept for the backward pass, and no value or gradient changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from unialign.stages.models.backbones.registry import BACKBONES
from unialign.stages.models.backbones.uniformer_v2 import UniFormerV2
from unialign.stages.models.clip.image_tower import ClipTower
from unialign.stages.models.recompute import Recomputing, recompute_activations


def transformer() -> VisionTransformer:
    return VisionTransformer(image_size=32, patch_size=8, width=16, layers=3, heads=2, mlp_ratio=4.0, output_dim=8)


class Clips(nn.Module):
    """A tower on the frames of clips."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = ClipTower(network=transformer(), num_pairs=2, adapters="STM", num_prompts=2)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        return {"pooled": self.tower(frames.flatten(0, 1), num_frames=frames.shape[1])["tokens"]}


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "clip": (Clips, 32),
    "uniformerv2": (lambda: UniFormerV2(network=transformer(), num_frames=2, num_global=2, num_local=2), 32),
    "vit-tiny-temporal": (lambda: BACKBONES["vit-tiny-temporal"](num_frames=2, image_size=32), 32),
    "mvit-v2-s": (lambda: BACKBONES["mvit-v2-s"](num_frames=2, image_size=32), 32),
    "swin3d-t": (lambda: BACKBONES["swin3d-t"](num_frames=2, image_size=32), 32),
}


def computed(network: nn.Module, frames: Tensor) -> tuple[int, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Bytes that were kept, what came out, gradients, and buffers after it."""
    torch.manual_seed(0)
    network.zero_grad(set_to_none=True)
    network.train()
    kept = 0

    def keep(value: Tensor) -> Tensor:
        nonlocal kept
        kept += value.nbytes if value.grad_fn is not None else 0
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        pooled = network(frames)["pooled"]
    pooled.square().sum().backward()
    gradients = {name: each.grad for name, each in network.named_parameters() if each.grad is not None}
    return kept, pooled, gradients, {name: each.clone() for name, each in network.named_buffers()}


@pytest.mark.parametrize("name", NETWORKS)
def test_recomputing_keeps_less_and_changes_nothing(name: str) -> None:
    torch.manual_seed(1)
    build, side = NETWORKS[name]
    network = build()
    start: Any = {key: value.clone() for key, value in network.state_dict().items()}
    frames = torch.randn(2, 2, 3, side, side)
    plain = computed(network, frames)
    network.load_state_dict(start)
    recompute_activations(network)
    assert all(module.recompute for module in network.modules() if isinstance(module, Recomputing))
    recomputed = computed(network, frames)
    assert recomputed[0] < 0.6 * plain[0]
    assert torch.equal(recomputed[1], plain[1])
    for ours, theirs in zip(recomputed[2:], plain[2:], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)  # batch statistics are counted once
