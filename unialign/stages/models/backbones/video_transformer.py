"""Video transformers: frames through an image transformer and then time, and two of torchvision's space-time networks.

Legend: B batch, T frames, T' tokens in time, H W height and width, D width.
All give one token per time step (the mean over space where there is one), so the number of tokens does not grow with
the image size, and the grid that they come from.
"""

from typing import Any

import timm
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torchvision.models.video import swin3d_t
from torchvision.models.video.mvit import MSBlockConfig, MViT

from unialign.errors import UsageError
from unialign.stages.models.recompute import Recomputing


def check_size(image_size: int, step: int) -> None:
    """Raises `UsageError` where the image cannot be cut into whole patches."""
    if image_size % step:
        raise UsageError(f"image_size {image_size} does not fit this backbone; take a multiple of {step}.")


class FrameTransformer(Recomputing):
    """A ViT on each frame, then a transformer over the frames' class tokens.

    frames (B, T, 3, H, W), float32, normalized with `mean` and `std` -> tokens (B, T, D), grid (B, T, H', W', D): the
    ViT's patches, which know their own frame only; pooled (B, D), the tokens' mean.

    Source: Arnab et al., "ViViT", ICCV 2021, model 2 (factorized encoder; four temporal layers). Deviation: the mean
    over frames instead of a second class token. temporal_depth 0: each frame by itself, its class token as it is.
    """

    mean = (0.5, 0.5, 0.5)  # what timm's ViT weights expect
    std = (0.5, 0.5, 0.5)
    temporal: nn.Sequential | None
    own_prefixes = ("temporal",)  # parts that image weights do not have

    def __init__(self, *, network: nn.Module, num_frames: int, temporal_depth: int = 4) -> None:
        super().__init__()
        self.network: Any = network
        self.num_frames = num_frames
        self.width = int(network.embed_dim)  # type: ignore[arg-type]
        heads = max(1, self.width // 64)
        if temporal_depth == 0:
            self.temporal = None
            return
        self.temporal_embedding = nn.Parameter(torch.zeros(1, num_frames, self.width))
        nn.init.trunc_normal_(self.temporal_embedding, std=0.02)
        self.temporal = nn.Sequential(
            *[Block(dim=self.width, num_heads=heads, qkv_bias=True) for _ in range(temporal_depth)]
        )
        self.temporal_norm = nn.LayerNorm(self.width)

    def recompute_blocks(self) -> None:
        """See `Recomputing`; timm's network calls its blocks itself."""
        super().recompute_blocks()
        self.network.set_grad_checkpointing()

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Features of each frame and of the clip. Raises ValueError for another number of frames."""
        if frames.shape[1] != self.num_frames:
            raise ValueError(f"this backbone was built for {self.num_frames} frames and got {frames.shape[1]}")
        hidden = self.network.forward_features(frames.flatten(0, 1))  # (B*T, 1 + P, D)
        classes = self.network.forward_head(hidden).unflatten(0, (-1, self.num_frames))  # (B, T, D)
        tokens: Tensor = classes  # (B, T, D)
        if self.temporal is not None:
            moved = classes + self.temporal_embedding
            for block in self.temporal:
                moved = self.block(block, moved)
            tokens = self.temporal_norm(moved)
        size = self.network.patch_embed.grid_size
        grid = hidden[:, self.network.num_prefix_tokens :].unflatten(1, size).unflatten(0, (-1, self.num_frames))
        return {"tokens": tokens, "grid": grid, "pooled": tokens.mean(dim=1)}


def frame_transformer(
    name: str, patch: int = 16, *, num_frames: int, image_size: int, temporal_depth: int = 4
) -> FrameTransformer:
    """A `FrameTransformer` over the timm ViT of that name. Raises `UsageError` unless patches fill the image."""
    check_size(image_size, patch)
    network = timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size)
    return FrameTransformer(network=network, num_frames=num_frames, temporal_depth=temporal_depth)


class Mvit(Recomputing):
    """MViTv2-S, tokens averaged over space; the class token is the clip's feature.

    frames (B, T, 3, H, W), float32, normalized with `mean` and `std` -> tokens (B, T/2, 768),
    grid (B, T/2, H', W', 768), pooled (B, 768).
    Published weights are for 16 frames of 224 x 224.

    Source: Li et al., "MViTv2", CVPR 2022, table 1 (S); the network is torchvision's.
    """

    mean = (0.45, 0.45, 0.45)
    std = (0.225, 0.225, 0.225)
    own_prefixes: tuple[str, ...] = ()
    width = 768

    def __init__(self, *, num_frames: int, image_size: int) -> None:
        super().__init__()
        check_size(image_size, 32)
        if num_frames % 2:
            raise UsageError(f"num_frames {num_frames} does not fit this backbone; take an even number.")
        self.network: Any = MViT(
            spatial_size=(image_size, image_size),
            temporal_size=num_frames,
            block_setting=mvit_blocks(),
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=True,
            stochastic_depth_prob=0.2,
        )
        self.network.head = nn.Identity()

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Features of each pair of frames and of the clip."""
        network = self.network
        patches = network.conv_proj(frames.transpose(1, 2)).flatten(2).transpose(1, 2)  # (B, T' H' W', 96)
        hidden = network.pos_encoding(patches)  # (B, 1 + T' H' W', 96)
        size = (network.pos_encoding.temporal_size, *network.pos_encoding.spatial_size)
        for block in network.blocks:
            hidden, size = self.block(block, hidden, size)
        hidden = network.norm(hidden)  # (B, 1 + T' H'' W'', D)
        grid = hidden[:, 1:].unflatten(1, size)  # (B, T', H'', W'', D)
        return {"tokens": grid.mean(dim=(2, 3)), "grid": grid, "pooled": hidden[:, 0]}


def mvit_blocks() -> list[Any]:
    """The 16 blocks of MViTv2-S in four stages of 1, 2, 11 and 2; width and heads double from stage to stage."""
    blocks = []
    width = 96
    for stage, depth in enumerate((1, 2, 11, 2)):
        heads = 2**stage
        for index in range(depth):
            stride = 2 if stage and index == 0 else 1
            keys = 8 // heads
            blocks.append(
                MSBlockConfig(
                    num_heads=heads,
                    input_channels=width,
                    output_channels=96 * heads,
                    kernel_q=[3, 3, 3],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, stride, stride],
                    stride_kv=[1, keys, keys],
                )
            )
            width = 96 * heads
    return blocks


class Swin(Recomputing):
    """Video Swin-T, tokens averaged over space.

    frames (B, T, 3, H, W), float32, normalized with `mean` and `std` -> tokens (B, T/2, 768),
    grid (B, T/2, H', W', 768), pooled (B, 768), the tokens' mean.

    Source: Liu et al., "Video Swin Transformer", CVPR 2022; the network is torchvision's.
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    own_prefixes: tuple[str, ...] = ()
    width = 768

    def __init__(self, *, num_frames: int, image_size: int) -> None:
        super().__init__()
        del num_frames, image_size  # relative positions inside windows: any size goes
        self.network: Any = swin3d_t(weights=None)
        self.network.head = nn.Identity()

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Features of each pair of frames and of the clip."""
        network = self.network
        grid = network.pos_drop(network.patch_embed(frames.transpose(1, 2)))  # (B, T', H', W', 96)
        for stage in network.features:
            for block in stage if isinstance(stage, nn.Sequential) else [stage]:
                grid = self.block(block, grid)
        grid = network.norm(grid)  # (B, T', H'', W'', D)
        tokens = grid.mean(dim=(2, 3))  # (B, T', D)
        return {"tokens": tokens, "grid": grid, "pooled": tokens.mean(dim=1)}
