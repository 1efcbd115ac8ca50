"""Cross-Modality Similarity Aggregation (CMSA) of UniAlign, two candidates and a plain baseline.

RECONSTRUCTION. Only UniAlign's abstract is public (IEEE Transactions on Multimedia 28:891-901, 2026): CMSA aggregates
similarities between modalities "using the importance" of the modalities' cues. Neither candidate is claimed to be the
paper's; report both.

Legend: B batch, N tokens of a clip (N_v video, N_p pose), K prompts, L classes, D shared width, tau temperature.
Every vector that is compared has length 1.

Shared outputs (all float32; rows are clips):
    align_logits (B, L)             class scores of the alignment branch
    importance (B, M)               weights of the modalities, a row sums to 1; columns: `importance_names`
    token_importance_video (B, N_v), token_importance_pose (B, N_p), token_importance_text (L, K)
                                    weights of the tokens, a row sums to 1; uniform where nothing is learned
    similarity_vp (B, B)            [i, j]: video i against pose j; with candidate B also similarity_vt, similarity_pt
A clip without a pose has importance 0 for the pose, and token weights that nothing uses.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """What the modalities give, in the shared space, float32.

    video_tokens (B, N_v, D), video (B, D): unit length.
    pose_tokens (B, N_p, D), pose (B, D): unit length; None without the modality.
    pose_mask (B, N_p): True for real tokens; has_pose (B,): True for clips with any.
    text (K, L, D): the bank's tokens, unit length; None without the modality.
    """

    video_tokens: Tensor
    video: Tensor
    pose_tokens: Tensor | None = None
    pose: Tensor | None = None
    pose_mask: Tensor | None = None
    has_pose: Tensor | None = None
    text: Tensor | None = None


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis where `mask` is True, 0 elsewhere; a row without any True takes all.

    scores (..., M); mask, which broadcasts against it, or None for all.
    """
    if mask is None:
        return scores.softmax(dim=-1)
    usable = mask | ~mask.any(dim=-1, keepdim=True)
    return scores.masked_fill(~usable, float("-inf")).softmax(dim=-1)


def token_similarity(
    first: Tensor, first_weights: Tensor, second: Tensor, second_weights: Tensor, second_mask: Tensor | None = None
) -> Tensor:
    """Importance-weighted similarity of each token set of `first` with each of `second`, (B, C), in [-1, 1].

    first (B, N, D), second (C, M, D): unit tokens; weights (B, N), (C, M): rows sum to 1; second_mask (C, M).

        A_nm = <first_n, second_m>
        s = 1/2 * (sum_n w_n max_m A_nm + sum_m w_m max_n A_nm)
    """
    pairs = torch.einsum("bnd,cmd->bcnm", first, second)  # (B, C, N, M)
    usable = pairs
    if second_mask is not None:
        allowed = second_mask | ~second_mask.any(dim=-1, keepdim=True)  # (C, M)
        usable = pairs.masked_fill(~allowed[None, :, None, :], float("-inf"))
    forward = torch.einsum("bn,bcn->bc", first_weights, usable.amax(dim=3))
    backward = torch.einsum("cm,bcm->bc", second_weights, pairs.amax(dim=2))
    return 0.5 * (forward + backward)


