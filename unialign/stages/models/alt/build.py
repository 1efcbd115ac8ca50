"""ALT from its data: texts, tokens or weights checked against each other, and the towers that they belong into."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as functional
from torch import Tensor

from unialign.errors import UsageError
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.model import ALT, TokenShape
from unialign.stages.models.clip.image_tower import ClipTower, image_transformer, load_clip
from unialign.stages.models.clip.prompts import PromptedTexts, Words
from unialign.stages.models.clip.text_tower import load_text, text_transformer
from unialign.stages.models.text_bank import check_bank


def label_embeddings(bank: Tensor) -> Tensor:
    """C (L, D) from embeddings of all prompts (prompts, L, D): the mean of unit rows, unit length."""
    return functional.normalize(functional.normalize(bank.float(), dim=-1).mean(dim=0), dim=-1)


def build_alt(
    config: ALTConfig,
    *,
    num_classes: int,
    text_bank: Tensor | None,
    corpus: Tensor | None = None,
    tokens: TokenShape | None = None,
    weights: Mapping[str, Any] | None = None,
    words: Words | None = None,
) -> ALT:
    """ALT from its data; what is newly learned starts at random.

    text_bank: (prompts, num_classes, D) embeddings. corpus (K, D): of entities, by the same text encoder; not used
    where the alignment is off or takes the labels. tokens: shape of cached ones, used with tower "cached" only.
    weights: for the towers (`image_tower.load_clip`); None leaves them random. words: the texts as token ids, used
    with learned prompts only.
    Raises `UsageError` for data that is missing, empty, or does not fit.
    """
    if text_bank is None:
        raise UsageError("alt has no text embeddings; extract text for this dataset.")
    check_bank(text_bank, num_classes)
    width = text_bank.shape[-1]
    if config.align and config.corpus == "entities":
        if corpus is None:
            raise UsageError("alt has no entity embeddings; extract text with entities, or take corpus: labels.")
        if corpus.ndim != 2 or corpus.shape[1] != width:
            raise UsageError(
                f"the entity embeddings have shape {tuple(corpus.shape)}, needed is (entities, {width}); "
                "embed entities and labels with the same text encoder."
            )
        if not corpus.is_meta and not bool((corpus.isfinite().all(-1) & (corpus != 0).any(-1)).all()):
            raise UsageError("one of the entity embeddings is empty or not finite; extract text again.")
    tower = _tower(config, tokens, weights)
    if config.projection == "clip" and tower.width != width:
        raise UsageError(
            f"tokens have width {tower.width} and texts {width}; embed texts with the text tower of the same network, "
            "or take projection: linear."
        )
    texts = _texts(config, words, weights) if config.num_prompts else None
    return ALT(tower=tower, labels=label_embeddings(text_bank), corpus=corpus, config=config, texts=texts)


def _tower(config: ALTConfig, tokens: TokenShape | None, weights: Mapping[str, Any] | None) -> ClipTower | TokenShape:
    if config.tower == "cached":
        if tokens is None:
            raise UsageError("alt with tower: cached has no tokens; extract tokens, or take tower: frozen.")
        return tokens
    network = image_transformer(config.network, image_size=config.image_size)
    if weights is not None:
        load_clip(network, weights)
    return ClipTower(
        network=network,
        layer=config.layer,
        num_pairs=config.merged_pairs,
        proportional=config.proportional_attention,
        projection="clip" if config.projection == "clip" else "none",
        adapters=config.tower_adapters,
        num_prompts=config.num_prompts,
    )


def _texts(config: ALTConfig, words: Words | None, weights: Mapping[str, Any] | None) -> PromptedTexts:
    if words is None:
        raise UsageError("alt with num_prompts has no texts; extract text for this dataset.")
    network = text_transformer(config.network)
    if weights is not None:
        load_text(network, weights)
    return PromptedTexts(network=network, words=words, num_prompts=config.num_prompts)
