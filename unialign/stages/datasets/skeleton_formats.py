"""What a dataset declares about its existing skeletons: how a file of them is read, and what is in it.

Legend: T frames, M persons, V joints, C coordinates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from unialign.stages.skeleton_layouts import Layout

PIXEL, METRE = "pixel", "metre"


@dataclass(frozen=True, eq=False)
class KeypointClip:
    """The persons of one sample, as stored in a file.

    keypoints: (T, M, V, 3) float32: x, y in pixels and score, or x, y, z in meters; NaN where absent.
    image_size: height and width of the image that pixels refer to; None for meters.
    scores: (T, M, V) float32 of 3-D joints, or None.
    assumed: what the file lacks and what was assumed instead, one phrase each.
    """

    keypoints: "np.ndarray"
    image_size: tuple[int, int] | None = None
    scores: "np.ndarray | None" = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class SkeletonFormat:
    """How the "skeleton" files of a dataset are read.

    name: of the format; part of the store's key, so a change of what `read` returns needs a new name.
    unit: "pixel" (2-D with a score) or "metre" (3-D).
    read: the clip for a file and a sample id, a module-level function. It raises `CorruptInput` that begins with the
        file's path for a malformed file, and `KeyError` if a file of many samples lacks the id.
    digest: of one sample's part of a file of many samples, "sha256:<hex>"; None if each sample has its own file.
    max_people: maximum number of persons per sample, if the format limits it; 0 for any number.
    scored: whether 3-D joints have scores.
    source, license, citation: for users of a store.
    """

    name: str
    layout: "Layout"
    unit: str
    read: Callable[[Path, str], KeypointClip]
    digest: Callable[[Path, str], str] | None = None
    max_people: int = 0
    scored: bool = False
    source: str = field(default="", compare=False)
    license: str = field(default="that of the data set", compare=False)
    citation: str = field(default="", compare=False)
