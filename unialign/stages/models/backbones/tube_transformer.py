"""Plain video transformers over tubes of two frames: VideoMAE V2, V-JEPA 2 and V-JEPA 2.1.

Legend: B batch, T frames, T' = T / 2 time steps, H', W' patches, N = T' H' W' tokens, D width, E = D / heads.

Source: Wang et al., "VideoMAE V2", CVPR 2023 (arXiv 2303.16727), and OpenGVLab/VideoMAEv2, models/modeling_finetune.py;
Assran et al., "V-JEPA 2" (arXiv 2506.09985), and facebookresearch/vjepa2, src/models and app/vjepa_2_1/models. They
differ in what tells a token its place:

    "sines"    VideoMAE V2: sines of the token's number, added to the tokens
    "rotary"   V-JEPA 2: thirds of each head are rotated by frame, row and column; the released networks repeat the
               list of frequencies where pairs of channels would share one, and so does this one
    "scaled"   V-JEPA 2.1: pairs share a frequency, and rows and columns are scaled to a grid of 16 x 16

Deviations: keys have a bias, which begins at zero for VideoMAE V2 and changes no attention; the modality vector of
V-JEPA 2.1 is part of the patches' bias, and its path for single images, its norms of inner layers and V-JEPA's
predictor are left out. Clips are summarized by a mean, where V-JEPA's own evaluation trains an attentive probe.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from unialign.errors import UsageError
from unialign.stages.models.backbones.tsm import IMAGENET_MEAN, IMAGENET_STD
from unialign.stages.models.backbones.video_transformer import check_size
from unialign.stages.models.recompute import Recomputing

TUBE = 2  # frames
SCALED_SIDE = 16  # patches of the grid that "scaled" positions refer to
POSITIONS = ("sines", "rotary", "scaled")

# Names of transformers' VJEPA2Model, as regular expressions, and what is meant.
_HUGGING_FACE = (
    (r"^(?:vjepa2\.)?encoder\.embeddings\.patch_embeddings\.", "patch_embed."),
    (r"^(?:vjepa2\.)?encoder\.layer\.(\d+)\.attention\.", r"blocks.\1.attn."),
    (r"^(?:vjepa2\.)?encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^(?:vjepa2\.)?encoder\.layernorm\.", "norm."),
    (r"^model\.", ""),
    (r"^fc_norm\.", "norm."),
)
_LEFT_OUT = re.compile(
    r"^(?:vjepa2\.)?predictor\.|^pooler\.|^classifier\.|^patch_embed_img\.|^img_mod_embed$|^pos_embed$|^mask_token"
)


class RotaryAttention(nn.Module):
    """Self-attention (B, N, D) to the same; angles, if any, rotate queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """See the class. angles: cosines and sines (N, E)."""
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if angles is not None:
            queries, keys = rotated(queries, *angles), rotated(keys, *angles)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)  # (B, heads, N, E)
        return torch.as_tensor(self.proj(mixed.transpose(1, 2).flatten(2)))


