"""Trainable systems by name: how each is built from a configuration, and its losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from unialign.cache.errors import UsageError
from unialign.stages.models.backbones import build_backbone
from unialign.stages.models.uni_align import UniAlign, UniAlignConfig
from unialign.stages.models.uni_align_losses import uni_align_losses


@dataclass(frozen=True)
class System:
    """A model's parts.

    config: a frozen dataclass with all settings and their defaults.
    build: keyword arguments num_classes, text_bank, pose_width, config (a mapping) -> module.
    losses: (module, outputs, labels) -> dict of weighted scalars whose sum is minimised.
    """

    config: type[Any]
    build: Callable[..., nn.Module]
    losses: Callable[..., dict[str, Tensor]]


def build_unialign(
    *, num_classes: int, text_bank: Tensor | None, pose_width: int | None, config: Mapping[str, Any]
) -> UniAlign:
    """UniAlign with random weights (pretrained ones: `backbones.load_pretrained(model.backbone, ...)`).

    text_bank: S^0, (prompts, num_classes, width) embeddings; pose_width: width of the cached pose features.
    config: settings that differ from `UniAlignConfig`.

    Raises `UsageError` for an unknown setting, a value of another type or out of range, and for a modality without
    its data.
    """
    settings = checked_config(config)
    if "text" in settings.modalities:
        if text_bank is None:
            raise UsageError("modalities hold text, but there are no text embeddings; extract text or leave it out.")
        if text_bank.ndim != 3 or text_bank.shape[1] != num_classes:
            raise UsageError(
                f"the text embeddings have shape {tuple(text_bank.shape)}, needed is (prompts, {num_classes}, width); "
                "extract text for this dataset."
            )
        bad = ~(text_bank.isfinite().all(-1) & (text_bank != 0).any(-1))  # (prompts, classes)
        if bool(bad.any()):
            prompt, label = bad.nonzero()[0].tolist()
            raise UsageError(f"the text embedding of prompt {prompt}, class {label} is empty; extract text again.")
    if "pose" in settings.modalities and pose_width is None:
        raise UsageError("modalities hold pose, but there are no pose features; extract pose-features or leave it out.")
    backbone = build_backbone(settings.backbone, num_frames=settings.num_frames, image_size=settings.image_size)
    return UniAlign(
        backbone=backbone, num_classes=num_classes, config=settings, text_bank=text_bank, pose_width=pose_width
    )


def checked_config(config: Mapping[str, Any]) -> UniAlignConfig:
    """The configuration with defaults filled in. Raises `UsageError` for unknown names and values of another type."""
    defaults = {field.name: field.default for field in fields(UniAlignConfig)}
    unknown = sorted(set(config) - set(defaults))
    if unknown:
        raise UsageError(f"unknown setting of unialign: {', '.join(unknown)}; known: {', '.join(defaults)}.")
    values: dict[str, Any] = {}
    for name, value in config.items():
        kind = type(defaults[name])
        if kind is tuple and isinstance(value, (list, tuple)):
            values[name] = tuple(value)
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif type(value) is kind:
            values[name] = value
        else:
            raise UsageError(f"setting {name} must be of type {kind.__name__}, not {value!r}.")
    return UniAlignConfig(**values)


SYSTEMS: dict[str, System] = {
    "unialign": System(config=UniAlignConfig, build=build_unialign, losses=uni_align_losses),
}
