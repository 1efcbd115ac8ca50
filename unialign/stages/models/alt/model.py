"""ALT: regions of frames are named by entities of a text corpus, and the names query the video.

Source: Chen et al., "Align before Adapt: Leveraging Entity-to-Region Alignments for Generalizable Video Action
Recognition", CVPR 2024 (arXiv 2311.15619), equations 1 to 10. What the paper leaves open is a field of `ALTConfig`.

Legend: B batch, T frames, N regions of a frame (class token first), K entities, L classes, D width of the texts.

    E    tokens of a frame from CLIP's image tower with token merging                (N, D)   eq. 1, 2
    A^   onehot(argmax(A)) + A - sg(A), A = softmax over entities of cos(E, S) + Gumbel noise  eq. 4, 5
    q    MLP(reduced A^ S), e^ = MLP(reduced E), one each per frame                    (D,)     eq. 6
    Q    adapter blocks over the frames' q, with e^ as keys and values               (T, D)   eq. 8
    z    MLP(mean over frames of Q_M)                                                (D,)     eq. 9
    p    softmax over classes of C z                                                          eq. 10

S (K, D) and C (L, D) are frozen buffers, or come from a text tower with learned prompts (`prompts`). Deviations: with
align off, where the paper's row is X-CLIP, the frames' e^ are the queries. The blocks of the tower behind the last one
used are removed, so the model has fewer parameters than the printed totals, which count the whole tower.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from unialign.stages.models.alt.blocks import AdapterBlock, align, gumbel_noise, mlp, reduction
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.clip.image_tower import ClipTower
from unialign.stages.models.clip.prompts import PromptedTexts
from unialign.stages.models.precision import full_precision


@dataclass(frozen=True)
class TokenShape:
    """Tokens of a frame: how many (class token included) and how wide."""

    num_tokens: int
    width: int


class ALT(nn.Module):
    """The model: a dict of tensors in, a dict of tensors out (see `forward`).

    tower: what turns frames into tokens, or the shape of cached ones. labels: C (L, D); corpus: S (K, D), needed
    where config.align is on and config.corpus is "entities". Their rows are set to length 1 (C only for "cosine").
    texts: makes C, or both, again in each step, in the place of these; needed where config.num_prompts is above 0.
    Raises ValueError for shapes that do not fit together.
    """

    labels: Tensor
    corpus: Tensor | None

    def __init__(
        self,
        *,
        tower: ClipTower | TokenShape,
        labels: Tensor,
        corpus: Tensor | None,
        config: ALTConfig,
        texts: PromptedTexts | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        width = labels.shape[-1]
        if isinstance(tower, TokenShape) != (config.tower == "cached"):
            raise ValueError(f"a model with tower {config.tower!r} got {type(tower).__name__}")
        self.tower = None if isinstance(tower, TokenShape) else tower
        if self.tower is not None and config.tower_is_fixed:
            self.tower.requires_grad_(False)
        if (texts is None) != (config.num_prompts == 0):
            raise ValueError("a text tower comes with learned prompts, and they with it")
        self.texts = texts
        self.projection = nn.Linear(tower.width, width) if config.projection == "linear" else None
        if self.projection is None and tower.width != width:
            raise ValueError(f"tokens have width {tower.width}, texts {width}")
        labels = labels.detach().float()
        self.register_buffer("labels", functional.normalize(labels, dim=-1) if config.logits == "cosine" else labels)
        names = labels if config.corpus == "labels" else corpus
        if config.align and (names is None or names.shape[-1] != width):
            raise ValueError(f"the alignment needs a corpus (entities, {width})")
        kept = functional.normalize(names.detach().float(), dim=-1) if config.align and names is not None else None
        self.register_buffer("corpus", kept)
        num_tokens = tower.num_tokens if config.region else 1
        self.query_reduction = reduction(config.reduction, num_tokens) if config.align else None
        self.query_mlp = mlp(width, config.mlp_ratio) if config.align else None
        self.visual_reduction: nn.Module | None = None
        self.visual_mlp: nn.Module | None = None
        if config.needs_visual:
            self.visual_reduction = reduction(config.reduction, num_tokens if config.visual == "regions" else 1)
            shared = config.shared_mlp and self.query_mlp is not None
            self.visual_mlp = self.query_mlp if shared else mlp(width, config.mlp_ratio)
        self.blocks = nn.ModuleList(_block(width, config) for _ in range(config.num_blocks))
        self.head = mlp(width, config.mlp_ratio)
        self.classifier: nn.Linear | None = None
        if config.logits == "probe":
            self.requires_grad_(False)
            self.classifier = nn.Linear(width, len(labels))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions and what the drawings need.

        batch: frames (B, T, 3, H, W) normalized with the tower's mean and std; or, cached, tokens (B, T, N, D).

        logits (B, L): their arg-max is the prediction. video (B, D): z. queries, visual (B, T, D): q and e^ as far as
        they are made. With align: entities (B, T, N) int64, the row of S that each region was given. With a tower:
        owners (B, T, 1 + P) int64, the token that each input token ended in.
        """
        config = self.config
        labels, corpus = self._texts()
        regions, outputs = self._regions(batch)  # (B, T, N, D)
        grid = regions.shape[:2]
        frames = regions.flatten(0, 1)  # (M, N, D), M = B T
        visual = None
        if self.visual_mlp is not None and self.visual_reduction is not None:
            seen = frames[:, :1] if config.visual == "class" else frames
            visual = self.visual_mlp(self.visual_reduction(seen)).unflatten(0, grid)  # (B, T, D)
            outputs["visual"] = visual
        queries = visual
        if self.query_mlp is not None and self.query_reduction is not None and corpus is not None:
            with full_precision(frames):
                whole = frames.to(corpus.dtype)
                noisy = self.training or config.test_noise
                noise = gumbel_noise(whole, len(corpus)) if noisy else None
                named, chosen = align(whole, corpus, scale=config.gumbel_scale, noise=noise)
            queries = self.query_mlp(self.query_reduction(named)).unflatten(0, grid)  # (B, T, D)
            outputs["entities"] = chosen.reshape(*regions.shape[:3])
            outputs["queries"] = queries
        for block in self.blocks:
            queries = block(queries, visual)
        if queries is None:
            raise AssertionError("needs_visual gives queries where align does not")
        video = self.head(queries.mean(dim=1)).to(labels.dtype)  # (B, D)
        with full_precision(video):
            if self.classifier is not None:
                logits = self.classifier(video)
            elif config.logits == "cosine":
                logits = config.logit_scale * functional.normalize(video, dim=-1) @ labels.T
            else:
                logits = video @ labels.T
        return {"logits": logits, "video": video} | outputs

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Nothing moves but by gradients."""

    def rate(self, name: str) -> float:
        """The learning rate of a parameter, by its name, over that of the run."""
        return self.config.tower_rate if name.startswith("tower.") and self.config.tower == "tuned" else 1.0

    def train(self, mode: bool = True) -> "ALT":
        """Training or evaluation; a frozen tower stays in evaluation, and so does all of what is probed."""
        super().train(mode and self.classifier is None)
        if self.tower is not None and self.config.tower == "frozen":
            self.tower.eval()
        return self

    def _texts(self) -> tuple[Tensor, Tensor | None]:
        """C and S as they are now."""
        if self.texts is None:
            return self.labels, self.corpus
        labels, entities = self.texts()
        if entities is not None:
            return labels, entities
        return labels, labels if self.config.corpus == "labels" else self.corpus

    def _regions(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """E (B, T, N, D) at the width of the texts, and where the patches went, if a tower ran."""
        outputs: dict[str, Tensor] = {}
        if self.tower is None:
            tokens = batch["tokens"].to(self.labels.dtype)
        else:
            frames = batch["frames"]
            with torch.no_grad() if self.config.tower_is_fixed else nullcontext():
                made = self.tower(frames.flatten(0, 1), num_frames=frames.shape[1])
            tokens = made["tokens"].unflatten(0, frames.shape[:2])  # (B, T, N, D)
            outputs["owners"] = made["owners"].unflatten(0, frames.shape[:2])
        if not self.config.region:
            tokens = tokens[:, :, :1]
        return (tokens if self.projection is None else self.projection(tokens)), outputs


def _block(width: int, config: ALTConfig) -> AdapterBlock:
    return AdapterBlock(
        width=width,
        self_attention=config.self_attention,
        cross_attention=config.cross_attention,
        kernel=config.kernel if config.convolution else 0,
        ffn_ratio=config.ffn_ratio,
        norm=config.layer_norm,
    )


def alt_losses(
    model: object, outputs: Mapping[str, Tensor], labels: Tensor, *, smoothing: float = 0.0
) -> dict[str, Tensor]:
    """`classification`: cross-entropy over all classes, a float32 scalar. labels (B,). smoothing: of labels.

    Source: ALT, equation 10 (Chen et al., CVPR 2024). The logits hold the temperature, where there is one.
    """
    del model  # all weights of the loss are 1
    with full_precision(labels):
        return {
            "classification": functional.cross_entropy(outputs["logits"].float(), labels, label_smoothing=smoothing)
        }
