"""The cost of systems and backbones: parameters and multiply-adds, counted without running any computation."""

from collections.abc import Sequence

import torch

from unialign.errors import UsageError
from unialign.pipeline.config import Config
from unialign.pipeline.systems.base import ASSUMED
from unialign.pipeline.systems.registry import SYSTEMS, get_system, section_of
from unialign.stages.models.backbones.registry import BACKBONES, build_backbone
from unialign.stages.models.flops import Cost, cost
from unialign.types import Json

BACKBONE_FRAMES, BACKBONE_SIDE = 16, 224


def model_costs(config: Config, only: Sequence[str] = ()) -> dict[str, Json]:
    """{"assumed", "systems", "backbones"}: one row per system (as configured) and per backbone.

    A row: name, network, num_frames, image_size, parameters, trained, gflops_view (10^9 multiply-adds for one view of
    one clip), views (in evaluation), gflops (for all views). only: names of systems and backbones; empty: all in this
    package (plug-ins only if named). ALT's text embeddings have the width of its network's, DVTA's that of a sentence
    encoder's. Raises `UsageError` for unknown names and bad settings.
    """
    unknown = [name for name in only if name not in SYSTEMS and name not in BACKBONES]
    if unknown:
        raise UsageError(f"there is no model {unknown[0]!r}; known are {', '.join([*SYSTEMS, *BACKBONES])}.")
    views = len(config.train.settings.test_places) * config.train.settings.test_crops
    systems = [_system_row(name, config, views) for name in SYSTEMS if name in (only or SYSTEMS.own)]
    backbones = [_backbone_row(name) for name in BACKBONES if not only or name in only]
    return {"assumed": dict(ASSUMED), "systems": [row for row in systems if row], "backbones": backbones}


def _system_row(name: str, config: Config, views: int) -> dict[str, Json]:
    """The row of a system; empty if the system does not define its cost."""
    system = get_system(name)
    chosen = getattr(config.train, section_of(name), None) or system.config()
    if system.example is None:
        return {}
    with torch.device("meta"):
        example = system.example(chosen)
        model = system.build(example.config, **example.parts).eval()
        batch = dict(example.batch)
        with torch.no_grad():
            model(batch)  # embeds the texts
        found = cost(model, batch)
    return _row(name, example.network, (example.num_frames, example.image_size), found, views if example.views else 1)


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