def rotated(values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Each pair of channels (2 i, 2 i + 1) of (..., N, E) turned; angles beyond the rotated channels are zero."""
    first, second = values.view(*values.shape[:-1], -1, 2).unbind(dim=-1)
    turned = torch.stack([-second, first], dim=-1).flatten(-2)
    return values * cosines + turned * sines


def angles_of(size: tuple[int, int, int], channels: int, *, scaled: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, E) of the rotations of tokens in a grid of T', H', W'.

    channels: E. like: for device and type.
    """
    part = 2 * (channels // 3 // 2)  # channels of each of frame, row and column
    places = torch.cartesian_prod(*(torch.arange(each, device=like.device) for each in size)).float()  # (N, 3)
    if scaled:
        shrink = [1.0, *((SCALED_SIDE - 1) / max(1, each - 1) for each in size[1:])]
        places = places * torch.tensor(shrink, device=like.device)
    frequencies = 10000.0 ** -(torch.arange(part // 2, device=like.device) / (part / 2))
    turns = places[:, :, None] * frequencies  # (N, 3, part / 2)
    turns = turns.repeat_interleave(2, dim=2) if scaled else turns.repeat(1, 1, 2)
    turns = functional.pad(turns.flatten(1), (0, channels - 3 * part))
    return turns.cos().to(like.dtype), turns.sin().to(like.dtype)


class Block(nn.Module):
    """Attention and MLP, each behind a norm, (B, N, D) to the same."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = RotaryAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, hidden))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(hidden, width))
        # Off unless `drop_path.set_drop_path` switches it on.
        self.drop_path = StochasticDepth(0.0, "row")

    def forward(self, tokens: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """See the class."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), angles))
        return torch.as_tensor(tokens + self.drop_path(self.mlp(self.norm2(tokens))))


class TubeTransformer(Recomputing):
    """One of the transformers of this file.

    frames (B, T, 3, H, W), float32, normalized with `mean` and `std` -> tokens (B, T', D): means over space,
    grid (B, T', H', W', D), pooled (B, D): their mean, for VideoMAE V2 the norm of the mean, as published.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    own_prefixes: tuple[str, ...] = ()

    def __init__(
        self, *, width: int, depth: int, heads: int, hidden: int, patch: int, num_frames: int, positions: str
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"positions {positions!r} are not one of {', '.join(POSITIONS)}")
        self.width, self.positions, self.num_frames = width, positions, num_frames
        self.channels = width // heads
        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module("proj", nn.Conv3d(3, width, (TUBE, patch, patch), (TUBE, patch, patch)))
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """See the class. Raises ValueError for another number of frames."""
        if frames.shape[1] != self.num_frames:
            raise ValueError(f"this backbone was built for {self.num_frames} frames and got {frames.shape[1]}")
        volume = self.patch_embed(frames.transpose(1, 2))  # (B, D, T', H', W')
        size = (volume.shape[2], volume.shape[3], volume.shape[4])
        tokens, angles = volume.flatten(2).transpose(1, 2), None
        if self.positions == "sines":
            tokens = tokens + sines(tokens.shape[1], self.width, tokens)
        else:
            angles = angles_of(size, self.channels, scaled=self.positions == "scaled", like=tokens)
        for block in self.blocks:
            tokens = self.block(block, tokens, angles)
        grid = self.norm(tokens).unflatten(1, size)  # (B, T', H', W', D)
        if self.positions == "sines":
            steps = self.norm(tokens.unflatten(1, size).mean(dim=(2, 3)))
            return {"tokens": steps, "grid": grid, "pooled": self.norm(tokens.mean(dim=1))}
        steps = grid.mean(dim=(2, 3))
        return {"tokens": steps, "grid": grid, "pooled": steps.mean(dim=1)}

    def rewritten(self, entries: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Published weights under this network's names, and the names of what it has no part for."""
        made, dropped = {}, []
        last = max((int(name.split(".")[1]) for name in entries if name.startswith("norms_block.")), default=0)
        for key, value in entries.items():
            name = key
            for pattern, replacement in _HUGGING_FACE:
                name = re.sub(pattern, replacement, name)
            if _LEFT_OUT.match(name) or (
                name.startswith("norms_block.") and not name.startswith(f"norms_block.{last}.")
            ):
                dropped.append(key)
            else:
                made[name.replace(f"norms_block.{last}.", "norm.")] = value
        for name in [name for name in made if name.endswith((".attn.query.weight", ".attn.query.bias"))]:
            parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            if all(part in made for part in parts):
                made[name.replace(".query.", ".qkv.")] = torch.cat([made.pop(part) for part in parts])
        for name in [name for name in made if name.endswith(".attn.q_bias")]:
            others = name.replace("q_bias", "v_bias")
            if others in made:
                first, last_third = made.pop(name), made.pop(others)
                made[name.replace("q_bias", "qkv.bias")] = torch.cat([first, torch.zeros_like(first), last_third])
        bias = "patch_embed.proj.bias"
        if "video_mod_embed" in made and bias in made:
            made[bias] = made[bias] + made.pop("video_mod_embed").flatten()
        return made, dropped


def sines(count: int, width: int, like: Tensor) -> Tensor:
    """(N, D) of the numbers of tokens: sine and cosine of number / 10000^(2 i / D) in channels 2 i and 2 i + 1."""
    numbers = torch.arange(count, device=like.device, dtype=torch.float64)[:, None]
    turns = numbers / 10000.0 ** (2 * torch.arange(width // 2, device=like.device, dtype=torch.float64) / width)
    return torch.stack([turns.sin(), turns.cos()], dim=-1).flatten(1).to(like.dtype)


# Width, blocks, heads, inner width of the MLPs.
SIZES: Mapping[str, tuple[int, int, int, int]] = {
    "s": (384, 12, 6, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "h": (1280, 32, 16, 5120),
    "g of VideoMAE": (1408, 40, 16, 6144),
    "g": (1408, 40, 22, 6144),
    "G": (1664, 48, 26, 8192),
}


def tube_transformer(
    size: str, positions: str, patch: int = 16, *, num_frames: int, image_size: int
) -> TubeTransformer:
    """The transformer of that size, random weights. Raises `UsageError` unless patches and tubes fill the clip."""
    check_size(image_size, patch)
    if num_frames % TUBE:
        raise UsageError(f"num_frames {num_frames} does not fit this backbone; take an even number.")
    width, depth, heads, hidden = SIZES[size]
    return TubeTransformer(
        width=width,
        depth=depth,
        heads=heads,
        hidden=hidden,
        patch=patch,
        num_frames=num_frames,
        positions=positions,
    )
