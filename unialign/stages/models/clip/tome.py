"""Token merging in the blocks of an OpenCLIP image tower: similar patches become one token, without any parameter.

Legend: B images, N tokens (the class token first), H heads, C width, R pairs that are merged in one block.

Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3. In every block, between attention and
MLP: tokens are dealt alternately into two sets, a (with the class token) and b; each token of a proposes the token of b
whose key is most similar (cosine of the keys' mean over the heads); the R best proposals are merged into their tokens
of b, as means weighted by how many patches each token stands for. The class token is neither merged nor merged into.
Proportional attention adds log(size) of each key to its scores, so that a token counts as often as its patches.
Order afterwards, as in the authors' code: what is left of a, then b.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from unialign.stages.models.precision import full_precision


@dataclass(frozen=True)
class Matching:
    """Which tokens merge, as places within the two sets.

    sources (B, R): in a, those that go; targets (B, R): in b, where each goes; kept (B, N_a - R): in a, ascending.
    """

    sources: Tensor
    targets: Tensor
    kept: Tensor


@dataclass(frozen=True)
class Merged:
    """Tokens (B, N, C) on their way through the blocks.

    sizes (B, N, 1): how many input tokens each stands for. owners (B, N_0) int64: for each input token, in which token
    it ended.
    """

    tokens: Tensor
    sizes: Tensor
    owners: Tensor


def num_left(num_tokens: int, num_pairs: int, num_blocks: int) -> int:
    """Tokens after that many blocks, each of which merges `num_pairs` pairs, or as many as there are."""
    for _ in range(num_blocks):
        num_tokens -= possible_pairs(num_tokens, num_pairs)
    return num_tokens


def possible_pairs(num_tokens: int, num_pairs: int) -> int:
    """R of one block: at most half of the tokens beside the class token."""
    return min(num_pairs, (num_tokens - 1) // 2)


@torch.no_grad()
def match(keys: Tensor, num_pairs: int) -> Matching:
    """The best `num_pairs` pairs of tokens by the cosine of keys (B, N, C), N > 2 * num_pairs."""
    unit = functional.normalize(keys if keys.dtype == torch.float64 else keys.float(), dim=-1)
    scores = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)  # (B, N_a, N_b)
    scores[:, 0] = float("-inf")  # the class token proposes nothing
    best, targets = scores.max(dim=-1)  # (B, N_a)
    order = best.argsort(dim=-1, descending=True, stable=True)
    sources = order[:, :num_pairs]
    return Matching(sources, targets.gather(1, sources), order[:, num_pairs:].sort(dim=-1).values)


def merge(state: Merged, matching: Matching) -> Merged:
    """The state with the pairs of a matching merged, (B, N - R, C)."""
    sizes = _summed(state.sizes, matching)  # (B, N - R, 1)
    sums = _summed(state.tokens * state.sizes, matching)  # (B, N - R, C), at least single precision as the sizes are
    owners = _new_places(matching, state.tokens.shape[1]).gather(1, state.owners)
    return Merged((sums / sizes).to(state.tokens.dtype), sizes, owners)


def _summed(rows: Tensor, matching: Matching) -> Tensor:
    """Rows (B, N, C) to sums over merged tokens (B, N - R, C)."""
    first, second = rows[:, ::2], rows[:, 1::2]
    kept, moved = (
        first.gather(1, places.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
        for places in (matching.kept, matching.sources)
    )
    # A product with ones instead of a scattered sum: the same bits in every run, on a GPU too.
    goes = functional.one_hot(matching.targets, second.shape[1]).to(rows.dtype)  # (B, R, N_b)
    return torch.cat([kept, second + goes.transpose(1, 2) @ moved], dim=1)


def _new_places(matching: Matching, num_tokens: int) -> Tensor:
    """Where each token stands after merging, (B, N)."""
    num_kept = matching.kept.shape[1]
    places = torch.empty(matching.kept.shape[0], num_tokens, dtype=torch.int64, device=matching.kept.device)
    ranks = torch.arange(num_kept, device=places.device).expand_as(matching.kept)
    first = places[:, ::2].scatter(1, matching.kept, ranks).scatter(1, matching.sources, num_kept + matching.targets)
    places[:, ::2] = first
    places[:, 1::2] = num_kept + torch.arange(num_tokens // 2, device=places.device)
    return places


def run_blocks(
    blocks: Iterable[Any],
    tokens: Tensor,
    *,
    num_pairs: int,
    proportional: bool,
    before: Iterable[Callable[[Tensor, Any], Tensor]] | None = None,
    prompts: Iterable[Tensor] | None = None,
    call: Callable[..., Any] = lambda function, *inputs: function(*inputs),
) -> Merged:
    """Tokens (B, N, C) through OpenCLIP's `ResidualAttentionBlock`s, merging in each.

    proportional: proportional attention. Without merging (num_pairs 0) this is what the blocks themselves compute.
    before: for each block (tokens, block) to what is added to its tokens first.
    prompts: for each block tokens (n, C) that its tokens attend to beside themselves, and that go no further.
    call: (function, *inputs) to function(*inputs), once for each block: see `recompute`.
    """
    # Half precision does not count far enough.
    sizes = torch.ones_like(tokens[..., :1], dtype=torch.promote_types(tokens.dtype, torch.float32))
    owners = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1)
    state = Merged(tokens, sizes, owners)
    nothing = repeat(None)
    for block, added, extra in zip(blocks, before or nothing, nothing if prompts is None else prompts, strict=False):
        weighted = proportional and state.tokens.shape[1] < tokens.shape[1]  # at first all sizes are 1
        state = call(_run_block, block, state, added, extra, num_pairs, weighted)
    return state


def _run_block(
    block: Any,
    state: Merged,
    added: Callable[[Tensor, Any], Tensor] | None,
    extra: Tensor | None,
    num_pairs: int,
    weighted: bool,
) -> Merged:
    if added is not None:
        state = Merged(state.tokens + added(state.tokens, block), state.sizes, state.owners)
    others = None if extra is None else block.ln_1(extra)
    attended, keys = attention(block.attn, block.ln_1(state.tokens), state.sizes if weighted else None, others)
    state = Merged(state.tokens + block.ls_1(attended), state.sizes, state.owners)
    pairs = possible_pairs(state.tokens.shape[1], num_pairs)
    if pairs:
        with full_precision(state.tokens):
            state = merge(state, match(keys, pairs))
    update = block.ls_2(block.mlp(block.ln_2(state.tokens)))
    return Merged(state.tokens + update, state.sizes, state.owners)


def attention(module: Any, tokens: Tensor, sizes: Tensor | None, others: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Self-attention by the weights of a `nn.MultiheadAttention`: tokens (B, N, C) to (B, N, C), and the mean of their
    keys over the heads (B, N, C / H).

    sizes (B, N, 1): a key's scores get log(size); None: plain attention. others (n, C): attended to as well, size 1.
    """
    num_tokens, num_others = tokens.shape[1], 0 if others is None else len(others)
    if others is not None:
        tokens = torch.cat([tokens, others.to(tokens.dtype).expand(tokens.shape[0], -1, -1)], dim=1)
    joint = functional.linear(tokens, module.in_proj_weight, module.in_proj_bias)  # (B, N + n, 3 C)
    split = joint.reshape(*joint.shape[:2], 3, module.num_heads, -1)  # (B, N + n, 3, H, C / H)
    queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (B, H, N + n, C / H)
    mask = None
    if sizes is not None:
        mask = functional.pad(sizes.log().to(queries.dtype)[:, None, None, :, 0], (0, num_others))  # (B, 1, 1, N + n)
    queries, own_keys = queries[:, :, :num_tokens], keys[:, :, :num_tokens]
    mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return module.out_proj(mixed.transpose(1, 2).flatten(2)), own_keys.mean(dim=1)
