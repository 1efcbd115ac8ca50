"""UniFormerV2: an image tower of CLIP, armed with time.

Legend: B batch, T frames, P = H * W patches of a frame, D width, L layers.

Source: Li et al., "UniFormerV2: Spatiotemporal Learning by Arming Image ViTs with Video UniFormer", ICCV 2023
(arXiv 2211.09552), section 3, and the authors' configurations. Each block of the tower becomes

    x = x + LocalTime(x)    over T at each place; in front of the attention, a second one in front of the MLP
    x = x + Attention(x)    over space in each frame, CLIP's
    x = x + MLP(x)          CLIP's
    q = q + CrossAttention(q, all T (1 + P) tokens of the clip), q = q + MLP(q)      behind each of the last layers

and the clip's feature is (1 - w) q + w * mean of the frames' class tokens, w = sigmoid(balance).

The authors' two variants, with millions of parameters here, without a classifier (and as published, with one):
    Kinetics     no local time, 4 global layers           B/16 114.2 (115)    L/14 353.7 (354)
    Something    two local times per block, 8 or 16 global  B/16 161.7 (163)    L/14 572.6 (574)
With the classifier, and Something's stem, counts agree to what is printed. Multiply-adds of a Kinetics clip: B/16 with
8 frames 148.1 G (0.1 T), L/14 with 16 frames 1331.2 G (1.3 T; 1332.43 G in ART, arXiv 2511.21202, which therefore
builds on this variant; the 345.05 M parameters that it prints do not agree).

Deviations: CLIP's own last norm takes the place of the one in the authors' classifier, so that class tokens, patches
and the clip share it; its projection to the text width is left out. The Something variant keeps one token per frame,
where the authors halve the frames by a 3-frame stem. No stochastic depth. Frames are normalized as for CLIP; the
authors' video weights were trained with 0.45 and 0.225 for all colors. Weights of networks that were trained with
plain GELU (LAION's) compute wrong features: the tower has QuickGELU, as OpenAI's.
"""

from typing import Any

import torch
from torch import Tensor, nn

from unialign.stages.models.precision import full_precision
from unialign.stages.models.recompute import Recomputing

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Names in the authors' checkpoints (and mmaction2's) and in OpenCLIP's, as regular expressions, and what is meant.
PUBLISHED_NAMES = (
    (r"^transformer\.temporal_cls_token$", "query"),
    (r"^transformer\.balance$", "balance"),
    (r"^transformer\.dpe\.", "positions."),
    (r"^transformer\.dec\.", "aggregators."),
    (r"^transformer\.resblocks\.(\d+)\.lmhra1\.pos_embed\.", r"local_first.\1."),
    (r"^transformer\.resblocks\.(\d+)\.lmhra2\.pos_embed\.", r"local_second.\1."),
    (r"^transformer\.(proj\.0|norm)\.", "network.ln_post."),
    (r"^transformer\.proj\.2\.", "head."),
    (r"^proj$", "head.weight"),
)


