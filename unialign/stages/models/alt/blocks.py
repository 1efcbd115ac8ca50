"""The parts of ALT (see `alt`): entity-to-region alignment, token reduction, and the blocks of the video adapter.

Legend: B batch, T frames, N regions of a frame, K entities, D width.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

REDUCTIONS = ("mean", "mlp")


def align(regions: Tensor, corpus: Tensor, *, scale: float, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What each region is called: rows of the corpus (M, N, D), and their places in it (M, N) int64.

    regions (M, N, D); corpus (K, D), unit rows; noise (M, N, K) is added to the scores, None is none.

    Source: ALT, equations 4 and 5. The straight-through choice times the corpus, (onehot + A - sg(A)) S, is computed
    as S[argmax] + A S - sg(A S), the same without a second matrix as large as A. Without a gradient to carry, A is
    left out.
    """
    scores = scale * (functional.normalize(regions, dim=-1) @ corpus.T)  # (M, N, K)
    if noise is not None:
        scores = scores + noise
    chosen = scores.argmax(dim=-1)  # (M, N)
    named = corpus[chosen]  # (M, N, D)
    if scores.requires_grad:
        soft = scores.softmax(dim=-1) @ corpus  # (M, N, D)
        named = named + soft - soft.detach()
    return named, chosen


def gumbel_noise(like: Tensor, num_entities: int) -> Tensor:
    """Independent draws of Gumbel(0, 1), (M, N, K), for regions (M, N, D); from torch's global generator."""
    shape = (*like.shape[:-1], num_entities)
    return -torch.empty(shape, dtype=like.dtype, device=like.device).exponential_().log()


def mlp(width: int, ratio: int) -> nn.Sequential:
    """Width D to ratio * D and back, with a GELU between."""
    return nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))


class TokenMean(nn.Module):
    """Tokens (M, N, D) to their mean (M, D)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean."""
        return tokens.mean(dim=1)


class TokenMlp(nn.Module):
    """Tokens (M, N, D) to (M, D) by an MLP along the axis of the tokens, N to N to 1, the same for every channel."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_tokens, num_tokens), nn.GELU(), nn.Linear(num_tokens, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """The learned mixture."""
        reduced: Tensor = self.layers(tokens.transpose(1, 2))  # (M, D, 1)
        return reduced.squeeze(-1)


def reduction(kind: str, num_tokens: int) -> nn.Module:
    """The module of a name of `REDUCTIONS` for that many tokens; a single token needs none but its mean."""
    return TokenMlp(num_tokens) if kind == "mlp" and num_tokens > 1 else TokenMean()


class Attention(nn.Module):
    """One sub-layer, queries (B, T, D) from keys and values (B, T, D): attention and, with a ratio above 0, an MLP.

    Each is added to its input. norm: LayerNorm before each (of queries and of keys), or none.
    """

    def __init__(self, *, width: int, num_heads: int, ffn_ratio: int, norm: bool, cross: bool) -> None:
        super().__init__()
        self.cross = cross
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norm = _norm(width, norm)
        self.norm_keys = _norm(width, norm) if cross else None
        self.ffn = nn.Sequential(_norm(width, norm), *mlp(width, ffn_ratio)) if ffn_ratio else None

    def forward(self, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """Changed queries (B, T, D). context: keys and values of cross-attention."""
        asked = self.norm(queries)
        given = asked if self.norm_keys is None else self.norm_keys(context)
        hidden: Tensor = queries + self.attention(asked, given, given, need_weights=False)[0]
        return hidden if self.ffn is None else hidden + self.ffn(hidden)


def _norm(width: int, wanted: bool) -> nn.Module:
    return nn.LayerNorm(width) if wanted else nn.Identity()


class AdapterBlock(nn.Module):
    """One block of the video adapter: queries Q and visual vectors E (B, T, D) to new queries (B, T, D).

    Source: ALT, equation 8: Q' = SA(Q), E' = E + Conv1D(E) over the frames, Q = CA(Q', E'). E' always comes from the
    first E. A part that is switched off is left out: SA gives back Q, Conv1D gives 0, CA gives back Q'.
    """

    def __init__(
        self, *, width: int, self_attention: bool, cross_attention: bool, kernel: int, ffn_ratio: int, norm: bool
    ) -> None:
        super().__init__()
        shared: dict[str, Any] = {
            "width": width,
            "num_heads": max(1, width // 64),
            "ffn_ratio": ffn_ratio,
            "norm": norm,
        }
        self.self_attention = Attention(**shared, cross=False) if self_attention else None
        self.cross_attention = Attention(**shared, cross=True) if cross_attention else None
        self.convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2) if kernel else None

    def forward(self, queries: Tensor, visual: Tensor | None) -> Tensor:
        """Q_m. visual: Ê, not needed without cross-attention."""
        if self.self_attention is not None:
            queries = self.self_attention(queries)
        if self.cross_attention is None or visual is None:
            return queries
        if self.convolution is not None:
            visual = visual + self.convolution(visual.transpose(1, 2)).transpose(1, 2)
        changed: Tensor = self.cross_attention(queries, visual)
        return changed
