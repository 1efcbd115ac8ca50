"""The soft shadow of the figure on the floor.

Legend: T frames, H and W image height and width, h and w of a box around one shadow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unialign.stages.demo.body import Floats
from unialign.stages.demo.camera import Camera
from unialign.stages.demo.figure import Part
from unialign.stages.demo.shading import Boxes, Lens, boxes_around


@dataclass(frozen=True)
class Shadow:
    """The shadow of one part: world ends `(T, 3)` on the floor, radius in meters, height of the part `(T,)`."""

    start: Floats
    end: Floats
    radius: float
    height: Floats


def fall(parts: Sequence[Part], toward: Floats) -> list[Shadow]:
    """The shadows of those parts that cast one; `toward` is the world direction `(3,)` to the lamp."""
    slant = toward / toward[1]

    def drop(points: Floats) -> Floats:
        return np.asarray(points - points[:, 1:2] * slant)

    return [
        Shadow(drop(part.start), drop(part.end), max(part.radii) * part.thin, (part.start + part.end)[:, 1] / 2)
        for part in parts
        if part.casts_shadow
    ]


def draw_shadows(shadows: Sequence[Shadow], lens: Lens, camera: Camera) -> Floats:
    """The fraction of the lamp's light that the floor loses at every pixel, `(T, H, W)` in 0..1."""
    dark = np.zeros(len(lens.centres) * lens.size[0] * lens.size[1], dtype=np.float32)
    for shadow in shadows:
        # The farther the part is from the floor, the softer and fainter its shadow.
        height = np.clip(shadow.height, 0, 1.5).astype(np.float32)[:, None, None]
        soft = np.float32(0.03) + np.float32(0.05) * height
        ends = camera.to_camera(np.stack([shadow.start, shadow.end]))
        boxes = boxes_around(ends, np.full(2, shadow.radius + float(soft.max())), lens)
        across, ahead, valid = _floor_points(boxes, camera)
        start, along = shadow.start.astype(np.float32), (shadow.end - shadow.start).astype(np.float32)
        across -= start[:, 0, None, None]
        ahead -= start[:, 2, None, None]
        along_x, along_z = along[:, 0, None, None], along[:, 2, None, None]
        length = np.maximum(along_x**2 + along_z**2, np.float32(1e-6))
        share = np.clip((across * along_x + ahead * along_z) / length, 0, 1)
        away = np.sqrt((across - share * along_x) ** 2 + (ahead - share * along_z) ** 2)
        cover = np.clip((np.float32(shadow.radius) + soft - away) / (2 * soft), 0, 1) * (1 - np.float32(0.25) * height)
        flat = boxes.where.ravel()
        dark[flat] = np.maximum(dark[flat], (cover * valid).ravel())
    return dark.reshape(len(lens.centres), *lens.size)


def _floor_points(boxes: Boxes, camera: Camera) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """World x and z where the rays of the boxes meet the floor, and whether they do, each `(T, h, w)`."""
    turn = camera.rotation.astype(np.float32)
    left, up = boxes.slope_left, boxes.slope_up
    world = [left * turn[0, axis] + up * turn[1, axis] + turn[2, axis] for axis in range(3)]
    valid = world[1] < -1e-3
    far = -np.float32(camera.position[1]) / np.where(valid, world[1], np.float32(-1))
    return world[0] * far + np.float32(camera.position[0]), world[2] * far + np.float32(camera.position[2]), valid
