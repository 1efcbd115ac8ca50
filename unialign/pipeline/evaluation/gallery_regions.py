"""Pictures of test clips of ART and ALT: where tracklets look, and which entity each patch was given."""

from collections.abc import Mapping, Sequence

import numpy as np

from unialign.pipeline.evaluation.plots import entity_picture, tracklet_picture

SHOWN_FRAMES = 8


def tracklets_of(
    frames: np.ndarray, outputs: Mapping[str, np.ndarray], classes: Sequence[str], title: str
) -> bytes | None:
    """ART's tracklets over the frames that it saw, (T, H, W, 3) uint8; None for a model without regions.

    outputs: of one clip, see `ART.forward`.
    """
    if "region_maps" not in outputs:
        return None
    maps, weights = outputs["region_maps"], outputs["frame_weights"]
    shown = np.linspace(0, len(maps) - 1, min(SHOWN_FRAMES, len(maps))).round().astype(int)
    # A backbone may halve time: the frame in the middle of each of its steps.
    seen = frames[((shown + 0.5) * len(frames) / len(maps)).astype(int)]
    names = [classes[int(label)] for label in outputs["semantic_classes"]]
    return tracklet_picture(seen, maps[shown], weights[shown], names, title)


def entities_of(
    frames: np.ndarray, outputs: Mapping[str, np.ndarray], entities: Sequence[str], title: str
) -> bytes | None:
    """ALT's entities over the frames that it saw, (T, H, W, 3) uint8; None without alignment of regions.

    outputs: of one clip, see `ALT.forward`. entities: names of the rows of its corpus.
    """
    if "entities" not in outputs or "owners" not in outputs or outputs["entities"].shape[1] == 1:
        return None
    shown = np.linspace(0, len(frames) - 1, min(SHOWN_FRAMES, len(frames))).round().astype(int)
    owners = outputs["owners"][shown, 1:]  # of the patches, without the class token
    patches = np.take_along_axis(outputs["entities"][shown], owners, axis=1)
    side = int(np.sqrt(patches.shape[1]))
    return entity_picture(frames[shown], patches.reshape(len(shown), side, side), entities, title)
