"""UniFormerV2: an image tower of CLIP, armed with time.

Legend: B batch, T frames, P = H * W patches of a frame, D width, L layers.

Source: Li et al., "UniFormerV2: Spatiotemporal Learning by Arming Image ViTs with Video UniFormer", ICCV 2023
(arXiv 2211.09552), section 3, and the authors' configurations. Each block of the tower becomes

    x = x + LocalTime(x)    over T at each place; in front of the attention, a second one in front of the MLP
    x = x + Attention(x)    over space in each frame, CLIP's
    x = x + MLP(x)          CLIP's
    q = q + CrossAttention(q, all T (1 + P) tokens of the clip), q = q + MLP(q)      behind each of the last layers

and the clip's feature is (1 - w) q + w * mean of the frames' class tokens, w = sigmoid(balance).

The authors' variants, with millions of parameters here, without a classifier (and as published, with one):
    Kinetics     no local time, 4 global layers           B/16 114.2 (115)    L/14 353.7 (354)
    frozen       as Kinetics, but only the query and its layers are trained, and the clip's feature is q
    Something    two local times per block, 8 or 16 global  B/16 161.7 (163)    L/14 572.6 (574)
                 and a stem of three frames at every second frame ("ssv2"; without it, "local")
With the classifier, and Something's stem, counts agree to what is printed. Multiply-adds of a Kinetics clip: B/16 with
8 frames 148.1 G (0.1 T), L/14 with 16 frames 1331.2 G (1.3 T; 1332.43 G in ART, arXiv 2511.21202, which therefore
builds on this variant; the 345.05 M parameters that it prints do not agree).

Deviations: CLIP's own last norm takes the place of the one in the authors' classifier, so that class tokens, patches
and the clip share it; its projection to the text width is left out. The "local" variants keep one token per frame. No
stochastic depth. Frames are normalized as for CLIP, those of "ssv2" as the authors' (0.45 and 0.225 for all colors);
weights that were trained with the other one are converted as they are loaded (`renormalized`). Weights of networks that
were trained with plain GELU (LAION's) compute wrong features: the tower has QuickGELU, as OpenAI's.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.precision import full_precision
from unialign.stages.models.recompute import Recomputing

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Of the authors' video weights. Source: slowfast/config/defaults.py of OpenGVLab/UniFormerV2.
VIDEO_MEAN, VIDEO_STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
AUTHORS_QUERY = "temporal_cls_token"  # a name that only the authors' video weights have

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
    each block, 0, 1 or 2. dropout: inside the query's MLPs (0.5, the authors'). stem: each patch sees three frames, and
    only every second frame has tokens, so that T is even and its outputs have T / 2 frames. frozen: the tower is not
    trained, and pooled is the query alone.
    """

    mean = CLIP_MEAN
    std = CLIP_STD
    own_prefixes = ("local_", "query", "positions.", "aggregators.", "balance")  # what CLIP's weights do not have
    published_names: tuple[tuple[str, str], ...] = PUBLISHED_NAMES

    def __init__(
        self,
        *,
        network: Any,
        num_frames: int,
        num_global: int = 4,
        num_local: int = 0,
        dropout: float = 0.5,
        stem: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        network.proj = None  # a parameter that nothing would use
        self.network: Any = network
        self.num_frames = num_frames
        self.num_steps = num_frames // 2 if stem else num_frames  # frames that have tokens
        self.stem: nn.Conv3d | None = None
        if stem:
            if num_frames % 2:
                raise UsageError(f"num_frames {num_frames} does not fit this backbone; take an even number.")
            patches = network.conv1
            side = tuple(patches.kernel_size)
            self.stem = nn.Conv3d(3, patches.out_channels, (3, *side), (2, *side), (1, 0, 0), bias=False)
            network.conv1 = nn.Identity()
            self.mean, self.std = VIDEO_MEAN, VIDEO_STD
            self.published_names = ((r"^conv1\.", "stem."), *PUBLISHED_NAMES)
        network.requires_grad_(not frozen)
        network.ln_post.requires_grad_(True)
        blocks = list(network.transformer.resblocks)
        self.width = width = int(network.class_embedding.shape[0])
        self.first_global = len(blocks) - num_global
        if self.first_global < 0 or num_local not in (0, 1, 2):
            raise ValueError(f"{len(blocks)} layers do not have {num_global} global and {num_local} local parts")
        self.local_first = nn.ModuleList([local_time(width) for _ in blocks] if num_local >= 1 else [])
        self.local_second = nn.ModuleList([local_time(width) for _ in blocks] if num_local == 2 else [])
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.balance = None if frozen else nn.Parameter(torch.zeros(width))
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
        size = (self.num_steps, *network.grid_size)  # T, H', W'; with a stem, T is half from here on
        if self.stem is None:
            pictures = frames.flatten(0, 1)
        else:
            pictures = self.stem(frames.transpose(1, 2)).transpose(1, 2).flatten(0, 1)  # (B*T, D, H', W')
        hidden = network._embeds(pictures)  # (B*T, 1 + P, D)
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
        clips = hidden.unflatten(0, (-1, self.num_steps))  # (B, T, 1 + P, D)
        pooled = query[:, 0]  # (B, D)
        if self.balance is not None:
            weight = self.balance.sigmoid()
            pooled = (1 - weight) * pooled + weight * clips[:, :, 0].mean(dim=1)
        normed = network.ln_post(clips)
        grid = normed[:, :, 1:].unflatten(2, size[1:])
        return {"tokens": normed[:, :, 0], "grid": grid, "pooled": network.ln_post(pooled)}

    def adapted(self, given: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """The given weights, converted where they were trained with another normalization of frames than this one's.

        names: what the file calls them, which tells the authors' video weights. CLIP's patches become the middle frame
        of a stem.
        """
        made = dict(given)
        kernel, positions = "stem.weight" if self.stem is not None else "network.conv1.weight", POSITIONS
        if kernel in made and self.stem is not None and made[kernel].ndim == 4:
            inflated = made[kernel].new_zeros(self.stem.weight.shape)
            inflated[:, :, 1] = made[kernel]
            made[kernel] = inflated
        own_file = any(name.endswith("aggregators.0.ln_1.weight") for name in names)
        if own_file or kernel not in made or positions not in made:
            return made
        authors = any(AUTHORS_QUERY in name for name in names)
        trained_with = (VIDEO_MEAN, VIDEO_STD) if authors else (CLIP_MEAN, CLIP_STD)
        if trained_with != (self.mean, self.std):
            made[kernel], made[positions] = renormalized(
                made[kernel], made[positions], trained_with, (self.mean, self.std)
            )
        return made


POSITIONS = "network.positional_embedding"
Colors = tuple[tuple[float, float, float], tuple[float, float, float]]


def renormalized(kernel: Tensor, positions: Tensor, before: Colors, after: Colors) -> tuple[Tensor, Tensor]:
    """The same first layer for frames that are normalized otherwise: kernel (D, 3, ...), positions (1 + P, D).

    before, after: mean and standard deviation per color. With v' = (v - m') / s', v normalized before is
    v' s' / s + (m' - m) / s: the kernel takes the factor, and the sum of what remains goes to every patch's position.
    """
    (mean, std), (new_mean, new_std) = (
        [torch.tensor(each, dtype=torch.float64, device=kernel.device) for each in colors] for colors in (before, after)
    )
    exact = kernel.double().flatten(2)  # (D, 3, pixels)
    scaled = exact * (new_std / std)[:, None]
    added = (exact.sum(dim=2) * ((new_mean - mean) / std)).sum(dim=1)  # (D)
    moved = positions.double().clone()
    moved[1:] += added
    return scaled.view_as(kernel).to(kernel.dtype), moved.to(positions.dtype)


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


def uniformer_v2(
    name: str,
    num_global: int,
    num_local: int = 0,
    *,
    num_frames: int,
    image_size: int,
    stem: bool = False,
    frozen: bool = False,
) -> UniFormerV2:
    """A UniFormerV2 over OpenCLIP's image tower of that name, random weights. stem, frozen: see the class.

    Raises `UsageError` for an unknown name and a size that patches do not fill.
    """
    from unialign.stages.models.clip.image_tower import image_transformer  # OpenCLIP is slow to import

    network = image_transformer(name, image_size=image_size)
    return UniFormerV2(
        network=network, num_frames=num_frames, num_global=num_global, num_local=num_local, stem=stem, frozen=frozen
    )
