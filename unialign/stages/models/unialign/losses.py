"""The losses of UniAlign (RECONSTRUCTION; the formulas are in `cmsa` and `text_bank`).

Legend: B batch, L classes, tau temperature.

    L = CE(head(v), y) + CE(z, y) + lambda * sum over pairs of modalities of pair(a, b) + gamma * L_sema
    pair(a, b) = 1/2 * (KL(G, softmax(s^ab / tau)) + KL(G, softmax(s^ba / tau))),  G_ij = [y_i = y_j], rows sum to 1
    L_sema     = CE(bank's scores of v, y) + CE(bank's scores of the classifier's weights, own class)

Candidate A has the pair video-pose, candidate B all pairs. Where each class is once in the batch, pair(a, b) is the
symmetric InfoNCE loss. gamma = 5: ART, equation 18.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as functional
from torch import Tensor

from unialign.stages.models.precision import full_precision


class WeightsOfLosses(Protocol):
    """What the losses read from the model."""

    gamma: float
    lambda_vp: float

    @property
    def temperature(self) -> Tensor:
        """tau, a scalar."""


def uni_align_losses(
    model: WeightsOfLosses, outputs: Mapping[str, Tensor], labels: Tensor, *, smoothing: float = 0.0
) -> dict[str, Tensor]:
    """The weighted terms, float32 scalars; the loss to minimize is their sum. labels (B,). smoothing: of labels, in
    classification and alignment.

    classification; alignment (with pose or text); similarity_vp, similarity_vt, similarity_pt (as the model has them);
    bank_video, bank_prototype (with text, bank form "agent").
    """

    def classified(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    with full_precision(labels):
        losses = {"classification": classified(outputs["video_logits"])}
        if "align_logits" in outputs:
            losses["alignment"] = classified(outputs["align_logits"])
        same = labels[:, None] == labels[None, :]  # (B, B)
        everyone = torch.ones_like(labels, dtype=torch.bool)
        for pair in ("vp", "vt", "pt"):
            if f"similarity_{pair}" in outputs:
                rows, columns = (outputs["has_pose"] if modality == "p" else everyone for modality in pair)
                logits = outputs[f"similarity_{pair}"].float() / model.temperature
                losses[f"similarity_{pair}"] = model.lambda_vp * pair_loss(logits, same, rows, columns)
        if "bank_video_logits" in outputs:
            prototypes = outputs["bank_prototype_logits"].float()
            own = torch.arange(len(prototypes), device=labels.device)
            losses["bank_video"] = model.gamma * functional.cross_entropy(outputs["bank_video_logits"].float(), labels)
            losses["bank_prototype"] = model.gamma * functional.cross_entropy(prototypes, own)
    return losses


def pair_loss(logits: Tensor, same: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean of `divergence` in both directions, a scalar. logits, same (B, B); rows, columns (B,): what takes part."""
    return 0.5 * (divergence(logits, same, rows, columns) + divergence(logits.T, same.T, columns, rows))


def divergence(logits: Tensor, same: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean over rows of KL(G_i, softmax(logits_i)), a scalar; G_i is uniform over the row's positives.

    Rows and columns marked False (clips without a pose) are left out, and so are rows that have no positive left;
    0 if no row is left.
    """
    positives = same & columns[None, :]  # (B, B)
    counts = positives.sum(dim=1)  # (B,)
    usable = rows & (counts > 0)
    # Columns that take no part get no probability; a large negative number keeps rows without any column finite.
    log_probabilities = logits.masked_fill(~columns[None, :], -1e9).log_softmax(dim=1)
    counted = counts.clamp(min=1).to(logits.dtype)
    # sum_j G_ij (log G_ij - log p_ij), with G_ij = 1 / count for positives
    mean_positive = torch.where(positives, log_probabilities, 0.0).sum(dim=1) / counted
    rowwise = -counted.log() - mean_positive  # (B,)
    return torch.where(usable, rowwise, 0.0).sum() / usable.sum().clamp(min=1)
