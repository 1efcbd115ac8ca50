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

In training text j is mixed by the pose that it belongs to, so column j knows a little of pose j; in evaluation every
pose mixes every candidate's text itself. That is how the method is published.

F_t is affine and a sums to 1, so t = sum_s a_s F_t(t_s): no text is made for each pair in evaluation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.dvta.pairs import PairNetwork
from unialign.stages.models.precision import full_precision

ORDERS = ("attend-first", "project-first")
COMBININGS = ("sum", "mean")
ACTIVATIONS = ("leaky-sigmoid", "sigmoid", "none")
HIDDEN = (384, 512)  # widths of the visual projector between the residual layer (P) and its last one (D)


@dataclass(frozen=True)
class DVTAConfig:
    """Every setting of the model; defaults are those of the code. Raises `UsageError` for values that make no sense.

    enhancement: SDE; without it a class' text is its label alone.
    attention_scale: divide SDE's products by sqrt(D), as the paper says.
    text_order: "attend-first" mixes the texts and then projects (code); "project-first" projects the label and mixes
        it with the context as it is (paper).
    combine: "sum" (code) or "mean" (paper) of p1 and p2.
    direct, augmented: DA and AA; one of them may be left out.
    direct_loss: DA has the loss for itself too (paper).
    detach_augmented: AA's gradient stops before v and t (code).
    activation: what G goes through: "leaky-sigmoid", "sigmoid" or "none". leak: gamma of the first.
    projector_depth: layers of F_s: 1 is linear, 2 the residual layer and the last one, 4 the whole.
    temperature: start of tau_1 and tau_2, which are learned without limits.

    The others are not the model's but the run's. held_out: 0 tests on the protocol's classes; n takes n classes from
        the training and tests on them in their place, for choosing epochs and calibration.
    calibration: subtracted from the log-probabilities of seen classes in generalised protocols.
    published_rule: report the epoch that is best on the unseen test classes (code), marked as unclean.
    """

    enhancement: bool = True
    attention_scale: bool = False
    text_order: str = "attend-first"
    combine: str = "sum"
    direct: bool = True
    augmented: bool = True
    direct_loss: bool = False
    detach_augmented: bool = True
    activation: str = "leaky-sigmoid"
    leak: float = 0.01
    projector_depth: int = 4
    temperature: float = 0.1
    held_out: int = 0
    calibration: float = 0.0
    published_rule: bool = False

    def __post_init__(self) -> None:
        choices = (("text_order", ORDERS), ("combine", COMBININGS), ("activation", ACTIVATIONS))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown; known: {', '.join(known)}.")
        for name in ("leak", "temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UsageError(f"{name} must be a finite number above 0, not {getattr(self, name)}.")
        if not 1 <= self.projector_depth <= 2 + len(HIDDEN):
            raise UsageError(f"projector_depth must be 1 to {2 + len(HIDDEN)}, not {self.projector_depth}.")
        if self.held_out < 0 or not math.isfinite(self.calibration):
            raise UsageError("held_out must be at least 0 and calibration a finite number.")
        if self.published_rule and self.held_out:
            raise UsageError("published_rule looks at the test classes, and with held_out there are none; drop one.")
        if not (self.direct or self.augmented):
            raise UsageError("direct and augmented are both off; one of the alignments must be on.")
        if self.direct_loss and not (self.direct and self.augmented):
            raise UsageError("direct_loss is a second loss beside the joint one; it needs both direct and augmented.")
        if not self.direct and self.detach_augmented:
            raise UsageError("without direct nothing trains the projectors; set detach_augmented to false.")


class DVTA(nn.Module):
    """The model: a dict of tensors in, a dict of tensors out (see `forward`).

    class_texts (L, D, S): embeddings of each class' label and context, finite and not all zero; they are set to unit
    length and kept as a buffer. S may be 1 without SDE. pose_width: P.
    """

    class_texts: Tensor

    def __init__(self, *, config: DVTAConfig, class_texts: Tensor, pose_width: int) -> None:
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

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores, float32.

        batch: pose_features (B, P); in training labels (B,); in evaluation, if not all classes are candidates,
        candidates (U,): indices of the unseen classes (zero-shot), or of seen and unseen ones (generalised).

        In training: pair_logits (B, B), poses by the texts of the batch's labels; direct_logits, augmented_logits
        (B, B): p1 and p2, as far as the model has them.
        In evaluation: logits (B, U), columns in the order of the candidates.
        """
        visual = self.visual_projector(functional.normalize(batch["pose_features"], dim=-1)).to(self._dtype)  # (B, D)
        if self.training:
            return self._pairs(visual, batch["labels"])
        return {"logits": self._scores(visual, batch.get("candidates"))}

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