def token_scorer(width: int) -> nn.Sequential:
    """g: one number a token, (..., D) -> (..., 1). No last bias: a softmax over tokens would not see it."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1, bias=False))


def uniform_importance(present: list[Tensor | None], like: Tensor) -> Tensor:
    """Equal weights over the modalities that a clip has, (B, M). A None stands for "every clip has it"."""
    everywhere = torch.ones(like.shape[0], dtype=torch.bool, device=like.device)
    columns = [everywhere if column is None else column for column in present]
    mask = torch.stack(columns, dim=1).to(like.dtype)  # (B, M)
    return mask / mask.sum(dim=1, keepdim=True)


class Fusion(nn.Module):
    """Classifier over weighted features: head(sum_m beta_m W_m f_m), (B, L). Features (B, D) each, weights (B, M).

    Deviation: a layer norm before the head, so that its input has one scale whatever the modalities.
    """

    def __init__(self, *, num_modalities: int, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(num_modalities)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, num_classes))

    def forward(self, features: list[Tensor], weights: Tensor) -> Tensor:
        """Class logits of the fused features."""
        mapped = torch.stack([linear(feature) for linear, feature in zip(self.maps, features, strict=True)], dim=1)
        logits: Tensor = self.head(torch.einsum("bm,bmd->bd", weights, mapped))  # (B, L)
        return logits


class WeightedTokens(nn.Module):
    """Candidate A: importance-weighted token similarities.

        w^a = softmax(g_a(F^a))                       importance of the tokens of modality a
        s(a, b) = `token_similarity`                  both directions
        alpha = softmax(h([v; p]))                    importance of the modalities of a clip
        z_c = (alpha_v s^vt_c + alpha_p s^pt_c) / tau

    v, p: the clip's unit video and pose feature. Without pose, alpha is 1 for the video. Without text there are no
    class tokens to compare with: z is then a classifier over alpha_v W_v v + alpha_p W_p p (`Fusion`), and s^vp only
    enters the loss. With learned=False all weights are uniform (the ablation of the importance).
    """

    def __init__(
        self, *, width: int, num_classes: int, pose: bool, text: bool, dropout: float = 0.0, learned: bool = True
    ) -> None:
        super().__init__()
        self.importance_names = ("video", "pose") if pose else ("video",)
        self.learned = learned
        names = ("video", *(("pose",) if pose else ()), *(("text",) if text else ()))
        self.scorers = nn.ModuleDict({name: token_scorer(width) for name in names} if learned else {})
        self.modality_scorer = (
            nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 2)) if pose and learned else None
        )
        self.fusion = None if text else Fusion(num_modalities=2, width=width, num_classes=num_classes, dropout=dropout)

    def forward(self, features: Features, temperature: Tensor) -> dict[str, Tensor]:
        """The shared outputs of this file."""
        video, pose, text = features.video_tokens, features.pose_tokens, features.text
        importance = self._importance(features)
        outputs = {"importance": importance}
        video_weights = outputs["token_importance_video"] = self._weights("video", video, None)
        similarities = []
        if pose is not None:
            pose_weights = outputs["token_importance_pose"] = self._weights("pose", pose, features.pose_mask)
            outputs["similarity_vp"] = token_similarity(video, video_weights, pose, pose_weights, features.pose_mask)
        if text is not None:
            classes = text.transpose(0, 1)  # (L, K, D)
            text_weights = outputs["token_importance_text"] = self._weights("text", classes, None)
            similarities.append(token_similarity(video, video_weights, classes, text_weights))  # (B, L)
            if pose is not None:
                to_pose = token_similarity(classes, text_weights, pose, pose_weights, features.pose_mask)  # (L, B)
                similarities.append(to_pose.T)
            weighted = torch.einsum("bm,mbl->bl", importance, torch.stack(similarities))
            outputs["align_logits"] = weighted / temperature
        elif self.fusion is not None and features.pose is not None:
            outputs["align_logits"] = self.fusion([features.video, features.pose], importance)
        return outputs

    def _weights(self, name: str, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """w: weights of the tokens, (..., N)."""
        scores = self.scorers[name](tokens).squeeze(-1) if self.learned else torch.zeros_like(tokens[..., 0])
        return masked_softmax(scores, mask)

    def _importance(self, features: Features) -> Tensor:
        """alpha: weights of the modalities, (B, M)."""
        if features.pose is None or features.has_pose is None:
            return uniform_importance([None], features.video)
        if self.modality_scorer is None:
            return uniform_importance([None, features.has_pose], features.video)
        scores = self.modality_scorer(torch.cat([features.video, features.pose], dim=-1))  # (B, 2)
        return masked_softmax(scores, torch.stack([torch.ones_like(features.has_pose), features.has_pose], dim=1))


class GatedFusion(nn.Module):
    """Candidate B: similarities of the whole clips gate a fusion; a modality that agrees with the others weighs more.

        t^ = sum_c softmax_c(<v, t_c> / tau) t_c      t_c: unit mean of the class' prompts
        beta_m = softmax_m(sum over m' != m of <f_m, f_m'> / tau)        f in {v, p, t^}, unit length
        z = head(sum_m beta_m W_m f_m)

    With learned=False beta is uniform. With two modalities beta is 1/2 each by construction: they share one similarity.
    """

    def __init__(
        self, *, width: int, num_classes: int, pose: bool, text: bool, dropout: float = 0.0, learned: bool = True
    ) -> None:
        super().__init__()
        self.importance_names = ("video", *(("pose",) if pose else ()), *(("text",) if text else ()))
        self.learned = learned
        self.fusion = Fusion(
            num_modalities=len(self.importance_names), width=width, num_classes=num_classes, dropout=dropout
        )

    def forward(self, features: Features, temperature: Tensor) -> dict[str, Tensor]:
        """The shared outputs of this file."""
        vectors: dict[str, Tensor] = {"video": features.video}
        if features.pose is not None:
            vectors["pose"] = features.pose
        if features.text is not None:
            classes = functional.normalize(features.text.mean(dim=0), dim=-1)  # (L, D)
            attention = (features.video @ classes.T / temperature).softmax(dim=-1)  # (B, L)
            vectors["text"] = functional.normalize(attention @ classes, dim=-1)  # (B, D)
        present = [features.has_pose if name == "pose" else None for name in vectors]
        stacked = torch.stack(list(vectors.values()), dim=1)  # (B, M, D)
        mask = uniform_importance(present, features.video) > 0  # (B, M)
        if self.learned:
            pairs = torch.einsum("bmd,bnd->bmn", stacked, stacked) * mask[:, None, :]  # (B, M, M)
            agreement = pairs.sum(dim=2) - pairs.diagonal(dim1=1, dim2=2)  # (B, M)
            importance = masked_softmax(agreement / temperature, mask)
        else:
            importance = uniform_importance(present, features.video)
        outputs = {"importance": importance, "align_logits": self.fusion(list(vectors.values()), importance)}
        outputs |= uniform_token_importance(features)
        for first, second in (("video", "pose"), ("video", "text"), ("pose", "text")):
            if first in vectors and second in vectors:
                outputs[f"similarity_{first[0]}{second[0]}"] = vectors[first] @ vectors[second].T  # (B, B)
        return outputs


class PlainCosine(nn.Module):
    """CMSA off: cosines of mean-pooled features, no importance anywhere.

        z_c = mean over the clip's modalities m of <f_m, t_c> / tau      f in {v, p}, t_c: unit mean of the prompts

    Without text, z is a classifier over the equally weighted features (`Fusion`), as in candidate A.
    """

    def __init__(
        self, *, width: int, num_classes: int, pose: bool, text: bool, dropout: float = 0.0, learned: bool = False
    ) -> None:
        super().__init__()
        del learned  # nothing to learn
        self.importance_names = ("video", "pose") if pose else ("video",)
        self.fusion = None if text else Fusion(num_modalities=2, width=width, num_classes=num_classes, dropout=dropout)

    def forward(self, features: Features, temperature: Tensor) -> dict[str, Tensor]:
        """The shared outputs of this file."""
        vectors = [features.video] if features.pose is None else [features.video, features.pose]
        importance = uniform_importance([None, features.has_pose][: len(vectors)], features.video)
        outputs = {"importance": importance} | uniform_token_importance(features)
        if features.pose is not None:
            outputs["similarity_vp"] = features.video @ features.pose.T
        if features.text is not None:
            classes = functional.normalize(features.text.mean(dim=0), dim=-1)  # (L, D)
            cosines = torch.stack([vector @ classes.T for vector in vectors])  # (M, B, L)
            outputs["align_logits"] = torch.einsum("bm,mbl->bl", importance, cosines) / temperature
        elif self.fusion is not None:
            outputs["align_logits"] = self.fusion(vectors, importance)
        return outputs


def uniform_token_importance(features: Features) -> dict[str, Tensor]:
    """Equal weights of the tokens of each modality: what mean pooling amounts to."""
    outputs = {"token_importance_video": masked_softmax(torch.zeros_like(features.video_tokens[..., 0]), None)}
    if features.pose_tokens is not None:
        scores = torch.zeros_like(features.pose_tokens[..., 0])
        outputs["token_importance_pose"] = masked_softmax(scores, features.pose_mask)
    if features.text is not None:
        outputs["token_importance_text"] = masked_softmax(torch.zeros_like(features.text[..., 0]).T, None)
    return outputs


CMSA: dict[str, Callable[..., nn.Module]] = {"A": WeightedTokens, "B": GatedFusion, "off": PlainCosine}
