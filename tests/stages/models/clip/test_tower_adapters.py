"""Adapters in a frozen tower: the equations literally, what is trained, and that the tower starts as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip.transformer import VisionTransformer
from pydantic import ValidationError
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.clip.adapters import Adapter
from unialign.stages.models.clip.image_tower import ClipTower, image_transformer

B, T, SIDE, C = 2, 3, 32, 16
KINDS = ("S", "SM", "STM")


def _tower(adapters: str, **settings: Any) -> ClipTower:
    torch.manual_seed(0)
    network = VisionTransformer(SIDE, 8, C, 3, 2, 2.0, output_dim=6)
    return ClipTower(network=network, adapters=adapters, projection="none", **settings).eval()


def _random(tower: ClipTower) -> ClipTower:
    """Adapters that do something."""
    generator = torch.Generator().manual_seed(1)
    for module in tower.modules():
        if isinstance(module, Adapter):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3, generator=generator)
    return tower


def _images() -> Tensor:
    return torch.randn(B * T, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("pairs", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_the_tower_is_as_it_was(kind: str, pairs: int) -> None:
    plain, adapted = _tower("none", num_pairs=pairs), _tower(kind, num_pairs=pairs)
    expected, found = plain(_images(), T), adapted(_images(), T)
    torch.testing.assert_close(found["tokens"], expected["tokens"], rtol=0, atol=1e-6)
    assert torch.equal(found["owners"], expected["owners"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_compute_the_equations(kind: str) -> None:
    tower = _random(_tower(kind, num_pairs=0, layer=-1)).double()
    images = _images().double()
    network: Any = tower.network
    patches = network.conv1(images).flatten(2).transpose(1, 2)
    start = network.class_embedding.expand(B * T, 1, -1)
    x = network.ln_pre(torch.cat([start, patches], dim=1) + network.positional_embedding)

    def adapted(adapter: Adapter) -> Callable[[Tensor], Tensor]:
        return lambda rows: adapter.up(nn.functional.gelu(adapter.down(rows)))

    for number, block in enumerate(network.transformer.resblocks):
        if "T" in kind:
            over_time: Any = tower.over_time[number]
            for clip in range(B):
                mine = slice(clip * T, clip * T + T)
                for place in range(x.shape[1]):
                    rows = block.ln_1(x[mine, place])[None]  # (1, T, C)
                    x = x.clone()
                    x[mine, place] += adapted(over_time.adapter)(block.attn(rows, rows, rows)[0][0])
        normed = block.ln_1(x)
        attended = block.attn(normed, normed, normed)[0]
        x = x + attended + adapted(block.ls_1[1])(attended)
        normed = block.ln_2(x)
        mlp = nn.Sequential(block.mlp.c_fc, block.mlp.gelu, block.mlp.c_proj)
        beside = adapted(block.mlp.adapter)(normed) / 2 if "M" in kind else 0
        x = x + mlp(normed) + beside
    torch.testing.assert_close(tower(images, T)["tokens"], x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_are_trained(kind: str) -> None:
    tower = _random(_tower(kind, num_pairs=3))
    adapters = {id(value) for module in tower.modules() if isinstance(module, Adapter) for value in module.parameters()}
    tower(_images(), T)["tokens"].square().sum().backward()
    for name, value in tower.named_parameters():
        moved = value.grad is not None and bool(value.grad.any())
        assert value.requires_grad == moved == (id(value) in adapters), name
    assert len(adapters) == 4 * len(kind) * 2


def test_frames_see_each_other_with_t_alone() -> None:
    for kind in KINDS:
        tower, images = _random(_tower(kind)), _images()
        whole = tower(images, T)["tokens"]
        single = torch.cat([tower(image[None], 1)["tokens"] for image in images])
        other = torch.cat([tower(images[T * clip : T * clip + T], T)["tokens"] for clip in range(B)])
        torch.testing.assert_close(whole, other)
        assert torch.allclose(whole, single, atol=1e-4) == (kind != "STM")


@pytest.mark.parametrize(("kind", "millions"), [("S", 4), ("SM", 7), ("STM", 11)])
def test_sizes_are_those_that_alt_prints(kind: str, millions: int) -> None:
    """Trained beside ALT's own 38 M: 42, 45 and 49 M, counted over all twelve blocks."""
    with torch.device("meta"):
        tower = ClipTower(network=image_transformer("ViT-B-16"), layer=-1, adapters=kind)
    assert round(sum(value.numel() for value in tower.parameters() if value.requires_grad) / 1e6) == millions


def test_what_makes_no_sense_is_rejected() -> None:
    with pytest.raises(UsageError, match="adapters 'X' are unknown; known: none, S, SM, STM"):
        _tower("X")
    for tower in ("tuned", "cached"):
        with pytest.raises(ValidationError, match=f"this one is {tower}: take tower: frozen"):
            ALTConfig(tower=tower, tower_adapters="S")
    assert ALTConfig(tower="frozen", tower_adapters="STM").tower_adapters == "STM"
