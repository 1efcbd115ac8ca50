"""Joints that a file gives as zeros for want of a place.

Legend: T frames, M persons, V joints, C coordinates.
"""

import numpy as np

from unialign.stages.datasets.skeleton_formats import PIXEL

# With so many joints left of or above the origin, it is a point of the body and no corner of an image.
CENTERED = 0.2


def zeros_for_absent(keypoints: np.ndarray, unit: str, *, centered: bool) -> np.ndarray:
    """Which joints (T, M, V) of keypoints (T, M, V, C) are zeros that stand for nothing.

    A person whose joints are all at the origin in a frame is nobody: arrays of a fixed number of persons are filled up
    like that. In pixels a single joint at (0, 0), the corner of the image, is absent too, unless `centered`. In meters
    it is not: the origin may be a joint of the body.
    """
    places = keypoints[..., :2] if unit == PIXEL else keypoints[..., :3]
    at_origin = (places == 0).all(axis=3)
    nobody = at_origin.all(axis=2, keepdims=True)
    return np.asarray(at_origin & nobody if centered or unit != PIXEL else at_origin)


def is_centered(keypoints: np.ndarray) -> bool:
    """Whether the origin of 2-D keypoints (..., C) is a point of the body: many of them are negative."""
    places = keypoints[..., :2]
    known = places[np.isfinite(places).all(axis=-1)]
    return bool(len(known)) and float((known < 0).any(axis=-1).mean()) >= CENTERED
