"""What systems and backbones cost: parameters and multiply-adds, counted without computing anything."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unialign.errors import UsageError
from unialign.pipeline.config import Config
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.model import TokenShape
from unialign.stages.models.backbones.registry import BACKBONES, build_backbone
from unialign.stages.models.clip.image_tower import ClipTower, image_transformer
from unialign.stages.models.clip.prompts import Words
from unialign.stages.models.dvta.model import DVTAConfig
from unialign.stages.models.flops import Cost, cost
from unialign.stages.models.systems import SYSTEMS, Parts, checked_config
from unialign.stages.training.settings import settings_from
from unialign.types import Json

# Of no dataset in particular: the data that a system is counted with.
ASSUMED = {
    "classes": 400,
    "prompts": 16,
    "text_width": 512,
    "sentence_width": 768,
    "entities": 548,
    "tokens_of_a_text": 16,
    "pose_tokens": 25,
    "pose_width": 256,
}
BACKBONE_FRAMES, BACKBONE_SIDE = 16, 224


def model_costs(config: Config, only: Sequence[str] = ()) -> dict[str, Json]:
    """{"assumed", "systems", "backbones"}: one row each, systems as the configuration has them.

    A row: name, network, num_frames, image_size, parameters, trained, gflops_view (10^9 multiply-adds of one view of
    one clip), views (in evaluation), gflops (of all of them). only: names of systems and backbones; empty: all.
    ALT's texts are as wide as those of its network, DVTA's as those of a
    sentence encoder. Raises `UsageError` for unknown names and bad settings.
    """
    unknown = [name for name in only if name not in SYSTEMS and name not in BACKBONES]
    if unknown:
        raise UsageError(f"there is no model {unknown[0]!r}; known are {', '.join([*SYSTEMS, *BACKBONES])}.")
    settings = settings_from(config.train.settings)
    views = settings.test_clips * settings.test_crops
    systems = [_system_row(name, config, views) for name in SYSTEMS if not only or name in only]
    backbones = [_backbone_row(name) for name in BACKBONES if not only or name in only]
    return {"assumed": dict(ASSUMED), "systems": systems, "backbones": backbones}


def _system_row(name: str, config: Config, views: int) -> dict[str, Json]:
    system = SYSTEMS[name]
    known: Any = checked_config(system.config, getattr(config.train, name))
    if isinstance(known, DVTAConfig):
        return _dvta_row(known)
    with torch.device("meta"):
        text_width, tokens = ASSUMED["text_width"], None
        if isinstance(known, ALTConfig):
            text_width, tokens = _clip_shape(known)
            # Which texts go through the tower changes nothing here: they are embedded once, not with each view.
            known = replace(known, prompted_texts="labels")
        parts = Parts(
            num_classes=ASSUMED["classes"],
            text_bank=torch.zeros(ASSUMED["prompts"], ASSUMED["classes"], text_width),
            pose_width=ASSUMED["pose_width"],
            corpus=torch.zeros(ASSUMED["entities"], text_width),
            tokens=tokens,
            words=Words(_words(ASSUMED["prompts"], ASSUMED["classes"])),
        )
        model = system.build(parts, known).eval()
        batch: dict[str, Tensor] = {
            "frames": torch.zeros(1, known.num_frames, 3, known.image_size, known.image_size),
            "pose_tokens": torch.zeros(1, ASSUMED["pose_tokens"], ASSUMED["pose_width"]),
        }
        if tokens is not None:
            batch = {"tokens": torch.zeros(1, known.num_frames, tokens.num_tokens, tokens.width)}
        with torch.no_grad():
            model(batch)  # embeds the texts
        found = cost(model, batch)
    network = known.network if isinstance(known, ALTConfig) else known.backbone
    return _row(name, network, (known.num_frames, known.image_size), found, views)


def _words(*shape: int) -> Tensor:
    return torch.zeros(*shape, ASSUMED["tokens_of_a_text"], dtype=torch.int64)


def _dvta_row(config: DVTAConfig) -> dict[str, Json]:
    """One vector against all classes; frames and pictures are the pose encoder's, whose cost is not counted."""
    with torch.device("meta"):
        texts = torch.zeros(1, ASSUMED["classes"], ASSUMED["sentence_width"])
        parts = Parts(
            ASSUMED["classes"], text_bank=texts, pose_width=ASSUMED["pose_width"], descriptions=texts[0].clone()
        )
        model = SYSTEMS["dvta"].build(parts, config).eval()
        found = cost(model, {"pose_features": torch.zeros(1, ASSUMED["pose_width"])})
    return _row("dvta", "none", (0, 0), found, 1)


def _clip_shape(config: ALTConfig) -> tuple[int, TokenShape | None]:
    """Width of the texts of ALT's network and, for cached tokens, their shape."""
    network = image_transformer(config.network, image_size=config.image_size)
    text_width = int(network.output_dim)
    if config.tower != "cached":
        return text_width, None
    projection = "clip" if config.projection == "clip" else "none"
    tower = ClipTower(network=network, layer=config.layer, num_pairs=config.merged_pairs, projection=projection)
    return text_width, TokenShape(tower.num_tokens, tower.width)


def _backbone_row(name: str) -> dict[str, Json]:
    with torch.device("meta"):
        backbone = build_backbone(name, num_frames=BACKBONE_FRAMES, image_size=BACKBONE_SIDE).eval()
        found = cost(backbone, torch.zeros(1, BACKBONE_FRAMES, 3, BACKBONE_SIDE, BACKBONE_SIDE))
    return _row(name, name, (BACKBONE_FRAMES, BACKBONE_SIDE), found, 1)


def _row(name: str, network: str, clip: tuple[int, int], found: Cost, views: int) -> dict[str, Json]:
    return {
        "name": name,
        "network": network,
        "num_frames": clip[0],
        "image_size": clip[1],
        "parameters": found.parameters,
        "trained": found.trained,
        "gflops_view": found.multiply_adds / 1e9,
        "views": views,
        "gflops": views * found.multiply_adds / 1e9,
    }
