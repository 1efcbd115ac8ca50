"""How the clips of a skeleton encoder are made: recipes by name, and which one poses need."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from unialign.stages.extraction.efficientgcn_clips import efficientgcn_3d
from unialign.stages.extraction.pose_clips import (
    PoseClip,
    Shape,
    View,
    agcn_3d,
    body_2d,
    body_3d,
    centered_3d,
)
from unialign.stages.extraction.pyskl_clips import STREAMS, heatmap_pixels, pyskl_2d, pyskl_3d, pyskl_boxed
from unialign.stages.skeleton_layouts import Layout

Prepare = Callable[[np.ndarray, Layout, View, Shape, tuple[float, float] | None], PoseClip]


def with_stream(recipe: str, stream: str) -> str:
    """The name of a recipe whose clips hold another stream than the joints."""
    return recipe if stream == "joint" else f"{recipe}-{stream}"


_PYSKL: Mapping[str, Callable[..., PoseClip]] = {
    "pyskl-2d": pyskl_2d,
    "pyskl-3d": pyskl_3d,
    "pyskl-2d-padded": partial(pyskl_2d, padded=True),
    "pyskl-3d-padded": partial(pyskl_3d, padded=True),
}

RECIPES: Mapping[str, Prepare] = {
    "agcn-3d": agcn_3d,
    "centered-3d": centered_3d,
    "body-2d": body_2d,
    "body-3d": body_3d,
    "pyskl-boxed": pyskl_boxed,
    "efficientgcn-3d": efficientgcn_3d,
    "heatmap-64": partial(heatmap_pixels, side=64),
    "heatmap-56": partial(heatmap_pixels, side=56),
    **{with_stream(name, stream): partial(make, stream=stream) for name, make in _PYSKL.items() for stream in STREAMS},
}


def recipe_of(layout: Layout, coordinates: Sequence[str], kind: str = "published") -> str:
    """The recipe for poses with these joints and coordinates: by score or depth, and whether there is a spine.

    kind: "body" for body coordinates, "published" for what PYSKL and 2s-AGCN do.
    """
    flat = list(coordinates) == ["x", "y", "score"]
    if kind == "body":
        return "body-2d" if flat else "body-3d"
    if flat:
        return "pyskl-2d"
    return "centered-3d" if layout.spine is None or layout.shoulders is None else "agcn-3d"
