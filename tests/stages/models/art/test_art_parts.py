"""ART's equations 1 to 4 and 9 against literal loops, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unialign.stages.models.art.parts import RegionAttention, RegionSemantics, frame_weights, top_semantics

B, T, H, W, C, K, D, HEADS = 2, 3, 2, 3, 5, 2, 4, 2
N, L = 3, 4


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second / (first.norm() * second.norm()))


@pytest.mark.parametrize("selection", ["classes", "rows"])
@pytest.mark.parametrize("seed", range(4))
def test_the_top_texts_equal_a_literal_ranking(selection: str, seed: int) -> None:
    video = _random(B, C, seed=seed)
    texts = nn.functional.normalize(_random(N, L, C, seed=seed + 9), dim=-1).requires_grad_()
    rows, classes = top_semantics(video, texts, K, selection)
    for clip in range(B):
        scores = {(n, c): _cosine(video[clip], texts.detach()[n, c]) for n in range(N) for c in range(L)}
        ranked = sorted(scores, key=lambda place: -scores[place])
        if selection == "classes":
            ranked = [place for i, place in enumerate(ranked) if place[1] not in [other[1] for other in ranked[:i]]]
        for k in range(K):
            assert int(classes[clip, k]) == ranked[k][1]
            assert torch.equal(rows[clip, k], texts[ranked[k]])
    rows.sum().backward()
    assert texts.grad is not None
    assert int(texts.grad.any(dim=-1).sum()) <= B * K


def _softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def _literal_attention(
    asked: list[Tensor], keys: list[Tensor], values: list[Tensor], heads: int
) -> tuple[list[Tensor], list[list[float]]]:
    """softmax(q k / sqrt(d)) v for each query and head, heads side by side; the mean of the heads' maps."""
    size = len(asked[0]) // heads
    responses, maps = [], []
    for query in asked:
        parts, weights = [], []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            shares = _softmax([float(query[part] @ key[part]) / math.sqrt(size) for key in keys])
            parts.append(
                sum((share * value[part] for share, value in zip(shares, values, strict=True)), torch.zeros(size))
            )
            weights.append(shares)
        responses.append(torch.cat(parts))
        maps.append([sum(column) / heads for column in zip(*weights, strict=True)])
    return responses, maps


def test_equation_3_equals_literal_loops() -> None:
    torch.manual_seed(0)
    module = RegionAttention(width=D, heads=HEADS).double()
    queries, places = _random(2, K, D), _random(2, H * W, D, seed=1)
    with torch.no_grad():
        responses, maps = module(queries, places)
        for frame in range(2):
            expected, weights = _literal_attention(
                [module.query.weight @ row for row in queries[frame]],
                [module.key.weight @ row for row in places[frame]],
                [module.value.weight @ row for row in places[frame]],
                HEADS,
            )
            for k in range(K):
                assert torch.allclose(responses[frame, k], module.out(expected[k]), atol=1e-12)
                assert maps[frame, k].tolist() == pytest.approx(weights[k], abs=1e-12)


def _norm(row: Tensor, layer: Any) -> Tensor:
    spread = torch.sqrt(((row - row.mean()) ** 2).mean() + layer.eps)
    return (row - row.mean()) / spread * layer.weight + layer.bias


def _literal_regions(
    module: RegionSemantics, grid: Tensor, semantics: Tensor
) -> tuple[list[Tensor], list[list[float]]]:
    """One frame, grid (H, W, C), semantics (K, C): normed responses of the K regions and their maps."""
    places = [module.grid_projection(place) for place in grid.flatten(0, 1)]
    tokens = places + [module.text_projection(row) for row in semantics]
    for block in module.enhancement:
        layer: Any = block
        projected = [layer.attn.qkv(_norm(token, layer.norm1)) for token in tokens]
        responses, _ = _literal_attention(
            [row[:D] for row in projected],
            [row[D : 2 * D] for row in projected],
            [row[2 * D :] for row in projected],
            HEADS,
        )
        tokens = [token + layer.attn.proj(found) for token, found in zip(tokens, responses, strict=True)]
        tokens = [
            token + layer.mlp.fc2(nn.functional.gelu(layer.mlp.fc1(_norm(token, layer.norm2)))) for token in tokens
        ]
    places, texts = tokens[: H * W], tokens[H * W :]
    if module.integrate is None:
        queries = [text + prompt for text, prompt in zip(texts, module.prompts, strict=True)]
    else:
        queries = [module.integrate(torch.cat([t, p])) for t, p in zip(texts, module.prompts, strict=True)]
    maps: list[list[float]] = []
    for each in module.layers:
        layer = each
        seen = [_norm(place, layer.place_norm) for place in places]
        attention = layer.attention
        responses, maps = _literal_attention(
            [attention.query.weight @ _norm(query, layer.query_norm) for query in queries],
            [attention.key.weight @ place for place in seen],
            [attention.value.weight @ place for place in seen],
            HEADS,
        )
        queries = [query + attention.out(found) for query, found in zip(queries, responses, strict=True)]
        queries = [query + layer.mlp(query) for query in queries]
    return [_norm(query, module.norm) for query in queries], maps


@pytest.mark.parametrize("integration", ["add", "concat"])
@pytest.mark.parametrize("enhancement", [0, 2])
def test_equations_1_to_3_equal_literal_loops_frame_by_frame(integration: str, enhancement: int) -> None:
    torch.manual_seed(0)
    module = RegionSemantics(
        grid_width=C,
        width=D,
        heads=HEADS,
        num_tracks=K,
        enhancement_layers=enhancement,
        region_layers=2,
        integration=integration,
    ).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    grid, semantics = _random(B, T, H, W, C), _random(B, K, C, seed=1)
    with torch.no_grad():
        found = module(grid, semantics)
        assert {name: value.shape for name, value in found.items()} == {
            "regions": (B, T, K, D), "region_maps": (B, T, K, H, W), "anchors": (B, K, D),
        }  # fmt: skip
        for clip in range(B):
            assert torch.allclose(found["anchors"][clip], module.text_projection(semantics[clip]))
            for frame in range(T):
                regions, maps = _literal_regions(module, grid[clip, frame], semantics[clip])
                for k in range(K):
                    assert torch.allclose(found["regions"][clip, frame, k], regions[k], atol=1e-9)
                    assert found["region_maps"][clip, frame, k].flatten().tolist() == pytest.approx(maps[k], abs=1e-9)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_weights_of_equation_9_equal_literal_loops(similarity: str) -> None:
    regions, anchors = _random(B, T, K, D), _random(B, K, D, seed=1)
    found = frame_weights(regions, anchors, similarity, 0.5)
    for clip in range(B):
        for k in range(K):
            expected = [0.0] * T
            for j in range(K):
                if similarity == "dot":
                    scores = [float(regions[clip, t, k] @ anchors[clip, j]) / math.sqrt(D) for t in range(T)]
                else:
                    scores = [_cosine(regions[clip, t, k], anchors[clip, j]) / 0.5 for t in range(T)]
                for t, share in enumerate(_softmax(scores)):
                    expected[t] += share / K
            assert found[clip, :, k].tolist() == pytest.approx(expected, abs=1e-12)
