"""The joints of a stored sample as places in its images, for drawing.

Legend: T frames, P persons, V joints.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unialign.cache.reader import Recorded


def in_the_image(poses: Recorded) -> bool:
    """Whether a store of poses has the places of joints in the video's images; 3-D keypoints alone do not."""
    return "pixels" in {spec.name for spec in poses.store.arrays} or _in_pixels(poses.array_attributes("keypoints"))


def shown_joints(poses: Recorded, sample: str) -> NDArray[np.float64]:
    """Joints (T, P, V, 2) in pixels of the video or, for 3-D keypoints without pixels, as the sensor sees them."""
    arrays = poses.read_one(sample)
    joints: NDArray[np.float64] = np.asarray(arrays.get("pixels", arrays["keypoints"])[..., :2], np.float64)
    if "pixels" not in arrays and not _in_pixels(poses.array_attributes("keypoints")):
        joints[..., 1] *= -1  # up is positive in a room
        if np.nanmin(arrays["keypoints"][..., 2], initial=np.inf) > 0:
            # All are in front of a sensor, such as a Kinect: its space is right-handed, so x grows to its left.
            joints[..., 0] *= -1
    return joints


def joints_over_frames(poses: Recorded | None, sample: str, frames: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Joints (T, P, V, 2) in pixels of the stored images; None if the store lacks the sample or their places.

    frames: the sample of a store of frames. Those of an early version do not know the size of the video.
    """
    if poses is None or sample not in poses or "source_size" not in frames or not in_the_image(poses):
        return None
    scale = np.asarray(frames["size"], np.float64)[::-1] / np.asarray(frames["source_size"], np.float64)[::-1]
    joints: NDArray[np.float64] = shown_joints(poses, sample) * scale
    return joints


def _in_pixels(attributes: Mapping[str, Any]) -> bool:
    return list(attributes.get("coordinates", ())) == ["x", "y", "score"]
