"""Stochastic depth ("drop path"): in training, blocks of a transformer are skipped for some clips.

Source: G. Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016; per sample and linear in depth, as MViT, Swin
and VideoMAE have it.
"""

from torch import nn
from torchvision.ops import StochasticDepth

from unialign.errors import UsageError


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Skip the branches of the last block with this probability, of earlier ones with less, down to 0 at the first.

    Raises `UsageError` for a model without such blocks.
    """
    blocks = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if not blocks:
        raise UsageError(
            "train.settings.drop_path is for MViT, Swin, VideoMAE and V-JEPA, and this model has none that is trained; "
            "leave it unset."
        )
    for number, block in enumerate(blocks):
        block.p = rate * number / max(len(blocks) - 1, 1)
