"""Token merging, held to a literal definition in float64 with loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import QuickGELU, Transformer
from torch import Tensor

from unialign.stages.models.clip.tome import Merged, match, merge, num_left, possible_pairs, run_blocks

WIDTH, HEADS = 12, 3


def _blocks(num_blocks: int = 3) -> Transformer:
    torch.manual_seed(4)
    made = Transformer(WIDTH, num_blocks, HEADS, mlp_ratio=2.0, act_layer=QuickGELU, ls_init_value=0.7).double()
    for parameter in made.parameters():  # biases and norms start at 0 and 1
        torch.nn.init.normal_(parameter, std=0.6)
    return made


def _literal_norm(row: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = row - row.mean()
    return centred / (centred.pow(2).mean() + norm.eps).sqrt() * norm.weight + norm.bias


def _literal_block(block: torch.nn.Module, rows: list[Tensor], sizes: list[int], pairs: int, proportional: bool):
    """One block on the tokens of one image, as the paper says it."""
    normed = [_literal_norm(row, block.ln_1) for row in rows]
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    queries, keys, values = (
        [weight[part * WIDTH : (part + 1) * WIDTH] @ row + bias[part * WIDTH : (part + 1) * WIDTH] for row in normed]
        for part in range(3)
    )
    per_head = WIDTH // HEADS
    attended = []
    for query in queries:
        mixed = []
        for head in range(HEADS):
            span = slice(head * per_head, (head + 1) * per_head)
            scores = [float(query[span] @ key[span]) / math.sqrt(per_head) for key in keys]
            if proportional:
                scores = [score + math.log(size) for score, size in zip(scores, sizes, strict=True)]
            exponentials = [math.exp(score) for score in scores]
            total = sum(exponentials)
            shares = [one / total for one in exponentials]
            mixed.append(sum(share * value[span] for share, value in zip(shares, values, strict=True)))
        attended.append(block.attn.out_proj.weight @ torch.cat(mixed) + block.attn.out_proj.bias)
    rows = [row + block.ls_1.gamma * one for row, one in zip(rows, attended, strict=True)]
    metric = [sum(key[head * per_head : (head + 1) * per_head] for head in range(HEADS)) / HEADS for key in keys]
    rows, sizes = _literal_merge(rows, sizes, metric, pairs)
    changed = []
    for row in rows:
        hidden = block.mlp.c_fc.weight @ _literal_norm(row, block.ln_2) + block.mlp.c_fc.bias
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        changed.append(row + block.ls_2.gamma * (block.mlp.c_proj.weight @ hidden + block.mlp.c_proj.bias))
    return changed, sizes


def _literal_merge(rows: list[Tensor], sizes: list[int], metric: list[Tensor], pairs: int):
    if not pairs:
        return rows, sizes
    first, second = list(range(0, len(rows), 2)), list(range(1, len(rows), 2))
    proposals = []
    for token in first[1:]:  # the class token proposes nothing
        cosines = {other: float(torch.cosine_similarity(metric[token], metric[other], dim=0)) for other in second}
        best = max(second, key=lambda other, cosines=cosines: cosines[other])
        proposals.append((cosines[best], token, best))
    accepted = {token: best for _, token, best in sorted(proposals, reverse=True)[:pairs]}
    groups = [[token] for token in first if token not in accepted]
    groups += [[other, *(token for token, best in accepted.items() if best == other)] for other in second]
    merged, counts = [], []
    for group in groups:
        total = sum(sizes[token] for token in group)
        merged.append(sum(rows[token] * sizes[token] for token in group) / total)
        counts.append(total)
    return merged, counts


@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("pairs", [0, 1, 3, 8])
def test_blocks_are_the_literal_definition(pairs: int, proportional: bool) -> None:
    blocks = _blocks().resblocks
    torch.manual_seed(7)
    tokens = torch.randn(2, 14, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        state = run_blocks(blocks, tokens, num_pairs=pairs, proportional=proportional)
        for image in range(2):
            rows, sizes = list(tokens[image]), [1] * 14
            for block in blocks:
                rows, sizes = _literal_block(block, rows, sizes, possible_pairs(len(rows), pairs), proportional)
            torch.testing.assert_close(state.tokens[image], torch.stack(rows), rtol=1e-9, atol=1e-9)
            assert state.sizes[image, :, 0].tolist() == sizes
    assert state.tokens.shape[1] == num_left(14, pairs, 3)


def test_without_merging_the_blocks_compute_what_they_compute_themselves() -> None:
    blocks = _blocks()
    tokens = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            run_blocks(blocks.resblocks, tokens, num_pairs=0, proportional=True).tokens, blocks(tokens)
        )


def test_numbers_of_tokens_are_those_of_the_papers() -> None:
    assert num_left(197, 8, 11) == 109  # ALT-B/16 after the second-last block
    assert num_left(257, 8, 23) == 73  # ALT-L/14
    assert num_left(197, 13, 12) == 197 - 13 * 12
    assert num_left(5, 8, 10) == 2  # a single patch finds no other


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 25), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**31))
def test_merged_tokens_are_means_of_what_they_own(num_tokens: int, pairs: int, rounds: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, num_tokens, 5, generator=generator, dtype=torch.float64)
    owners = torch.arange(num_tokens).expand(2, -1)
    state = Merged(tokens, torch.ones(2, num_tokens, 1, dtype=torch.float64), owners)
    for _ in range(rounds):
        count = possible_pairs(state.tokens.shape[1], pairs)
        state = merge(state, match(state.tokens, count))
    left = num_left(num_tokens, pairs, rounds)
    assert state.tokens.shape[1] == left
    for image in range(2):
        assert state.owners[image].tolist().count(0) == 1  # the class token stays alone, and first
        assert int(state.owners[image, 0]) == 0
        for place in range(left):
            owned = tokens[image, state.owners[image] == place]
            assert len(owned) == int(state.sizes[image, place])
            torch.testing.assert_close(state.tokens[image, place], owned.mean(dim=0))


def test_the_most_similar_pair_goes_first() -> None:
    tokens = torch.eye(8).unsqueeze(0)
    tokens[0, 5] = 3 * tokens[0, 2]  # the same direction, tokens 2 (set a) and 5 (set b)
    matching = match(tokens, 1)
    assert matching.sources.tolist() == [[1]]
    assert matching.targets.tolist() == [[2]]
    assert matching.kept.tolist() == [[0, 2, 3]]


def test_mixed_precision_keeps_sizes_and_gradients() -> None:
    blocks = _blocks().float()
    tokens = torch.randn(2, 20, WIDTH, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = run_blocks(blocks.resblocks, tokens, num_pairs=4, proportional=True)
    assert state.sizes.sum(dim=1).tolist() == [[20.0], [20.0]]
    state.tokens.sum().backward()
    assert tokens.grad is not None
    assert bool(tokens.grad.isfinite().all())
