"""The equations of ALT against literal ones in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from unialign.stages.models.alt import model as alt_module
from unialign.stages.models.alt.blocks import AdapterBlock, TokenMlp, align, gumbel_noise
from unialign.stages.models.alt.build import label_embeddings
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.model import ALT, TokenShape, alt_losses

B, T, N, D, K, L = 3, 4, 7, 6, 9, 3
LABELS = torch.tensor([0, 1, 2])


def _literal_choice(regions: Tensor, corpus: Tensor, scale: float, noise: Tensor) -> Tensor:
    """Equations 4 and 5 with the matrix of choices written out."""
    rows = []
    for image in range(len(regions)):
        for region in range(regions.shape[1]):
            cosines = torch.stack(
                [functional.cosine_similarity(regions[image, region], each, dim=0) for each in corpus]
            )
            weights = (scale * cosines + noise[image, region]).exp()
            soft = weights / weights.sum()
            hard = torch.zeros_like(soft)
            hard[soft.argmax()] = 1.0
            rows.append(((hard + soft - soft.detach()).unsqueeze(1) * corpus).sum(dim=0))
    return torch.stack(rows).reshape(*regions.shape[:2], -1)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_alignment_and_its_gradient_are_equations_4_and_5(scale: float) -> None:
    torch.manual_seed(0)
    regions = torch.randn(2, 5, D, dtype=torch.float64, requires_grad=True)
    corpus = functional.normalize(torch.randn(K, D, dtype=torch.float64), dim=-1)
    noise = gumbel_noise(regions, K)
    weights = torch.randn(2, 5, D, dtype=torch.float64)
    named, chosen = align(regions, corpus, scale=scale, noise=noise)
    expected = _literal_choice(regions, corpus, scale, noise)
    torch.testing.assert_close(named, expected)
    assert torch.equal(named.detach(), corpus[chosen]) or torch.allclose(named.detach(), corpus[chosen], atol=1e-12)
    (made,) = torch.autograd.grad((named * weights).sum(), regions)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), regions)
    torch.testing.assert_close(made, wanted)
    assert bool(wanted.any())
    with torch.no_grad():
        assert torch.equal(align(regions, corpus, scale=scale, noise=noise)[0], corpus[chosen])


def test_noise_is_gumbel() -> None:
    torch.manual_seed(0)
    noise = gumbel_noise(torch.zeros(200, 10, D, dtype=torch.float64), 50)
    assert noise.shape == (200, 10, 50)
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.2825, abs=0.02)


def _literal_attention(module: torch.nn.MultiheadAttention, queries: Tensor, keys: Tensor) -> Tensor:
    width, heads = queries.shape[-1], module.num_heads
    parts = module.in_proj_weight.split(width), module.in_proj_bias.split(width)
    q, k, v = (rows @ w.T + b for rows, w, b in zip((queries, keys, keys), *parts, strict=True))
    mixed = torch.zeros_like(q)
    for head in range(heads):
        span = slice(head * width // heads, (head + 1) * width // heads)
        for place in range(len(q)):
            scores = torch.stack([q[place, span] @ key[span] for key in k]) / (width // heads) ** 0.5
            mixed[place, span] = sum(share * row[span] for share, row in zip(scores.softmax(0), v, strict=True))
    return mixed @ module.out_proj.weight.T + module.out_proj.bias


def _literal_block(block: AdapterBlock, queries: Tensor, visual: Tensor) -> Tensor:
    """Equation 8 for one clip, (T, D)."""
    for part in (block.self_attention, block.cross_attention):
        asked = part.norm(queries)
        context = asked
        if part.cross:
            context = visual.clone()
            weight, bias = block.convolution.weight, block.convolution.bias
            for frame in range(len(visual)):
                context[frame] += bias
                for tap, offset in enumerate((-1, 0, 1)):
                    if 0 <= frame + offset < len(visual):
                        context[frame] += weight[:, :, tap] @ visual[frame + offset]
            context = part.norm_keys(context)
        queries = queries + _literal_attention(part.attention, asked, context)
        norm, first, _, second = part.ffn
        queries = queries + second(functional.gelu(first(norm(queries))))
    return queries


def test_adapter_block_is_equation_8() -> None:
    torch.manual_seed(2)
    block = AdapterBlock(
        width=128, self_attention=True, cross_attention=True, kernel=3, ffn_ratio=2, norm=True
    ).double()
    assert block.self_attention is not None
    assert block.self_attention.attention.num_heads == 2
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    queries, visual = torch.randn(2, B, T, 128, dtype=torch.float64)
    with torch.no_grad():
        made = block(queries, visual)
        for clip in range(B):
            torch.testing.assert_close(made[clip], _literal_block(block, queries[clip], visual[clip]))


@pytest.mark.parametrize("switches", [{}, {"reduction": "mlp"}, {"visual": "class"}, {"logits": "plain"}])
def test_model_is_equations_4_to_10(switches: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = ALTConfig(tower="cached", num_blocks=2, **switches)
    model = ALT(tower=TokenShape(N, D), labels=torch.randn(L, D), corpus=torch.randn(K, D), config=config).double()
    tokens = torch.randn(B, T, N, D, dtype=torch.float64)
    noise = torch.randn(B * T, N, K, dtype=torch.float64)
    monkeypatch.setattr(alt_module, "gumbel_noise", lambda like, num_entities: noise)
    assert model.corpus is not None
    with torch.no_grad():
        made = model.train()({"tokens": tokens})
        for clip in range(B):
            queries, visual = torch.empty(2, T, D, dtype=torch.float64)
            for frame in range(T):
                regions = tokens[clip, frame]
                named = _literal_choice(regions[None], model.corpus, 100.0, noise[clip * T + frame][None])[0]
                queries[frame] = model.query_mlp(_literal_reduced(model.query_reduction, named))
                seen = regions[0] if "visual" in switches else _literal_reduced(model.visual_reduction, regions)
                visual[frame] = model.visual_mlp(seen)
            torch.testing.assert_close(made["queries"][clip], queries)
            torch.testing.assert_close(made["visual"][clip], visual)
            for block in model.blocks:
                queries = _literal_block(block, queries, visual)
            video = model.head(sum(queries) / T)
            scores = torch.stack([each @ video for each in model.labels])
            if "logits" not in switches:
                scores = 100 * scores / video.norm()
                torch.testing.assert_close(model.labels.norm(dim=1), torch.ones(L, dtype=torch.float64))
            torch.testing.assert_close(made["logits"][clip], scores)
    losses = alt_losses(model, made, LABELS)
    expected = -made["logits"].softmax(dim=1)[torch.arange(B), LABELS].log().mean()
    torch.testing.assert_close(losses["classification"].double(), expected, rtol=1e-4, atol=1e-5)


def _literal_reduced(module: torch.nn.Module | None, tokens: Tensor) -> Tensor:
    if not isinstance(module, TokenMlp):
        return sum(tokens) / len(tokens)
    first, _, second = module.layers
    channels = [second(functional.gelu(first(tokens[:, channel]))) for channel in range(D)]
    return torch.cat(channels)


def test_label_embeddings_are_ensembles_of_unit_rows() -> None:
    bank = torch.tensor([[[3.0, 0.0]], [[0.0, 0.1]]])
    torch.testing.assert_close(label_embeddings(bank), torch.tensor([[0.5**0.5, 0.5**0.5]]))
