"""The renderer: rounded cones with perspective, a depth buffer and a lamp.

Each part is intersected with the rays of the pixels in a box around it, for all frames at once. Only numpy.

Legend: T frames, H and W image height and width, h and w of a part's box, K pixels that show the figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unialign.stages.demo.body import Floats
from unialign.stages.demo.figure import Part

NOTHING = np.float32(1e9)


@dataclass(frozen=True)
class SeenPart:
    """A part in camera space: `start`, `along` (to the end) and `axis`, all `(T, 3)` float32."""

    start: Floats
    along: Floats
    axis: Floats | None
    part: Part


@dataclass(frozen=True)
class Lamp:
    """The light, in camera space: `direction` to the lamp and `up`, both `(3,)`; RGB of the lamp and of the ambient
    light.
    """

    direction: Floats
    direct: Floats
    ambient: Floats
    up: Floats


@dataclass(frozen=True)
class Lens:
    """The pixels of one rendering: focal length in pixels and the center (row, column) of each frame, `(T, 2)`."""

    focal: float
    centres: Floats
    size: tuple[int, int]


@dataclass(frozen=True)
class Boxes:
    """For every frame a box of `h x w` pixels: flat positions `(T, h, w)` in `(T, H, W)` and ray slopes."""

    where: NDArray[np.intp]
    slope_left: Floats  # (T, 1, w)
    slope_up: Floats  # (T, h, 1)


def boxes_around(points: Floats, radii: Floats, lens: Lens) -> Boxes:
    """Boxes that contain spheres of `radii (N,)` at camera-space `points (N, T, 3)`, clipped to the image."""
    near = np.maximum(points[..., 2] - radii[:, None], 0.1)
    reach = lens.focal * radii[:, None] / near * 1.03 + 1
    middle = [lens.centres[:, axis] - lens.focal * points[..., 1 - axis] / points[..., 2] for axis in (0, 1)]
    low = [np.floor((values - reach).min(axis=0)) for values in middle]
    high = [np.ceil((values + reach).max(axis=0)) for values in middle]
    spans = []
    for axis in (0, 1):
        length = int(min((high[axis] - low[axis]).max() + 1, lens.size[axis]))
        first = np.clip(low[axis], 0, lens.size[axis] - length).astype(np.intp)
        spans.append(first[:, None] + np.arange(length))
    rows, columns = spans
    frame = np.arange(len(rows))[:, None, None] * (lens.size[0] * lens.size[1])
    slope_up = ((lens.centres[:, :1] - rows) / lens.focal).astype(np.float32)[:, :, None]
    slope_left = ((lens.centres[:, 1:] - columns) / lens.focal).astype(np.float32)[:, None, :]
    return Boxes(frame + rows[:, :, None] * lens.size[1] + columns[:, None, :], slope_left, slope_up)


def draw_parts(parts: Sequence[SeenPart], lens: Lens, lamp: Lamp) -> tuple[NDArray[np.intp], Floats]:
    """Flat positions `(K,)` in `(T, H, W)` of the pixels that show the figure, and their colors `(K, 3)`, 0 to 1."""
    shape = (len(lens.centres), *lens.size)
    depth = np.full(shape, NOTHING, dtype=np.float32).ravel()
    share = np.empty_like(depth)
    owner = np.empty(len(depth), dtype=np.uint8)
    for number, part in enumerate(parts):
        boxes = boxes_around(np.stack([part.start, part.start + part.along]), np.array(part.part.radii), lens)
        distance, place = _reach(part, boxes)
        met = np.flatnonzero(distance < NOTHING)
        where, found = boxes.where.ravel()[met], distance.ravel()[met]
        nearer = np.flatnonzero(found < depth[where])
        where = where[nearer]
        depth[where] = found[nearer]
        share[where] = place.ravel()[met[nearer]]
        owner[where] = number

    where = np.flatnonzero(depth < NOTHING)
    frame, row, column = np.unravel_index(where, shape)
    ray = np.ones((len(where), 3), dtype=np.float32)
    ray[:, 0] = (lens.centres[frame, 1] - column) / lens.focal
    ray[:, 1] = (lens.centres[frame, 0] - row) / lens.focal
    point = ray * depth[where, None]
    normal = _outward(parts, owner[where], frame, share[where], point)
    return where, _light(normal, _paint(parts, owner[where], share[where]), lamp)


def _reach(seen: SeenPart, boxes: Boxes) -> tuple[Floats, Floats]:
    """Depth at which the rays of the boxes meet the part (`NOTHING` where they miss), and the share of the way from
    its start to its end that the nearest sphere has, both `(T, h, w)`.
    """
    # Distances are measured from a plane just in front of the part: single precision is sufficient that way.
    base = np.minimum(seen.start[:, 2], seen.start[:, 2] + seen.along[:, 2]) - np.float32(max(seen.part.radii))
    start, along = _stretch(seen.start, seen), _stretch(seen.along, seen)
    rays = _rays(seen, boxes)
    offset = [base[:, None, None] * ray - start[:, axis, None, None] for axis, ray in enumerate(rays)]
    distance, share = _meet(rays, offset, along, seen.part.radii)
    distance += base[:, None, None]
    return distance, share


def _outward(
    parts: Sequence[SeenPart], owner: NDArray[np.uint8], frame: NDArray[np.intp], share: Floats, point: Floats
) -> Floats:
    """Unit normals `(K, 3)` of the parts `owner` at the camera-space points."""
    start = np.stack([part.start for part in parts])
    along = np.stack([part.along for part in parts])
    normal = point - start[owner, frame] - share[:, None] * along[owner, frame]
    for number, part in enumerate(parts):
        if part.axis is not None:
            # A squeezed sphere: the component along the axis is scaled by the square of the squeeze.
            mine = np.flatnonzero(owner == number)
            axis = part.axis[frame[mine]]
            inner = np.einsum("ki,ki->k", axis, normal[mine])[:, None]
            normal[mine] += np.float32(1 / part.part.thin**2 - 1) * inner * axis
    normal /= np.maximum(np.sqrt(np.einsum("ki,ki->k", normal, normal)), np.float32(1e-6))[:, None]
    return np.asarray(normal)


def _paint(parts: Sequence[SeenPart], owner: NDArray[np.uint8], share: Floats) -> Floats:
    """Colors of the cloth or skin `(K, 3)`, stripes included."""
    plain = np.array([part.part.colour for part in parts], dtype=np.float32)
    stripe = np.array([part.part.stripe or part.part.colour for part in parts], dtype=np.float32)
    number = np.array([part.part.num_stripes for part in parts], dtype=np.float32)
    striped = (share * number[owner]) % 1 > 0.5
    return np.where(striped[:, None], stripe[owner], plain[owner])


def _rays(seen: SeenPart, boxes: Boxes) -> list[Floats]:
    """The three components of the (stretched) rays, broadcastable to `(T, h, w)`; a unit is one meter of depth."""
    rays = [boxes.slope_left, boxes.slope_up, np.ones((1, 1, 1), dtype=np.float32)]
    if seen.axis is None:
        return rays
    axis = seen.axis[:, :, None, None]
    inner = axis[:, 0] * rays[0] + axis[:, 1] * rays[1] + axis[:, 2]
    inner *= np.float32(1 / seen.part.thin - 1)
    return [rays[index] + axis[:, index] * inner for index in range(3)]


def _stretch(vectors: Floats, seen: SeenPart) -> Floats:
    """Vectors `(T, 3)` in a space stretched along the part's axis, where a thin part is round."""
    if seen.axis is None:
        return vectors
    inner = np.sum(seen.axis * vectors, axis=1, keepdims=True)
    return np.asarray(vectors + np.float32(1 / seen.part.thin - 1) * inner * seen.axis)