class DepthwiseConv3d(nn.Conv3d):
    """Convolves each channel separately; on a CPU always in single precision.

    In some bfloat16 training runs on a CPU with AVX-512 (torch 2.15, noise deliberately added to the products),
    gradients of its weights reached 1e22 and differed between runs. The cause in torch's kernel was not found; it did
    not occur in single precision.
    """

    def __init__(self, width: int, kernel_size: tuple[int, int, int]) -> None:
        time, height, wide = (size // 2 for size in kernel_size)
        super().__init__(width, width, kernel_size, padding=(time, height, wide), groups=width)

    def forward(self, input: Tensor) -> Tensor:
        """The convolved input, of its shape (B, width, T, H, W)."""
        if input.device.type != "cpu":
            return super().forward(input)
        with full_precision(input):
            return super().forward(input.to(self.weight.dtype))


def local_time(width: int, reduction: float = 1.5) -> nn.Sequential:
    """Local temporal aggregation, (B, D, T, H, W) to the same: each place looks one frame back and ahead.

    The last convolution starts at zero, so a block begins as CLIP's. Source: section 3.2; reduction: the authors'.
    """
    inner = int(width // reduction)
    last = nn.Conv3d(inner, width, kernel_size=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.BatchNorm3d(width),
        nn.Conv3d(width, inner, kernel_size=1),
        DepthwiseConv3d(inner, (3, 1, 1)),
        last,
    )


class GlobalAggregator(nn.Module):
    """One query looks at all tokens of the clip. Source: section 3.3 (cross MHRA and MLP).

    query (B, 1, D), tokens (B, N, D) -> query (B, 1, D). Both branches end in zeros, so the query begins unchanged.
    """

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.ln_3 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGelu())
        self.mlp.add_module("dropout", nn.Dropout(dropout))
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        nn.init.xavier_uniform_(self.mlp[0].weight)  # type: ignore[arg-type]
        for last in (self.attn.out_proj, self.mlp[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """The query, moved."""
        seen = self.ln_3(tokens)
        query = query + self.attn(self.ln_1(query), seen, seen, need_weights=False)[0]
        moved: Tensor = query + self.mlp(self.ln_2(query))
        return moved


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x), as in OpenAI's CLIP."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Of any shape."""
        return hidden * torch.sigmoid(1.702 * hidden)


class UniFormerV2(Recomputing):
    """A CLIP image tower with local time in its blocks and a query over the clip.

    frames (B, T, 3, H, W), float32, normalized with `mean` and `std` -> tokens (B, T, D): the frames' class tokens;
    grid (B, T, H', W', D): the patches; pooled (B, D): the clip. At the start tokens and grid are CLIP's.

    network: OpenCLIP's `VisionTransformer`. num_global: layers with a query, the last ones. num_local: local times in
    each block, 0, 1 or 2. dropout: inside the query's MLPs (0.5, the authors').
    """

    mean = CLIP_MEAN
    std = CLIP_STD
    own_prefixes = ("local_", "query", "positions.", "aggregators.", "balance")  # what CLIP's weights do not have
    published_names = PUBLISHED_NAMES

    def __init__(
        self, *, network: Any, num_frames: int, num_global: int = 4, num_local: int = 0, dropout: float = 0.5
    ) -> None:
        super().__init__()
        network.proj = None  # a parameter that nothing would use
        self.network: Any = network
        self.num_frames = num_frames
        blocks = list(network.transformer.resblocks)
        self.width = width = int(network.class_embedding.shape[0])
        self.first_global = len(blocks) - num_global
        if self.first_global < 0 or num_local not in (0, 1, 2):
            raise ValueError(f"{len(blocks)} layers do not have {num_global} global and {num_local} local parts")
        self.local_first = nn.ModuleList([local_time(width) for _ in blocks] if num_local >= 1 else [])
        self.local_second = nn.ModuleList([local_time(width) for _ in blocks] if num_local == 2 else [])
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.balance = nn.Parameter(torch.zeros(width))
        self.positions = nn.ModuleList([DepthwiseConv3d(width, (3, 3, 3)) for _ in range(num_global)])
        for convolution in self.positions:
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        heads = int(blocks[0].attn.num_heads)
        self.aggregators = nn.ModuleList(
            [GlobalAggregator(width=width, heads=heads, dropout=dropout) for _ in range(num_global)]
        )

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Features of each frame, of each place and of the clip. Raises ValueError for another number of frames."""
        if frames.shape[1] != self.num_frames:
            raise ValueError(f"this backbone was built for {self.num_frames} frames and got {frames.shape[1]}")
        network = self.network
        size = (self.num_frames, *network.grid_size)  # T, H', W'
        hidden = network._embeds(frames.flatten(0, 1))  # (B*T, 1 + P, D)
        query = self.query.repeat(len(frames), 1, 1)  # (B, 1, D)
        for index, block in enumerate(network.transformer.resblocks):
            if self.local_first:
                hidden = in_time(self.local_first[index], hidden, size)
            hidden = self.block(attended, block, hidden)
            if self.local_second:
                hidden = in_time(self.local_second[index], hidden, size)
            hidden = self.block(transformed, block, hidden)
            place = index - self.first_global
            if place >= 0:
                tokens = in_time(self.positions[place], hidden, size)
                query = self.aggregators[place](query, tokens.reshape(len(frames), -1, self.width))
        clips = hidden.unflatten(0, (-1, self.num_frames))  # (B, T, 1 + P, D)
        weight = self.balance.sigmoid()
        pooled = (1 - weight) * query[:, 0] + weight * clips[:, :, 0].mean(dim=1)  # (B, D)
        normed = network.ln_post(clips)
        grid = normed[:, :, 1:].unflatten(2, size[1:])
        return {"tokens": normed[:, :, 0], "grid": grid, "pooled": network.ln_post(pooled)}


def attended(block: Any, hidden: Tensor) -> Tensor:
    """x + Attention(x) of OpenCLIP's block."""
    moved: Tensor = hidden + block.attention(block.ln_1(hidden))
    return moved


def transformed(block: Any, hidden: Tensor) -> Tensor:
    """x + MLP(x) of OpenCLIP's block."""
    moved: Tensor = hidden + block.mlp(block.ln_2(hidden))
    return moved


def in_time(module: nn.Module, hidden: Tensor, size: tuple[int, int, int]) -> Tensor:
    """x + module(x) on the patches, x as (B, D, T, H, W); class tokens stay. hidden (B*T, 1 + P, D)."""
    classes, patches = hidden[:, :1], hidden[:, 1:]
    volume = patches.reshape(-1, *size, patches.shape[-1]).permute(0, 4, 1, 2, 3)  # (B, D, T, H, W)
    change = module(volume).permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)  # (B*T, P, D)
    return torch.cat([classes, patches + change], dim=1)


def uniformer_v2(name: str, num_global: int, num_local: int = 0, *, num_frames: int, image_size: int) -> UniFormerV2:
    """A UniFormerV2 over OpenCLIP's image tower of that name, random weights.

    Raises `UsageError` for an unknown name and a size that patches do not fill.
    """
    from unialign.stages.models.clip.image_tower import image_transformer  # OpenCLIP is slow to import

    network = image_transformer(name, image_size=image_size)
    return UniFormerV2(network=network, num_frames=num_frames, num_global=num_global, num_local=num_local)
