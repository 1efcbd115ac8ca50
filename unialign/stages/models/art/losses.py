"""The losses of ART (arXiv 2511.21202), equations 5 to 8, 10, 11 and 14 to 18.

Legend: B clips, T frames, K regions of a frame (and tracklets), d latent width, L classes.

    L        = L_v + L_con + gamma_mtc * L_MTC + gamma_bank * L_sema        (18)
    L_v      = CE(video_logits, y)                                          (10)
    L_con    = CE(logits, y)                                                (11)
    L_MTC    = spatial + temporal + tracklet                                (8)
    spatial  = mean over t, k != k' of cos(r_tk, r_tk')                     (5)   regions of a frame apart
    temporal = mean over t < T, k of form(lambda - cos(r_tk, r_t+1,k))      (6)   neighbors alike, up to lambda
    tracklet = mean over k != k' of cos(Tr_k, Tr_k')                        (7)   tracklets (T * d numbers) apart
    L_sema   = CE(bank's scores of x_cls, y) + CE(bank's scores of the classifier's weights, own class)   (14 to 17)

The paper's prose gives the terms, not their form: cosine, the hinge max(0, .) for `form`, and unit weights in (8) are
assumed; "abs" and "square" are the other readings.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as functional
from torch import Tensor

from unialign.stages.models.precision import full_precision

FORMS: dict[str, Callable[[Tensor], Tensor]] = {"hinge": torch.relu, "abs": torch.abs, "square": torch.square}


class SettingsOfLosses(Protocol):
    """What the losses read of the configuration; see `ARTConfig`."""

    @property
    def mtc(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def temporal_form(self) -> str: ...  # noqa: D102
    @property
    def temporal_target(self) -> float: ...  # noqa: D102
    @property
    def gamma_mtc(self) -> float: ...  # noqa: D102
    @property
    def gamma_bank(self) -> float: ...  # noqa: D102


class ModelOfLosses(Protocol):
    """What the losses read of the model."""

    @property
    def config(self) -> SettingsOfLosses: ...  # noqa: D102


def art_losses(
    model: ModelOfLosses, outputs: Mapping[str, Tensor], labels: Tensor, *, smoothing: float = 0.0
) -> dict[str, Tensor]:
    """The weighted terms, float32 scalars; the loss to minimize is their sum. labels (B,). smoothing: of labels, in
    classification and final.

    classification; with regions: final, and mtc_spatial, mtc_temporal, mtc_tracklet as configured (pairs of regions
    need K > 1, neighbors T > 1; without them a term is left out); bank_video, bank_prototype as configured.
    """
    config = model.config

    def classified(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    with full_precision(labels):
        losses = {"classification": classified(outputs["video_logits"])}
        if "regions" in outputs:
            losses["final"] = classified(outputs["logits"])
            regions = outputs["regions"].float()
            _, frames, tracks, _ = regions.shape
            if "spatial" in config.mtc and tracks > 1:
                losses["mtc_spatial"] = config.gamma_mtc * spatial_term(regions)
            if "temporal" in config.mtc and frames > 1:
                term = temporal_term(regions, config.temporal_target, config.temporal_form)
                losses["mtc_temporal"] = config.gamma_mtc * term
            if "tracklet" in config.mtc and tracks > 1:
                losses["mtc_tracklet"] = config.gamma_mtc * tracklet_term(regions)
        if "bank_video_logits" in outputs:
            term = functional.cross_entropy(outputs["bank_video_logits"].float(), labels)
            losses["bank_video"] = config.gamma_bank * term
        if "bank_prototype_logits" in outputs:
            prototypes = outputs["bank_prototype_logits"].float()
            own = torch.arange(len(prototypes), device=labels.device)
            losses["bank_prototype"] = config.gamma_bank * functional.cross_entropy(prototypes, own)
    return losses


def spatial_term(regions: Tensor) -> Tensor:
    """Equation 5, a scalar in [-1, 1]. regions (B, T, K, d), K > 1."""
    return mean_of_pairs(regions)


def temporal_term(regions: Tensor, target: float, form: str) -> Tensor:
    """Equation 6, a scalar of at least 0. regions (B, T, K, d), T > 1; target: lambda."""
    unit = functional.normalize(regions, dim=-1)
    alike = (unit[:, :-1] * unit[:, 1:]).sum(dim=-1)  # (B, T - 1, K)
    return FORMS[form](target - alike).mean()


def tracklet_term(regions: Tensor) -> Tensor:
    """Equation 7, a scalar in [-1, 1]. regions (B, T, K, d), K > 1; a tracklet is a region's T responses (4)."""
    return mean_of_pairs(regions.transpose(1, 2).flatten(2))


def mean_of_pairs(rows: Tensor) -> Tensor:
    """Mean cosine of different rows, a scalar. rows (..., K, D)."""
    unit = functional.normalize(rows, dim=-1)
    number = rows.shape[-2]
    cosines = unit @ unit.transpose(-1, -2)  # (..., K, K)
    same = torch.eye(number, dtype=torch.bool, device=rows.device)
    # Not the cosines picked by a mask: their number would have to be asked of the device.
    return cosines.masked_fill(same, 0).sum(dim=(-2, -1)).mean() / (number * (number - 1))
