"""The metric network on all pairs against one row per pair."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unialign.stages.models.dvta import pairs as dvta_pairs
from unialign.stages.models.dvta.pairs import PairNetwork


def network(width: int, dtype: torch.dtype = torch.float64, *, shift: float = 0.0, spread: float = 1.0) -> PairNetwork:
    made = PairNetwork(width=width).to(dtype)
    with torch.no_grad():
        made.first.weight.mul_(spread)
        made.first.bias.add_(shift)
    return made


def literal(made: PairNetwork, poses: Tensor, texts: Tensor, weights: Tensor | None) -> Tensor:
    """Every pair as a row: (B, U, 2D), the text mixed first."""
    if weights is None:
        weights = torch.ones(len(poses), len(texts), 1, dtype=texts.dtype)
    mixed = torch.einsum("bus,usd->bud", weights, texts)
    pairs = torch.cat([poses[:, None].expand_as(mixed), mixed], dim=-1)
    return made.last(made.second(made.first(pairs).relu()).relu()).squeeze(-1)  # type: ignore[no-any-return]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    poses=st.integers(1, 9),
    texts=st.integers(1, 9),
    pieces=st.integers(1, 3),
    shift=st.sampled_from([-50.0, -0.5, 0.0, 0.5, 50.0]),
    spread=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_scores_and_gradients_equal_those_of_one_row_a_pair(
    seed: int, poses: int, texts: int, pieces: int, shift: float, spread: float
) -> None:
    """Whatever share of the hidden units is always on (shift 50), always off (-50) or neither."""
    torch.manual_seed(seed)
    made = network(4, shift=shift, spread=spread)
    left = torch.randn(poses, 4, dtype=torch.float64, requires_grad=True)
    right = torch.randn(texts, pieces, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(poses, texts, pieces, dtype=torch.float64).softmax(-1) if pieces > 1 else None
    ends = [*made.parameters(), left, right]
    noise = torch.randn(poses, texts, dtype=torch.float64)
    results = []
    for scores in (made(left, right, weights), literal(made, left, right, weights)):
        gradients = torch.autograd.grad((scores * noise).sum(), ends, allow_unused=True)
        results.append(
            [scores, *(torch.zeros_like(e) if g is None else g for e, g in zip(ends, gradients, strict=True))]
        )
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_published_size_in_float32_agrees_to_a_millionth() -> None:
    torch.manual_seed(0)
    made = network(768, torch.float32)
    poses, texts = torch.randn(24, 768), torch.randn(24, 2, 768)
    weights = torch.randn(24, 24, 2).softmax(-1)
    with torch.no_grad():
        pairs = [(made(poses, texts[:, :1]), literal(made, poses, texts[:, :1], None))]
        pairs += [(made(poses, texts, weights), literal(made, poses, texts, weights))]
    for ours, theirs in pairs:
        assert float((ours - theirs).abs().max()) < 1e-6


def test_pieces_without_gradients_give_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    made = network(4)
    poses, texts = torch.randn(7, 4, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
    weights = torch.randn(7, 3, 2, dtype=torch.float64).softmax(-1)
    whole = made(poses, texts, weights)
    monkeypatch.setattr(dvta_pairs, "PAIRS", 6)
    with torch.no_grad():
        assert torch.allclose(made(poses, texts, weights), whole, rtol=1e-12)


def kept_pairs(call: Callable[[], Tensor], least: int) -> int:
    """How many tensors of at least so many numbers a call keeps for its gradient."""
    places = set()

    def note(kept: Tensor) -> Tensor:
        if kept.numel() >= least:
            places.add(kept.data_ptr())
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
        result = call()
    return len(places) if result.requires_grad else 0


def test_no_tensor_of_concatenated_pairs_is_kept() -> None:
    """Of B x B x 2D numbers there are the hidden units at most; the literal form also keeps its input."""
    torch.manual_seed(0)
    made = network(16, torch.float32, spread=10)
    poses, texts = torch.randn(32, 16), torch.randn(32, 1, 16)
    least = 32 * 32 * 24
    assert kept_pairs(lambda: made(poses, texts), least) == 1
    assert kept_pairs(lambda: literal(made, poses, texts, None), least) == 2
