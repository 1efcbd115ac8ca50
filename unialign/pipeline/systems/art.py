"""ART: a video backbone on cached frames, with text queries for regions; the network is in `stages.models.art`."""

import numpy as np

from unialign.pipeline.evaluation.pictures import Pictures
from unialign.pipeline.systems.base import ClassSpecificWeights, DrawnClip, System
from unialign.pipeline.systems.unialign import (
    backbone_normalization,
    check_clips,
    clip_example,
    prepare_clips,
    stores_of,
)
from unialign.stages.models.art.config import ARTConfig
from unialign.stages.models.art.losses import art_losses
from unialign.stages.models.art.model import build_art


def draw_tracklets(clip: DrawnClip) -> Pictures | None:
    """The tracklets, drawn over the model's input frames; None for a model without regions."""
    from unialign.pipeline.evaluation.plots import SHOWN_FRAMES, draw_tracklets

    if "region_maps" not in clip.outputs:
        return None
    maps, weights = clip.outputs["region_maps"], clip.outputs["frame_weights"]
    shown = np.linspace(0, len(maps) - 1, min(SHOWN_FRAMES, len(maps))).round().astype(int)
    # A backbone may halve the temporal resolution: show the middle frame of each temporal step.
    seen = clip.frames[((shown + 0.5) * len(clip.frames) / len(maps)).astype(int)]
    names = [clip.classes[int(label)] for label in clip.outputs["semantic_classes"]]
    return draw_tracklets(seen, maps[shown], weights[shown], names, clip.title)


ART = System(
    config=ARTConfig,
    stores=lambda config: stores_of(config, "video", "text"),
    prepare=prepare_clips,
    build=build_art,
    losses=art_losses,
    normalization=backbone_normalization,
    clipped_apart=("bank.",),
    check=check_clips,
    class_specific=ClassSpecificWeights(("head.", "video_head.", "bank.agent", "bank.main")),
    example=lambda config: clip_example(config, pose=False),
    draw=draw_tracklets,
)