def _meet(
    rays: Sequence[Floats], offset: Sequence[Floats], along: Floats, radii: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Where rays first meet a rounded cone: distance along the ray and share of the way from start to end.

    The cone is the union of spheres with center c(s) = s u and radius r(s) = ra - s (ra - rb), 0 <= s <= 1. For a
    point q the nearest surface has s = (q.u - ra (ra - rb)) / D with D = u.u - (ra - rb)^2; with q = o + x d that
    leaves one quadratic in x for the side, and one for each of the two end spheres.
    """
    first, last = np.float32(radii[0]), np.float32(radii[1])
    taper = first - last
    u = [along[:, axis, None, None] for axis in range(3)]
    uu = u[0] * u[0] + u[1] * u[1] + u[2] * u[2]
    # If one sphere is inside the other there is no side; a sliver keeps the arithmetic finite and is never hit.
    d = np.maximum(uu - taper * taper, np.float32(1e-7))
    rr = rays[0] * rays[0] + rays[1] * rays[1] + rays[2] * rays[2]
    ro = rays[0] * offset[0] + rays[1] * offset[1] + rays[2] * offset[2]
    oo = offset[0] * offset[0] + offset[1] * offset[1] + offset[2] * offset[2]
    ru = rays[0] * u[0] + rays[1] * u[1] + rays[2] * u[2]
    ou = offset[0] * u[0] + offset[1] * u[1] + offset[2] * u[2]

    best, share = _first_root(rr, ro, oo - first * first), np.zeros_like(oo)
    end = _first_root(rr, ro - ru, oo - 2 * ou + uu - last * last)
    np.copyto(share, 1, where=end < best)
    np.minimum(best, end, out=best)

    e = ou - first * taper
    side = _first_root(rr - ru * ru / d, ro - ru * e / d, oo - first * first - e * e / d)
    s = (e + side * ru) / d
    use = (s > 0) & (s < 1) & (side < best)
    np.copyto(best, side, where=use)
    np.copyto(share, s, where=use)
    return best, share


def _first_root(a: Floats, b: Floats, c: Floats) -> Floats:
    """The smaller root of a x^2 + 2 b x + c, or a huge number if there is none or a is not positive."""
    inside = b * b - a * c
    missing = (inside < 0) | (a <= 1e-6)
    np.copyto(inside, 0, where=missing)
    root = (-b - np.sqrt(inside)) / np.maximum(a, np.float32(1e-6))
    np.copyto(root, NOTHING, where=missing)
    return root


def _light(normal: Floats, albedo: Floats, lamp: Lamp) -> Floats:
    """Colors `(K, 3)`: half-wrapped diffuse light, stronger from above than from the floor, and a little gloss."""
    direct, ambient = lamp.direct.astype(np.float32), lamp.ambient.astype(np.float32)
    diffuse = np.clip((normal @ lamp.direction.astype(np.float32) + 0.25) / 1.25, 0, 1)
    above = 0.65 + 0.35 * (normal @ lamp.up.astype(np.float32))
    towards_us = np.clip(-normal[:, 2], 0, 1)
    half = lamp.direction - np.array([0, 0, 1.0])
    gloss = np.clip(normal @ (half / np.linalg.norm(half)).astype(np.float32), 0, 1)
    for _ in range(4):  # to the 16th power
        gloss *= gloss
    light = diffuse[:, None] * direct + (above * (0.7 + 0.3 * towards_us))[:, None] * ambient
    return np.asarray(np.clip(albedo * light + 0.08 * gloss[:, None] * direct, 0, 1))
