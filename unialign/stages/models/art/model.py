"""ART, Action-Region Tracking: texts ask for regions, regions are tracked through time.

Legend: B batch, T frames, T' time steps and H' W' places of the backbone's grid, C its width, K tracklets, d latent
width, N prompts, L classes.

Source: Baoli Sun, Yihan Wang, Xinzhu Ma, Zhihui Wang, Kun Lu, Zhiyong Wang, "Towards an Effective Action-Region
Tracking Framework for Fine-grained Video Action Recognition", IEEE TNNLS 37(1):176-190, 2026 (arXiv 2511.21202). The
formulas' shapes are rebuilt from the prose; every choice that the paper leaves open is a setting of `ARTConfig`, or
named in `art.parts` and `art.losses`.

    S                          text bank (N, L, C_t), refined slowly (12 to 17, see `text_bank`), mapped to C
    S_topk                     the K texts that x_cls resembles most: no label is needed, so testing is like training
    r_tk                       responses of K regions in frame t (1 to 3, see `parts`), Tr_k = [r_1k; ...; r_Tk] (4)
    Tr^agg_k = sum_t alpha_tk r_tk                                                                                 (9)
    L_v = CE(head(x_cls), y), L_con = CE(head([x_cls; Tr^agg_1; ...; Tr^agg_K]), y)                          (10, 11)
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.art.config import ARTConfig
from unialign.stages.models.art.parts import RegionSemantics, frame_weights, top_semantics
from unialign.stages.models.backbones.cached import clip_input, video_backbone
from unialign.stages.models.precision import full_precision
from unialign.stages.models.text_bank import TextBank, check_bank

# Which parts of L_sema move the bank.
BANK_TUNING = {"none": (), "video": ("video",), "prototype": ("prototype",), "both": ("video", "prototype")}


class ART(nn.Module):
    """The model: a dict of tensors in, a dict of tensors out (see `forward`).

    backbone: see `backbones`; its width is C. text_bank: S^0 (N, L, C_t). config waits here for `losses` too.
    """

    def __init__(self, *, backbone: nn.Module, num_classes: int, config: ARTConfig, text_bank: Tensor) -> None:
        super().__init__()
        if text_bank.ndim != 3 or text_bank.shape[1] != num_classes:
            raise ValueError(f"ART needs a text bank (prompts, {num_classes}, width)")
        rows = num_classes if config.selection == "classes" else num_classes * text_bank.shape[0]
        if config.regions and config.num_tracks > rows:
            raise ValueError(f"{config.num_tracks} tracklets need as many {config.selection}, and there are {rows}")
        self.backbone = backbone
        self.config = config
        width = int(backbone.width)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(config.dropout)
        self.video_head = nn.Linear(width, num_classes)
        self.rssa: RegionSemantics | None = None
        self.head: nn.Linear | None = None
        self.bank: TextBank | None = None
        tuned = BANK_TUNING[config.bank_tuning]
        if config.regions or tuned:
            self.bank = TextBank(initial=text_bank, width=width, momentum=config.momentum)
            if self.bank.agent is not None:
                self.bank.agent.requires_grad_(bool(tuned))
            if self.bank.projection is not None:
                # Without regions nobody reads S, and L_sema leaves the map alone.
                self.bank.projection.requires_grad_(config.regions)
        if config.regions:
            self.rssa = RegionSemantics(
                grid_width=width,
                width=config.latent,
                heads=config.num_heads,
                num_tracks=config.num_tracks,
                enhancement_layers=config.enhancement_layers if config.enhancement else 0,
                region_layers=config.region_layers,
                integration=config.integration,
            )
            self.head = nn.Linear(width + config.num_tracks * config.latent, num_classes)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions and everything the losses and the drawings need, float32. batch: frames (B, T, 3, H, W),
        normalized, or tokens (see `CachedTokens`).

        logits (B, L): log-probabilities of the final classifier (of L_v's without regions).
        video_logits (B, L): head(x_cls). pooled_video (B, C): x_cls.
        token_importance_video (B, T'): weight of each time step, sums of 1, the tracklets' mean; T': the backbone's.
        With regions: regions (B, T', K, d), region_maps (B, T', K, H', W') with sums of 1, frame_weights (B, T', K),
        semantic_classes (B, K) int64: the classes whose texts asked. bank_*_logits: see `TextBank.consistency`.
        """
        seen = self.backbone(batch[clip_input(self.backbone)])
        found: dict[str, Tensor] = {}
        # Similarities, softmaxes and their gradients lose too much in half precision.
        with full_precision(seen["pooled"]):
            pooled = seen["pooled"].float()
            outputs = {"video_logits": self.video_head(self.dropout(pooled)), "pooled_video": pooled}
            outputs |= self._bank_logits(pooled)
            semantics, classes = self._semantics(pooled)
        if self.rssa is not None and semantics is not None:
            found = self.rssa(seen["grid"], semantics)
        with full_precision(pooled):
            if self.head is None or classes is None:
                importance = torch.full_like(seen["tokens"][..., 0], 1 / seen["tokens"].shape[1], dtype=torch.float32)
                scores = outputs["video_logits"].log_softmax(dim=-1)
                return {"logits": scores, "token_importance_video": importance} | outputs
            regions, maps, anchors = (found[name].float() for name in ("regions", "region_maps", "anchors"))
            weights = self._weights(regions, anchors)  # (B, T', K)
            tracklets = torch.einsum("btk,btkd->bkd", weights, regions)
            scores = self.head(self.dropout(torch.cat([pooled, tracklets.flatten(1)], dim=1))).log_softmax(dim=-1)
            outputs |= {"regions": regions, "region_maps": maps, "frame_weights": weights, "semantic_classes": classes}
            shares = weights / weights.sum(dim=1, keepdim=True)
            return {"logits": scores, "token_importance_video": shares.mean(dim=-1)} | outputs

    @torch.no_grad()
    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Moves the text bank towards its agent (equation 13); call it once after each optimizer step."""
        if self.bank is not None and BANK_TUNING[self.config.bank_tuning]:
            self.bank.update(outputs["pooled_video"], labels)

    def _bank_logits(self, pooled: Tensor) -> dict[str, Tensor]:
        """Equations 14 to 16, as configured."""
        config = self.config
        tuned = BANK_TUNING[config.bank_tuning]
        if self.bank is None or not tuned:
            return {}
        weights = self.video_head.weight
        if config.prototypes == "final" and self.head is not None:
            weights = self.head.weight[:, : pooled.shape[1]]
        logits = self.bank.consistency(
            pooled.detach() if config.detach_video else pooled,
            weights.detach() if config.detach_prototypes else weights,
            pooled.new_full((), config.temperature),  # no copy from the host
        )
        return {f"bank_{name}_logits": logits[f"bank_{name}_logits"] for name in tuned}

    def _semantics(self, pooled: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """S_topk (B, K, C) and their classes (B, K)."""
        if self.rssa is None or self.bank is None:
            return None, None
        return top_semantics(pooled, self.bank(), self.config.num_tracks, self.config.selection)

    def _weights(self, regions: Tensor, anchors: Tensor) -> Tensor:
        """alpha, (B, T', K)."""
        if self.config.aggregation == "sum":
            return torch.ones_like(regions[..., 0])
        return frame_weights(regions, anchors, self.config.similarity, self.config.temperature)


def build_art(
    config: ARTConfig,
    *,
    num_classes: int,
    text_bank: Tensor | None,
    token_width: int | None = None,
    weights: Mapping[str, Any] | None = None,
) -> ART:
    """ART; the backbone starts from `weights`, everything else at random.

    token_width: of cached tokens, needed with the backbone "cached". Raises `UsageError` for texts that are missing or
    empty, more tracklets than texts to choose from, and weights that do not fit.
    """
    if text_bank is None:
        raise UsageError("art has no text embeddings; extract text for this dataset.")
    check_bank(text_bank, num_classes)
    num_texts = num_classes * (1 if config.selection == "classes" else len(text_bank))
    if config.regions and config.num_tracks > num_texts:
        raise UsageError(
            f"num_tracks is {config.num_tracks}, but there are only {num_texts} {config.selection} to choose from; "
            "lower train.art.num_tracks."
        )
    backbone = video_backbone(config, token_width, weights)
    return ART(backbone=backbone, num_classes=num_classes, config=config, text_bank=text_bank)
