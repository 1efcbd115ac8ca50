"""Counting, held to counts by hand and to the printed figures of public networks and of ALT."""

from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from unialign.stages.models.alt.build import build_alt
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.model import ALT
from unialign.stages.models.clip.image_tower import ClipTower, image_transformer
from unialign.stages.models.flops import cost, multiply_adds

DEVICES = ("cpu", "meta")


class Plain(nn.Module):
    """Fused attention on the input itself."""

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=mask)


@pytest.mark.parametrize("device", DEVICES)
def test_layers_are_counted_as_by_hand(device: str) -> None:
    with torch.device(device):
        assert multiply_adds(nn.Linear(6, 5), torch.zeros(2, 3, 6)) == 2 * 3 * 6 * 5
        assert multiply_adds(nn.Conv1d(4, 8, 3, padding=1), torch.zeros(2, 4, 10)) == 2 * 10 * 8 * 4 * 3
        assert multiply_adds(nn.Conv2d(3, 8, 4, 4), torch.zeros(1, 3, 16, 8)) == 4 * 2 * 8 * 3 * 16
        assert multiply_adds(nn.Sequential(nn.LayerNorm(7), nn.GELU()), torch.zeros(3, 7)) == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_is_counted(device: str, masked: bool) -> None:
    with torch.device(device):
        mask = (torch.zeros(2, 1, 1, 10),) if masked else ()
        count = multiply_adds(Plain(), torch.zeros(2, 4, 10, 8), *mask)
    assert count == 2 * (2 * 4 * 10 * 10 * 8)  # scores, then the mixture


class Latent(nn.Module):
    """A module that gets a view of a parameter, as timm's attention pooling does."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.linear = nn.Parameter(torch.zeros(1, 6)), nn.Linear(6, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.latent.expand(len(tokens), -1))


@pytest.mark.parametrize("device", DEVICES)
def test_views_of_parameters_are_counted_and_what_is_trained_stays_so(device: str) -> None:
    with torch.device(device):
        module = Latent()
        module.linear.bias.requires_grad_(False)
        assert multiply_adds(module, torch.zeros(2, 6)) == 2 * 6 * 5
    trained = [name for name, each in module.named_parameters() if each.requires_grad]
    assert trained == ["latent", "linear.weight"]


class Operations(TorchDispatchMode):
    """Names of the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_fused_kernel_runs_while_counting() -> None:
    """Not every version of torch counts every fused kernel."""
    seen = Operations()

    class Watched(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            with seen:
                return functional.scaled_dot_product_attention(tokens, tokens, tokens)

    tokens = torch.zeros(2, 4, 10, 8)
    Watched()(tokens)
    assert any("scaled_dot_product" in name for name in seen.names)
    seen.names.clear()
    assert multiply_adds(Watched(), tokens) == 2 * (2 * 4 * 10 * 10 * 8)
    assert seen.names
    assert not any("scaled_dot_product" in name for name in seen.names)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [False, True])
def test_attention_layers_are_counted_also_where_torch_has_a_fast_path(device: str, training: bool) -> None:
    with torch.device(device):
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0).train(training)
        tokens = torch.zeros(2, 10, 32)
    before = torch.backends.mha.get_fastpath_enabled()
    count = multiply_adds(layer, tokens)  # outside of `with torch.device`, which also closes the fast path
    assert count == 2 * (4 * 10 * 32 * 32 + 2 * 10 * 10 * 32 + 2 * 10 * 32 * 64)
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_numbers_of_parameters() -> None:
    module = nn.BatchNorm1d(4)
    module.bias.requires_grad_(False)
    found = cost(module, torch.zeros(2, 4))
    assert (found.parameters, found.trained, found.buffers) == (8, 4, 8)  # num_batches_tracked is no float


@pytest.mark.parametrize(("name", "giga", "million"), [("ViT-B-16", 17.6, 86.2), ("ViT-L-14", 81.1, 304.0)])
def test_image_towers_cost_what_is_printed_of_them(name: str, giga: float, million: float) -> None:
    with torch.device("meta"):
        tower = ClipTower(network=image_transformer(name), num_pairs=0, layer=-1)
        found = cost(tower, torch.zeros(1, 3, 224, 224))
    assert found.multiply_adds / 1e9 == pytest.approx(giga, rel=0.005)
    assert found.parameters / 1e6 == pytest.approx(million, abs=0.05)


def _alt(width: int, num_entities: int, **config: Any) -> ALT:
    with torch.device("meta"):
        return build_alt(
            num_classes=400,
            text_bank=torch.zeros(1, 400, width),
            corpus=torch.zeros(num_entities, width),
            config=ALTConfig(**config),
        ).eval()


@pytest.mark.parametrize(
    ("network", "blocks", "width", "giga", "million"),
    [
        ("ViT-B-16", 4, 512, {8: 110, 32: 1308 / 3}, 134.4),
        ("ViT-L-14", 6, 768, {32: 4947 / 3}, 437.1),
    ],
)
def test_alt_costs_about_what_the_paper_prints(
    network: str, blocks: int, width: int, giga: dict[int, float], million: float
) -> None:
    """Tables 1 and 6 of ALT. The printed totals count the tower's unused block and, it seems, a corpus of about 19,000
    entities: then both totals fit within 1 %. The multiply-adds stay up to 3 % below.
    """
    model = _alt(width, 18_750, network=network, num_blocks=blocks)
    for num_frames, printed in giga.items():
        found = cost(model, {"frames": torch.zeros(1, num_frames, 3, 224, 224, device="meta")})
        assert 0.97 < found.multiply_adds / 1e9 / printed < 1.0
    with torch.device("meta"):
        whole_tower = sum(each.numel() for each in image_transformer(network).parameters())
    assert model.tower is not None
    own = found.parameters - sum(each.numel() for each in model.tower.parameters())
    assert (whole_tower + own + found.buffers) / 1e6 == pytest.approx(million, rel=0.01)
    if network == "ViT-B-16":
        assert own / 1e6 == pytest.approx(38.4, rel=0.02)
