"""Trainable systems by name: what each reads, how it is built from a configuration, and its losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.alt.build import build_alt
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.losses import alt_losses
from unialign.stages.models.alt.model import ALT, TokenShape
from unialign.stages.models.art.losses import art_losses
from unialign.stages.models.art.model import ART, ARTConfig
from unialign.stages.models.clip.image_tower import MEAN, STD
from unialign.stages.models.clip.prompts import Words
from unialign.stages.models.dvta.losses import dvta_losses
from unialign.stages.models.dvta.model import DVTA, DVTAConfig
from unialign.stages.models.text_bank import check_bank
from unialign.stages.models.unialign.losses import uni_align_losses
from unialign.stages.models.unialign.model import UniAlign, UniAlignConfig

Colours = tuple[tuple[float, ...], tuple[float, ...]]
C = TypeVar("C")

# Which store a modality of UniAlign reads.
UNIALIGN_STORES = {"video": "frames", "pose": "pose-features", "text": "text"}


@dataclass(frozen=True)
class Parts:
    """What a system is built from beside its settings; each takes what it needs and leaves the rest alone.

    text_bank: S^0, (prompts, num_classes, width) embeddings. pose_width: of cached pose features. corpus: (entities,
    width) embeddings. tokens: shape of the cached tokens of a frame.
    weights: published ones that the video backbone (in ALT: CLIP's image tower) starts from; None leaves it random.
    descriptions: (num_classes, width) embeddings, as wide as the bank's. words: texts that ALT embeds with prompts.
    """

    num_classes: int
    text_bank: Tensor | None = None
    pose_width: int | None = None
    corpus: Tensor | None = None
    tokens: TokenShape | None = None
    weights: Mapping[str, Any] | None = None
    descriptions: Tensor | None = None
    words: Words | None = None


@dataclass(frozen=True)
class System:
    """A model's parts. `model` is what `build` returns.

    config: a frozen dataclass with all settings and their defaults.
    stores: (config) -> the modalities of the cache that it reads, in order.
    build: (parts, config) -> model. Raises `UsageError` for parts that are missing or do not fit.
    losses: (model, outputs, labels) -> dict of weighted scalars whose sum is minimised.
    pictures: (model) -> mean and std, per colour, that frames in [0, 1] are normalised with.
    rate: (model, name of a parameter) -> its learning rate over that of the run.
    """

    config: type[Any]
    stores: Callable[[Any], tuple[str, ...]]
    build: Callable[[Parts, Any], nn.Module]
    losses: Callable[[Any, Mapping[str, Tensor], Tensor], dict[str, Tensor]]
    pictures: Callable[[Any], Colours]
    rate: Callable[[Any, str], float] = lambda model, name: 1.0


def build_unialign(parts: Parts, config: UniAlignConfig) -> UniAlign:
    """UniAlign; the backbone starts from `parts.weights`, everything else at random.

    Raises `UsageError` for a modality without its data, an empty text, and weights that do not fit.
    """
    if "text" in config.modalities:
        if parts.text_bank is None:
            raise UsageError("modalities hold text, but there are no text embeddings; extract text or leave it out.")
        check_bank(parts.text_bank, parts.num_classes)
    if "pose" in config.modalities and parts.pose_width is None:
        raise UsageError("modalities hold pose, but there are no pose features; extract pose-features or leave it out.")
    return UniAlign(
        backbone=started_backbone(config, parts.weights),
        num_classes=parts.num_classes,
        config=config,
        text_bank=parts.text_bank,
        pose_width=parts.pose_width,
    )


def build_art(parts: Parts, config: ARTConfig) -> ART:
    """ART; the backbone starts from `parts.weights`, everything else at random.

    Raises `UsageError` for texts that are missing or empty, more tracklets than texts to choose from, and weights that
    do not fit.
    """
    if parts.text_bank is None:
        raise UsageError("art has no text embeddings; extract text for this dataset.")
    check_bank(parts.text_bank, parts.num_classes)
    num_texts = parts.num_classes * (1 if config.selection == "classes" else len(parts.text_bank))
    if config.regions and config.num_tracks > num_texts:
        raise UsageError(
            f"num_tracks is {config.num_tracks}, but there are only {num_texts} {config.selection} to choose from; "
            "lower train.art.num_tracks."
        )
    backbone = started_backbone(config, parts.weights)
    return ART(backbone=backbone, num_classes=parts.num_classes, config=config, text_bank=parts.text_bank)


def build_alt_system(parts: Parts, config: ALTConfig) -> ALT:
    """ALT, see `alt.build.build_alt`; the tower starts from `parts.weights`."""
    return build_alt(
        num_classes=parts.num_classes,
        text_bank=parts.text_bank,
        corpus=parts.corpus,
        tokens=parts.tokens,
        config=config,
        clip_weights=parts.weights,
        words=parts.words,
    )


def build_dvta(parts: Parts, config: DVTAConfig) -> DVTA:
    """DVTA, random but for the texts: a class' label is the mean over the prompts of the bank.

    Raises `UsageError` for texts or pose features that are missing and for texts that are empty.
    """
    if parts.text_bank is None or parts.pose_width is None:
        raise UsageError("dvta needs pose features and texts; extract pose-features and text for this dataset.")
    check_bank(parts.text_bank, parts.num_classes)
    texts = [parts.text_bank.mean(dim=0)]
    if config.enhancement:
        if parts.descriptions is None:
            raise UsageError(
                "dvta has no descriptions; extract text with them, or set train.dvta.enhancement to false."
            )
        check_bank(parts.descriptions.unsqueeze(0), parts.num_classes)
        texts.append(parts.descriptions)
    return DVTA(config=config, class_texts=torch.stack(texts, dim=-1), pose_width=parts.pose_width)


def started_backbone(config: UniAlignConfig | ARTConfig, weights: Mapping[str, Any] | None) -> nn.Module:
    """The video backbone of a configuration. Raises `UsageError` for an unknown one and for weights of another."""
    # Its networks come from timm and torchvision, which take seconds to load.
    from unialign.stages.models.backbones.registry import build_backbone, load_pretrained

    backbone = build_backbone(config.backbone, num_frames=config.num_frames, image_size=config.image_size)
    if weights:
        load_pretrained(backbone, weights)
    return backbone


def checked_config(kind: type[C], config: Mapping[str, Any]) -> C:
    """The configuration `kind` with defaults filled in.

    Raises `UsageError` for unknown names, values of another type, and what the class itself refuses.
    """
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(config) - set(defaults))
    if unknown:
        name = kind.__name__.removesuffix("Config").lower()
        raise UsageError(f"unknown setting of {name}: {', '.join(unknown)}; known: {', '.join(defaults)}.")
    values: dict[str, Any] = {}
    for name, value in config.items():
        wanted = type(defaults[name])
        if wanted is tuple and isinstance(value, (list, tuple)):
            values[name] = tuple(value)
        elif wanted is float and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif type(value) is wanted:
            values[name] = value
        else:
            raise UsageError(f"setting {name} must be of type {wanted.__name__}, not {value!r}.")
    return kind(**values)


def backbone_pictures(model: UniAlign | ART) -> Colours:
    """Those that the video backbone was made for."""
    backbone: Any = model.backbone
    return tuple(backbone.mean), tuple(backbone.std)


def no_pictures(model: DVTA) -> Colours:
    """Of a model that sees none: values that leave them as they are."""
    del model
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def clip_pictures(model: ALT) -> Colours:
    """CLIP's."""
    del model
    return MEAN, STD


SYSTEMS: dict[str, System] = {
    "unialign": System(
        config=UniAlignConfig,
        stores=lambda config: tuple(UNIALIGN_STORES[name] for name in config.modalities),
        build=build_unialign,
        losses=uni_align_losses,
        pictures=backbone_pictures,
    ),
    "art": System(
        config=ARTConfig,
        stores=lambda config: ("frames", "text"),
        build=build_art,
        losses=art_losses,
        pictures=backbone_pictures,
    ),
    "alt": System(
        config=ALTConfig,
        stores=lambda config: ("tokens" if config.tower == "cached" else "frames", "text"),
        build=build_alt_system,
        losses=alt_losses,
        pictures=clip_pictures,
        rate=ALT.rate,
    ),
    "dvta": System(
        config=DVTAConfig,
        stores=lambda config: ("pose-features", "text"),
        build=build_dvta,
        losses=dvta_losses,
        pictures=no_pictures,
    ),
}
