"""Tokens of a frozen network from the cache in place of a video backbone: nothing of it is trained or computed again.

Legend: B clips, T time steps, N tokens per step, of which the first is the class token or the mean of the patches,
G side of the grid of the others, D width.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import layer_norm

from unialign.errors import UsageError

CACHED = "cached"  # as the name of a backbone


class CachedTokens(nn.Module):
    """tokens (B, T, N, D) of the store "tokens", of any type -> tokens (B, T, D), pooled (B, D), their mean; float32.

    Also grid (B, T, G, G, D), if the others of a step form a square.
    Each token has mean 0 and deviation 1 over its channels (layer norm without weights), so that what follows need not
    know the network's scale.
    """

    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, cached: Tensor) -> dict[str, Tensor]:
        """See the class."""
        every = layer_norm(cached.float(), cached.shape[-1:])
        tokens = every[:, :, 0]
        outputs = {"tokens": tokens, "pooled": tokens.mean(dim=1)}
        if side := grid_side(every.shape[2]):
            outputs["grid"] = every[:, :, 1:].reshape(*every.shape[:2], side, side, -1)
        return outputs


def grid_side(num_tokens: int) -> int:
    """G for the tokens of a step, the first of which is not of the grid; 0 if the others form no square."""
    side = math.isqrt(num_tokens - 1)
    return side if side * side == num_tokens - 1 else 0


def clip_input(backbone: nn.Module) -> str:
    """What of a batch a backbone reads: "frames", or "tokens" where they are cached."""
    return "tokens" if isinstance(backbone, CachedTokens) else "frames"


def video_backbone(config: Any, token_width: int | None, weights: Mapping[str, Any] | None) -> nn.Module:
    """The backbone of a system's configuration: a network on frames, or cached tokens of that width.

    Raises `UsageError` for tokens of unknown width, and what `registry.build_backbone` raises.
    """
    if config.backbone == CACHED:
        if token_width is None:
            raise UsageError("backbone is cached, but there are no tokens; run `unialign extract tokens`.")
        return CachedTokens(token_width)
    # Brings timm along, which a command that finds a finished run does not need.
    from unialign.stages.models.backbones.registry import build_backbone

    return build_backbone(config.backbone, num_frames=config.num_frames, image_size=config.image_size, weights=weights)
