"""Parts of ART: which texts ask, where they look in each frame, and how a tracklet becomes one vector.

Legend: B clips, T frames, H W the grid of places, C width of the backbone, K queries (and tracklets), N prompts,
L classes, d latent width.

Source: ART (`art`; arXiv 2511.21202), equations 1 to 4 and 9; their shapes are rebuilt from the paper's prose. Not
written there, and chosen here: layers are pre-norm with an MLP of four times the width and residuals around both parts
(of equation 3 as well), no positions are added to the backbone's grid, and the K prompts of equation 2 are the same for
all frames.
Over UniFormerV2-L/14 with 16 frames and 99 classes, all of ART costs 9.1 M parameters (with 16 prompts per class) and
21.1 G multiply-adds here; the paper prints 20.0 M and 97.0 G more than its baseline: its layers are larger than these.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


def top_semantics(video: Tensor, texts: Tensor, number: int, selection: str = "classes") -> tuple[Tensor, Tensor]:
    """The texts that each clip resembles most: rows (B, K, C) and their classes (B, K), best first. K is `number`.

    video (B, C); texts (N, L, C), unit rows. Gradients reach `texts` through the rows; the choice has none.
    "classes": the K classes of the best row, and that row; "rows": the K best rows, of whatever class.
    """
    with torch.no_grad():
        cosines = torch.einsum("bc,nlc->bnl", functional.normalize(video, dim=-1), texts)  # (B, N, L)
        if selection == "classes":
            best, prompts = cosines.max(dim=1)  # (B, L), winner takes all
            classes = best.topk(number, dim=1).indices  # (B, K)
            prompts = prompts.gather(1, classes)
        else:
            places = cosines.flatten(1).topk(number, dim=1).indices
            prompts, classes = places // texts.shape[1], places % texts.shape[1]
    return texts[prompts, classes], classes


class RegionAttention(nn.Module):
    """Equation 3: each query reads from the places of its frame.

    queries (M, K, d), places (M, P, d) -> responses (M, K, d), maps (M, K, P), the heads' mean; rows sum to 1.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Responses and maps."""
        asked, keys, values = (
            projected.view(*projected.shape[:2], self.heads, -1).transpose(1, 2)  # (M, heads, K or P, d / heads)
            for projected in (self.query(queries), self.key(places), self.value(places))
        )
        maps = (asked @ keys.transpose(2, 3) / asked.shape[-1] ** 0.5).softmax(dim=-1)  # (M, heads, K, P)
        responses: Tensor = self.out((maps @ values).transpose(1, 2).flatten(2))
        return responses, maps.mean(dim=1)


class RegionLayer(nn.Module):
    """Equation 3 and an MLP, each with a residual. Shapes: `RegionAttention`."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.place_norm = nn.LayerNorm(width)
        self.attention = RegionAttention(width=width, heads=heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, queries: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, moved, and maps."""
        responses, maps = self.attention(self.query_norm(queries), self.place_norm(places))
        queries = queries + responses
        return queries + self.mlp(queries), maps


class RegionSemantics(nn.Module):
    """RSSA, region-specific semantics activation: grid and texts to the responses of K regions in each frame.

    enhancement_layers: of equation 1 (SE); 0 leaves it out. region_layers: of equation 3. integration: equation 2 by
    "add", or by "concat" and a linear map back to d.
    """

    def __init__(
        self,
        *,
        grid_width: int,
        width: int,
        heads: int,
        num_tracks: int,
        enhancement_layers: int,
        region_layers: int,
        integration: str,
    ) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        self.grid_projection = nn.Linear(grid_width, width)
        self.text_projection = nn.Linear(grid_width, width)
        self.enhancement = nn.ModuleList(
            [Block(dim=width, num_heads=heads, qkv_bias=True) for _ in range(enhancement_layers)]
        )
        self.prompts = nn.Parameter(torch.randn(num_tracks, width) * 0.02)  # P
        self.integrate = nn.Linear(2 * width, width) if integration == "concat" else None
        self.layers = nn.ModuleList([RegionLayer(width=width, heads=heads) for _ in range(region_layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, grid: Tensor, semantics: Tensor) -> dict[str, Tensor]:
        """regions (B, T, K, d): r; region_maps (B, T, K, H, W): of the last layer, sums of 1; anchors (B, K, d): s.

        grid (B, T, H, W, C), semantics (B, K, C).
        """
        clips, frames, *size, _ = grid.shape
        anchors = self.text_projection(semantics)  # (B, K, d)
        places = self.grid_projection(grid).flatten(2, 3).flatten(0, 1)  # (B*T, H*W, d)
        texts = anchors.repeat_interleave(frames, dim=0)  # (B*T, K, d)
        num_places = places.shape[1]
        tokens = torch.cat([places, texts], dim=1)
        for block in self.enhancement:  # equation 1
            tokens = block(tokens)
        places, texts = tokens[:, :num_places], tokens[:, num_places:]
        prompts = self.prompts.expand_as(texts)
        queries: Any = texts + prompts if self.integrate is None else self.integrate(torch.cat([texts, prompts], -1))
        for layer in self.layers:  # equation 3
            queries, maps = layer(queries, places)
        return {
            "regions": self.norm(queries).view(clips, frames, *queries.shape[1:]),
            "region_maps": maps.view(clips, frames, -1, *size),
            "anchors": anchors,
        }


def frame_weights(regions: Tensor, anchors: Tensor, similarity: str, temperature: float) -> Tensor:
    """alpha of equation 9, (B, T, K): sums of 1 over time. regions (B, T, K, d), anchors (B, K, d).

    alpha_tk = mean over j of softmax over t of <r_tk, s_j>. The paper does not scale the product: "dot" divides it by
    sqrt(d), as equation 3 does; "cosine" takes the cosine, divided by `temperature`.
    """
    if similarity == "cosine":
        regions, anchors = functional.normalize(regions, dim=-1), functional.normalize(anchors, dim=-1)
        scale = temperature
    else:
        scale = regions.shape[-1] ** 0.5
    scores = torch.einsum("btkd,bjd->btkj", regions, anchors) / scale
    return scores.softmax(dim=1).mean(dim=-1)
