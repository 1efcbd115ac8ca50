"""DVTA: zero-shot recognition of skeleton features by dual alignment with class texts.

Source: J. Kuang et al., Dual Visual-Text Alignment, arXiv 2409.14336 (Pattern Recognition 171:112342, 2026), and its
code (jidongkuang/DVTA). Paper and code differ in places; each is a setting of `DVTAConfig` and the code's way is the
default. DA and AA are its direct and augmented alignment, SDE its semantic description enhancement.

Legend: B poses, L classes, U candidate classes, P pose width, D text width, S = 2 texts a class (label, context).

    v      = F_s(unit pose feature)                 relu(W0 x + b0 + x), two relu layers, one linear layer
    a      = softmax over s of <v, t_s>             SDE; t_s have unit length, v as it comes
    t      = F_t(sum_s a_s t_s)                     F_t linear
    p1_ij  = cos(v_i, t_j) / tau_1                  DA
    p2_ij  = LeakySigmoid(G(v_i, t_j)) / tau_2      AA, see `pairs`; no gradient into v and t
    p      = p1 + p2
    p3_ij  = cos(x_i - mean of x, prototype_j - mean of x) / tau       only in evaluation, see `prototypes`; added to p

In training text j is mixed by the pose that it belongs to, so column j knows a little of pose j; in evaluation every
pose mixes every candidate's text itself. That is how the method is published.

F_t is affine and a sums to 1, so t = sum_s a_s F_t(t_s): no text is made for each pair in evaluation.

The loss, of a batch whose poses come with the texts of their own labels:

    L = 1/2 (KL(Q, softmax over texts of p) + KL(Q, softmax over poses of p^T))
    Q = softmax over rows of 10 [y_i = y_j]

KL is summed over a row and averaged over rows. With a separate loss of the direct alignment (the paper introduces one,
the code has none) the same L of p1 is added.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.models.dvta.pairs import PairNetwork
from unialign.stages.models.precision import full_precision
from unialign.stages.models.text_bank import check_bank

TARGET_SCALE = 10.0
HIDDEN = (384, 512)  # widths of the visual projector between the residual layer (P) and its last one (D)


class DVTA(nn.Module):
    """The model: a dict of tensors in, a dict of tensors out (see `forward`).

    class_texts (L, D, S): embeddings of each class' label and context, finite and not all zero; they are set to unit
    length and kept as a buffer. S may be 1 without SDE. pose_width: P.
    prototypes: of the classes (L, P), and the mean training feature (P,), both buffers; None leaves out p3.
    """

    class_texts: Tensor
    prototypes: Tensor
    mean_feature: Tensor

    def __init__(
        self,
        *,
        config: DVTAConfig,
        class_texts: Tensor,
        pose_width: int,
        prototypes: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        texts = class_texts.detach().to(torch.promote_types(class_texts.dtype, torch.float32))
        if texts.ndim != 3 or texts.shape[2] < (2 if config.enhancement else 1):
            raise ValueError(f"class texts are (classes, width, 2), not {tuple(texts.shape)}")
        # Texts without values are there to count a model's cost.
        if not texts.is_meta and not bool((texts.isfinite().all(dim=1) & (texts != 0).any(dim=1)).all()):
            raise ValueError("class texts need a finite embedding that is not zero for every class")
        self.config = config
        self.direct_loss = config.direct_loss
        width = texts.shape[1]
        self.visual_projector = VisualProjector(pose_width, width, config.projector_depth)
        self.text_projector = nn.Linear(width, width)
        self.metric: PairNetwork | None = None
        if config.direct:
            self.direct_temperature = nn.Parameter(torch.tensor(config.temperature))
        if config.augmented:
            self.metric = PairNetwork(width=width)
            self.augmented_temperature = nn.Parameter(torch.tensor(config.temperature))
        kept = texts[..., :2] if config.enhancement else texts[..., :1]
        self.register_buffer("class_texts", functional.normalize(kept, dim=1).contiguous())
        self.predicts = prototypes is not None
        if prototypes is not None:
            self.register_buffer("prototypes", prototypes[0])
            self.register_buffer("mean_feature", prototypes[1])

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores, float32.

        batch: pose_features (B, P); in training labels (B,); in evaluation, if not all classes are candidates,
        candidates (U,): indices of the unseen classes (zero-shot), or of seen and unseen ones (generalized).

        In training: pair_logits (B, B), poses by the texts of the batch's labels; direct_logits, augmented_logits
        (B, B): p1 and p2, as far as the model has them.
        In evaluation: logits (B, U), columns in the order of the candidates.
        """
        visual = self.visual_projector(functional.normalize(batch["pose_features"], dim=-1)).to(self._dtype)  # (B, D)
        if self.training:
            return self._pairs(visual, batch["labels"])
        candidates = batch.get("candidates")
        scores = self._scores(visual, candidates)
        return {"logits": scores + self._nearness(batch["pose_features"], candidates) if self.predicts else scores}

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Nothing: this model has no moving averages."""

    def _pairs(self, visual: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Every pose with the text of every sample of the batch, each text mixed by its own pose."""
        keys, values = self._texts(labels)  # (B, S, D)
        with full_precision(visual):
            weights = self._attention(torch.einsum("bd,bsd->bs", visual, keys))
            text = torch.einsum("bs,bsd->bd", weights, values)  # (B, D)
            parts = {}
            if self.config.direct:
                cosines = functional.normalize(visual, dim=-1) @ functional.normalize(text, dim=-1).T
                parts["direct_logits"] = cosines / self.direct_temperature
        if self.metric is not None:
            ends = (visual.detach(), text.detach()) if self.config.detach_augmented else (visual, text)
            parts["augmented_logits"] = self._augmented(self.metric(ends[0], ends[1].unsqueeze(1)))
        return {"pair_logits": self._combined(*parts.values()), **parts}

    def _scores(self, visual: Tensor, candidates: Tensor | None) -> Tensor:
        """Every pose with every candidate, whose text the pose mixes: (B, U)."""
        keys, values = self._texts(candidates)  # (U, S, D)
        parts = []
        with full_precision(visual):
            weights = self._attention(torch.einsum("bd,usd->bus", visual, keys))
            if self.config.direct:
                products = torch.einsum("bd,usd->bus", functional.normalize(visual, dim=-1), values)
                # The squared length of sum_s a_s t_s, from the products of the pieces with each other.
                gram = torch.einsum("usd,uzd->usz", values, values)
                lengths = torch.einsum("bus,usz,buz->bu", weights, gram, weights).clamp(min=1e-24).sqrt()
                parts.append((weights * products).sum(dim=-1) / lengths / self.direct_temperature)
        if self.metric is not None:
            mixing = weights if weights.shape[-1] > 1 else None
            parts.append(self._augmented(self.metric(visual, values, mixing)))
        return self._combined(*parts)

    def _nearness(self, features: Tensor, candidates: Tensor | None) -> Tensor:
        """p3, (B, U)."""
        with full_precision(features):
            prototypes = self.prototypes if candidates is None else self.prototypes[candidates]
            moved = functional.normalize(features.to(self._dtype) - self.mean_feature, dim=-1)
            return moved @ functional.normalize(prototypes - self.mean_feature, dim=-1).T / self.config.temperature

    def _texts(self, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        """What SDE looks at and what it mixes, both (U, S, D), of some classes or of all."""
        texts = self.class_texts if classes is None else self.class_texts[classes]
        texts = texts.transpose(1, 2)  # (U, S, D)
        if self.config.text_order == "attend-first" or not self.config.enhancement:
            return texts, self.text_projector(texts).to(texts.dtype)
        label = self.text_projector(texts[:, :1]).to(texts.dtype)
        texts = torch.cat([label, texts[:, 1:]], dim=1)
        return texts, texts

    def _attention(self, products: Tensor) -> Tensor:
        scale = math.sqrt(self.class_texts.shape[1]) if self.config.attention_scale else 1.0
        return (products / scale).softmax(dim=-1)

    def _augmented(self, scores: Tensor) -> Tensor:
        scores = scores.to(self._dtype)
        if self.config.activation == "leaky-sigmoid":
            scores = leaky_sigmoid(scores, self.config.leak)
        elif self.config.activation == "sigmoid":
            scores = scores.sigmoid()
        return scores / self.augmented_temperature

    def _combined(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        if second is None:
            return first
        return (first + second) / 2 if self.config.combine == "mean" else first + second

    @property
    def _dtype(self) -> torch.dtype:
        # Softmax, cosines and activations are computed in the type of the weights, whatever the layers use.
        return self.text_projector.weight.dtype


class VisualProjector(nn.Module):
    """F_s: a residual layer, `HIDDEN` as far as the depth goes, and a linear layer from pose to text width."""

    def __init__(self, pose_width: int, text_width: int, depth: int) -> None:
        super().__init__()
        self.residual = nn.Linear(pose_width, pose_width) if depth > 1 else None
        widths = [pose_width, *HIDDEN[: max(depth - 2, 0)]]
        self.hidden = nn.ModuleList(nn.Linear(first, second) for first, second in pairwise(widths))
        self.last = nn.Linear(widths[-1], text_width)

    def forward(self, features: Tensor) -> Tensor:
        """(B, P) -> (B, D)."""
        if self.residual is not None:
            features = (self.residual(features) + features).relu()
        for layer in self.hidden:
            features = layer(features).relu()
        return self.last(features)  # type: ignore[no-any-return]


def leaky_sigmoid(values: Tensor, leak: float) -> Tensor:
    """sigmoid(x) for x > 0, else leak * exp(leak * x): it jumps from leak to 1/2 at 0. Any shape."""
    # The clamp keeps the exponential of large values, which is not taken, from making their gradient NaN.
    return torch.where(values > 0, values.sigmoid(), leak * (leak * values.clamp(max=0)).exp())


class DirectLoss(Protocol):
    """What the losses read from the model."""

    direct_loss: bool


def dvta_losses(model: DirectLoss, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """The terms, float32 (float64 of such logits) scalars; the loss to minimize is their sum. labels (B,).

    alignment: of pair_logits (B, B); direct: of direct_logits (B, B), where the model asks for it.
    """
    losses = {"alignment": matching_loss(outputs["pair_logits"], labels)}
    if model.direct_loss:
        losses["direct"] = matching_loss(outputs["direct_logits"], labels)
    return losses


def matching_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L, a scalar. logits (B, B): rows are poses, columns texts; labels (B,)."""
    with full_precision(logits):
        scores = logits if logits.dtype == torch.float64 else logits.float()
        same = (labels[:, None] == labels[None, :]).to(
            scores.dtype
        )  # (B, B), symmetric: one target for both directions
        target = (TARGET_SCALE * same).log_softmax(dim=1)
        both = scores.log_softmax(dim=1) + scores.T.log_softmax(dim=1)
        return (target.exp() * (target - 0.5 * both)).sum() / len(labels)


def build_dvta(
    config: DVTAConfig,
    *,
    num_classes: int,
    text_bank: Tensor | None,
    pose_width: int | None,
    descriptions: Tensor | None = None,
    prototypes: tuple[Tensor, Tensor] | None = None,
) -> DVTA:
    """DVTA, random but for the texts: a class' label is the mean over the prompts of the bank.

    descriptions: (num_classes, width), as wide as the bank's; used with config.enhancement. prototypes: see `DVTA`.
    Raises `UsageError` for texts or pose features that are missing and for texts that are empty.
    """
    if text_bank is None or pose_width is None:
        raise UsageError("dvta needs pose features and texts; extract pose-features and text for this dataset.")
    check_bank(text_bank, num_classes)
    texts = [text_bank.mean(dim=0)]
    if config.enhancement:
        if descriptions is None:
            raise UsageError(
                "dvta has no descriptions; extract text with them, or set train.dvta.enhancement to false."
            )
        check_bank(descriptions.unsqueeze(0), num_classes)
        texts.append(descriptions)
    stacked = torch.stack(texts, dim=-1)
    return DVTA(config=config, class_texts=stacked, pose_width=pose_width, prototypes=prototypes)
