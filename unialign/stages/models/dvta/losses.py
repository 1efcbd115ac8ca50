"""The loss of DVTA.

Legend: B poses of a batch, each with the text of its own label.

    L = 1/2 (KL(Q, softmax over texts of p) + KL(Q, softmax over poses of p^T))
    Q = softmax over rows of 10 [y_i = y_j]

KL is summed over a row and averaged over rows. Source: DVTA (arXiv 2409.14336) and its code. With a separate loss of
the direct alignment (the paper introduces one, the code has none) the same L of p^1 is added.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from unialign.stages.models.precision import full_precision

TARGET_SCALE = 10.0


class DirectLoss(Protocol):
    """What the losses read from the model."""

    direct_loss: bool


def dvta_losses(model: DirectLoss, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """The terms, float32 (float64 of such logits) scalars; the loss to minimise is their sum. labels (B,).

    alignment: of pair_logits (B, B); direct: of direct_logits (B, B), where the model asks for it.
    """
    losses = {"alignment": matching_loss(outputs["pair_logits"], labels)}
    if model.direct_loss:
        losses["direct"] = matching_loss(outputs["direct_logits"], labels)
    return losses


def matching_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L of the module, a scalar. logits (B, B): rows are poses, columns texts; labels (B,)."""
    with full_precision(logits):
        scores = logits if logits.dtype == torch.float64 else logits.float()
        same = (labels[:, None] == labels[None, :]).to(
            scores.dtype
        )  # (B, B), symmetric: one target for both directions
        target = (TARGET_SCALE * same).log_softmax(dim=1)
        both = scores.log_softmax(dim=1) + scores.T.log_softmax(dim=1)
        return (target.exp() * (target - 0.5 * both)).sum() / len(labels)
