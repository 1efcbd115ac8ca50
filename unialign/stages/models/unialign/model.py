"""UniAlign: a video backbone aligned with pose features and class texts.

RECONSTRUCTION. Yihan Wang, Baoli Sun, Haojie Li, Xinzhu Ma, Zhihui Wang, Zhiyong Wang, UniAlign, IEEE Transactions on
Multimedia 28:891-901, 2026, doi 10.1109/TMM.2025.3632670: only the abstract is public. From it: three sources (video,
a pre-trained pose encoder, texts of a vision-language model), CMSA, a text refinement similar to an exponential moving
average. Everything else here is a proposal of this project.

Legend: B batch, T frames, N_v, N_p tokens, K prompts, L classes, D shared width.

Modalities (video always; text if a text bank is given, pose if a pose width is given):
    V        log p = log softmax(head(v)); no alignment branch, no loss but cross-entropy
    V+T      the alignment branch scores classes by video-text similarity
    V+P      there are no class tokens, so the alignment branch is a classifier over the weighted features
             (cmsa.Fusion), and the video-pose similarity enters the loss
    V+P+T    the whole model
With an alignment branch p = 1/2 softmax(head(v)) + 1/2 softmax(z). Where there is a val part, the training loop
evaluates and predicts with the product of both instead, weighted on it (`stages.training.fusion`); without one, and
with poses, with softmax(z) alone.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.backbones.cached import clip_input, video_backbone
from unialign.stages.models.precision import full_precision
from unialign.stages.models.text_bank import TextBank, check_bank
from unialign.stages.models.unialign.cmsa import CMSA, Features
from unialign.stages.models.unialign.config import LOWEST_TEMPERATURE, UniAlignConfig


class UniAlign(nn.Module):
    """The model: a dict of tensors in, a dict of tensors out (see `forward`).

    backbone: see `backbones`. text_bank: S^0 (K, L, C), needed with the modality text. pose_width: width of the cached
    pose features, needed with the modality pose. Both are left unused without their modality.
    gamma and lambda_vp wait here for `losses`.
    """

    log_temperature: Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module,
        num_classes: int,
        config: UniAlignConfig,
        text_bank: Tensor | None = None,
        pose_width: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.gamma, self.lambda_vp = config.gamma, config.lambda_vp
        self.detach_video, self.detach_prototypes = config.detach_video, config.detach_prototypes
        pose, text = "pose" in config.modalities, "text" in config.modalities
        width = config.width
        self.video_projection = nn.Linear(int(backbone.width), width)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, num_classes)
        self.pose_projection: nn.Linear | None = None
        self.bank: TextBank | None = None
        self.cmsa: nn.Module | None = None
        if pose:
            if pose_width is None:
                raise ValueError("the modality pose needs pose_width")
            self.pose_projection = nn.Linear(pose_width, width)
        if text:
            if text_bank is None or text_bank.ndim != 3 or text_bank.shape[1] != num_classes:
                raise ValueError(f"the modality text needs a text bank (prompts, {num_classes}, width)")
            self.bank = TextBank(initial=text_bank, width=width, form=config.bank_form, momentum=config.momentum)
        if pose or text:
            self.cmsa = CMSA[config.cmsa](
                width=width,
                num_classes=num_classes,
                pose=pose,
                text=text,
                dropout=config.dropout,
                learned=config.learn_importance,
            )
            start = torch.tensor(math.log(config.temperature))
            if config.learn_temperature:
                self.log_temperature = nn.Parameter(start)
            else:
                self.register_buffer("log_temperature", start)

    @property
    def importance_names(self) -> tuple[str, ...]:
        """The modality of each column of the output `importance`."""
        return ("video",) if self.cmsa is None else self.cmsa.importance_names  # type: ignore[return-value]

    @property
    def heads(self) -> dict[str, str]:
        """The outputs that the prediction joins, by name of the head; empty where there is one."""
        return {} if self.cmsa is None else {"video": "video_logits", "aligned": "align_logits"}

    @property
    def untested_weights(self) -> dict[str, float]:
        """What the heads weigh where no val part tells; empty: as much as each other.

        With poses the aligned head alone: it has what the video head has, and was ahead of the mean wherever clips were
        too few for a val part (docs/systems/unialign.md).
        """
        return {} if self.pose_projection is None else {"video": 0.0, "aligned": 1.0}

    @property
    def temperature(self) -> Tensor:
        """tau, a scalar. Only models with an alignment branch have one."""
        return self.log_temperature.exp()

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions and everything the losses and the drawings need, float32.

        batch: frames (B, T, 3, H, W) normalized, or tokens (see `CachedTokens`); with pose: pose_tokens (B, N_p, D_p),
        and pose_mask (B, N_p) bool where clips differ in length or have no pose (masked tokens may hold anything, even
        NaN).

        logits (B, L): log-probabilities; their arg-max is the prediction.
        video_logits (B, L): head(v). pooled_video (B, D): v, unit length; pooled_pose (B, D), has_pose (B,) with pose.
        importance (B, M), token_importance_* and similarity_*: see `cmsa`; without CMSA the video has all weight.
        align_logits (B, L): z, with pose or text. bank_*_logits: see `TextBank.consistency`.
        """
        seen = self.backbone(batch[clip_input(self.backbone)])
        tokens = self.video_projection(seen["tokens"])  # (B, N_v, D)
        pooled = self.video_projection(seen["pooled"])  # (B, D)
        pose_tokens, pose_mask = self._pose_tokens(batch)
        # Similarities, softmaxes and their gradients lose too much in half precision.
        with full_precision(tokens):
            pooled = pooled.float()
            video_logits = self.head(self.dropout(pooled))  # (B, L)
            features = self._features(tokens.float(), pooled, pose_tokens, pose_mask)
            outputs = {"video_logits": video_logits, "pooled_video": features.video}
            if features.pose is not None and features.has_pose is not None:
                outputs |= {"pooled_pose": features.pose, "has_pose": features.has_pose}
            video_scores = video_logits.log_softmax(dim=-1)
            if self.cmsa is None:
                num_tokens = tokens.shape[1]
                outputs["importance"] = torch.ones_like(pooled[:, :1])
                outputs["token_importance_video"] = torch.full_like(tokens[..., 0], 1 / num_tokens, dtype=torch.float32)
                return {"logits": video_scores} | outputs
            temperature = self.temperature
            outputs |= self.cmsa(features, temperature)
            if self.bank is not None:
                outputs |= self.bank.consistency(
                    pooled.detach() if self.detach_video else pooled,
                    self.head.weight.detach() if self.detach_prototypes else self.head.weight,
                    temperature.detach(),
                )
            align_scores = outputs["align_logits"].log_softmax(dim=-1)
            return {"logits": torch.logaddexp(video_scores, align_scores) - math.log(2)} | outputs

    @torch.no_grad()
    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Moves the text bank, and holds tau at 0.01 or above; call it once after each optimizer step.

        outputs: those of the step; labels (B,).
        """
        if self.cmsa is not None:
            self.log_temperature.clamp_(min=math.log(LOWEST_TEMPERATURE))
        if self.bank is not None:
            self.bank.update(outputs["pooled_video"], labels)

    def _pose_tokens(self, batch: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Projected pose tokens (B, N_p, D) and their mask (B, N_p); None without the modality."""
        if self.pose_projection is None:
            return None, None
        tokens = batch["pose_tokens"]
        mask = batch.get("pose_mask")
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        # Padding may be NaN in a cache; these tokens get weight 0 below, but 0 * NaN would still be NaN.
        projected: Tensor = self.pose_projection(tokens.masked_fill(~mask.unsqueeze(-1), 0.0))
        return projected, mask

    def _features(
        self, tokens: Tensor, pooled: Tensor, pose_tokens: Tensor | None, pose_mask: Tensor | None
    ) -> Features:
        """All modalities, unit length."""
        pose = has_pose = None
        if pose_tokens is not None and pose_mask is not None:
            pose_tokens = pose_tokens.float()
            count = pose_mask.sum(dim=1, keepdim=True)  # (B, 1)
            has_pose = count[:, 0] > 0
            total = (pose_tokens * pose_mask.unsqueeze(-1)).sum(dim=1)  # (B, D)
            pose = functional.normalize(total / count.clamp(min=1), dim=-1)
            pose_tokens = functional.normalize(pose_tokens, dim=-1)
        return Features(
            video_tokens=functional.normalize(tokens, dim=-1),
            video=functional.normalize(pooled, dim=-1),
            pose_tokens=pose_tokens,
            pose=pose,
            pose_mask=pose_mask,
            has_pose=has_pose,
            text=None if self.bank is None else self.bank(),
        )


def build_unialign(
    config: UniAlignConfig,
    *,
    num_classes: int,
    text_bank: Tensor | None = None,
    pose_width: int | None = None,
    token_width: int | None = None,
    weights: Mapping[str, Any] | None = None,
) -> UniAlign:
    """UniAlign; the backbone starts from `weights`, everything else at random.

    token_width: of cached tokens, needed with the backbone "cached". Raises `UsageError` for a modality without its
    data, an empty text, and weights that do not fit.
    """
    if "text" in config.modalities:
        if text_bank is None:
            raise UsageError("modalities hold text, but there are no text embeddings; extract text or leave it out.")
        check_bank(text_bank, num_classes)
    if "pose" in config.modalities and pose_width is None:
        raise UsageError("modalities hold pose, but there are no pose features; extract pose-features or leave it out.")
    backbone = video_backbone(config, token_width, weights)
    return UniAlign(
        backbone=backbone, num_classes=num_classes, config=config, text_bank=text_bank, pose_width=pose_width
    )
