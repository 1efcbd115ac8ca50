"""The backgrounds: a floor and a wall with objects in front of it, ray-traced with simple textures.

Legend: H and W height and width of the image. Wall coordinates: across (meters to the right) and up (meters).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unialign.stages.demo.body import Floats

Texture = Callable[[Floats, Floats, np.random.Generator], Floats]


def blotches(first: Floats, second: Floats, scale: float, random: np.random.Generator) -> Floats:
    """Smooth noise in -1..1 over two coordinates; `scale` is the feature size in meters."""
    grid = random.uniform(-1, 1, (32, 32))
    a, b = first / scale, second / scale
    row, column = np.floor(a).astype(int), np.floor(b).astype(int)
    down, right = a - row, b - column
    down, right = down * down * (3 - 2 * down), right * right * (3 - 2 * right)
    row, column = row % 32, column % 32
    below, beside = (row + 1) % 32, (column + 1) % 32
    upper = grid[row, column] * (1 - right) + grid[row, beside] * right
    lower = grid[below, column] * (1 - right) + grid[below, beside] * right
    return np.asarray(upper * (1 - down) + lower * down)


def draw_background(
    slopes: tuple[Floats, Floats], rotation: Floats, position: Floats, random: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """The empty scene `(H, W, 3)` in 0..1 and its floor mask `(H, W)`.

    slopes: of the ray of every pixel `(H, W)`, to the left and up. rotation, position: of the camera in the world.
    """
    names = sorted(PLACES)
    floor_texture, wall_texture = PLACES[names[int(random.integers(len(names)))]]
    left, up = slopes
    rays = np.stack([left, up, np.ones_like(left)], axis=-1) @ rotation
    forward = rotation[2] * np.array([1.0, 0.0, 1.0])
    forward /= np.linalg.norm(forward)
    skew = np.radians(random.uniform(-22, 22))
    facing = forward * np.cos(skew) + np.array([forward[2], 0.0, -forward[0]]) * np.sin(skew)
    along = np.array([-facing[2], 0.0, facing[0]])
    behind = random.uniform(1.3, 3.2)

    to_wall = (behind - position @ facing) / np.maximum(rays @ facing, 1e-6)
    is_floor = position[1] + to_wall * rays[..., 1] < 0
    scene = np.empty((*is_floor.shape, 3))
    on_wall = position + to_wall[~is_floor][:, None] * rays[~is_floor]
    wall = wall_texture(on_wall @ along + random.uniform(-3, 3), on_wall[:, 1], random)
    # The base of a wall is darker: little light reaches it.
    scene[~is_floor] = wall * (1 - 0.25 * np.exp(-on_wall[:, 1:2] / 0.15))
    on_floor = position - (position[1] / rays[is_floor][:, 1:2]) * rays[is_floor]
    scene[is_floor] = floor_texture(on_floor @ along, on_floor @ facing, random)
    return np.clip(scene, 0, 1), is_floor


def _paint(shape: tuple[int, ...], colour: Floats) -> Floats:
    return np.broadcast_to(colour, (*shape, 3)).copy()


def _tint(random: np.random.Generator, low: float, high: float, spread: float = 0.08) -> Floats:
    return np.clip(random.uniform(low, high) + random.uniform(-spread, spread, 3), 0, 1)


def _planks(across: Floats, ahead: Floats, random: np.random.Generator) -> Floats:
    width = random.uniform(0.12, 0.25)
    number = np.floor(across / width)
    tone = np.modf(np.abs(np.sin(number * 12.9898) * 43758.5453))[0] - 0.5
    grain = blotches(across, ahead / 8, 0.03, random)
    wood = np.array([0.58, 0.42, 0.28]) * random.uniform(0.7, 1.15)
    gap = (across / width - number) < 0.06
    return np.asarray(wood * (1 + 0.22 * tone + 0.06 * grain - 0.35 * gap)[..., None])


def _tiles(across: Floats, ahead: Floats, random: np.random.Generator) -> Floats:
    width = random.uniform(0.3, 0.6)
    first, second = _tint(random, 0.55, 0.8, 0.04), _tint(random, 0.3, 0.7, 0.06)
    odd = (np.floor(across / width) + np.floor(ahead / width)) % 2 == 0
    gap = ((across / width) % 1 < 0.05) | ((ahead / width) % 1 < 0.05)
    return np.asarray(np.where(odd[..., None], first, second) * (1 - 0.3 * gap[..., None]))


def _carpet(across: Floats, ahead: Floats, random: np.random.Generator) -> Floats:
    base = _tint(random, 0.25, 0.55, 0.12)
    speckle = blotches(across, ahead, 0.04, random) + 0.6 * blotches(across, ahead, 0.7, random)
    return base * (1 + 0.12 * speckle)[..., None]


def _grass(across: Floats, ahead: Floats, random: np.random.Generator) -> Floats:
    base = np.array([0.30, 0.45, 0.18]) * random.uniform(0.8, 1.15)
    blades = blotches(across, ahead, 0.06, random) + blotches(across, ahead, 0.5, random)
    return base * (1 + 0.2 * blades)[..., None]


def _court(across: Floats, ahead: Floats, random: np.random.Generator) -> Floats:
    floor = _planks(across, ahead, random)
    lines = (np.abs(across - random.uniform(-1, 1)) < 0.03) | (np.abs(ahead - random.uniform(-1, 1)) < 0.03)
    ring = np.abs(np.hypot(across, ahead) - random.uniform(0.9, 1.6)) < 0.03
    floor[lines] = _tint(random, 0.6, 0.9, 0.2)
    floor[ring] = _tint(random, 0.4, 0.9, 0.3)
    return floor


def _rectangle(across: Floats, up: Floats, box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    left, bottom, width, height = box
    return (across > left) & (across < left + width) & (up > bottom) & (up < bottom + height)


def _room(across: Floats, up: Floats, random: np.random.Generator) -> Floats:
    wall = _paint(across.shape, _tint(random, 0.5, 0.85)) * (1 + 0.04 * blotches(across, up, 0.5, random))[..., None]
    wall[up < 0.1] = _tint(random, 0.3, 0.9)
    start = -6.0
    while start < 6:
        width = random.uniform(0.4, 1.1)
        kind = random.integers(4)
        if kind == 0:  # a door
            wall[_rectangle(across, up, (start, 0, 0.9, 2.05))] = _tint(random, 0.25, 0.6)
            wall[_rectangle(across, up, (start + 0.75, 0.95, 0.08, 0.06))] = 0.8
        elif kind == 1:  # a window
            wall[_rectangle(across, up, (start - 0.06, 0.84, width + 0.12, 1.22))] = 0.9
            wall[_rectangle(across, up, (start, 0.9, width, 1.1))] = np.array([0.62, 0.76, 0.9])
            wall[_rectangle(across, up, (start + width / 2 - 0.02, 0.9, 0.04, 1.1))] = 0.9
        elif kind == 2:  # a framed picture
            bottom = random.uniform(1.1, 1.7)
            wall[_rectangle(across, up, (start, bottom, width * 0.7, 0.5))] = 0.15
            wall[_rectangle(across, up, (start + 0.04, bottom + 0.04, width * 0.7 - 0.08, 0.42))] = _tint(
                random, 0.2, 0.8, 0.3
            )
        else:  # a cupboard
            wall[_rectangle(across, up, (start, 0, width, random.uniform(0.6, 1.7)))] = _tint(random, 0.2, 0.5, 0.1)
        start += width + random.uniform(0.3, 1.2)
    return wall


def _bricks(across: Floats, up: Floats, random: np.random.Generator) -> Floats:
    course = np.floor(up / 0.14)
    shifted = across / 0.36 + 0.5 * (course % 2)
    tone = np.modf(np.abs(np.sin(course * 78.233 + np.floor(shifted) * 12.9898) * 43758.5453))[0] - 0.5
    mortar = ((up / 0.14) % 1 < 0.12) | (shifted % 1 < 0.06)
    brick = np.array([0.56, 0.30, 0.23]) * random.uniform(0.7, 1.2)
    return np.where(mortar[..., None], 0.62, brick * (1 + 0.4 * tone)[..., None])


def _park(across: Floats, up: Floats, random: np.random.Generator) -> Floats:
    sky = np.array([0.60, 0.74, 0.90]) + 0.06 * np.clip(up, 0, 4)[..., None] * np.array([-1.0, -0.6, 0.2])
    cloud = np.clip(blotches(across, up * 2, 1.6, random), 0, 1)[..., None]
    image = np.asarray(sky * (1 - 0.5 * cloud) + 0.5 * cloud * 0.96)
    hedge = up < 0.8 + 0.35 * blotches(across, np.zeros_like(up), 0.4, random)
    leaves = 1 + 0.4 * blotches(across, up, 0.08, random)[..., None]
    image[hedge] = (np.array([0.20, 0.34, 0.15]) * leaves)[hedge]
    for _ in range(4):
        middle, crown = random.uniform(-4, 4), random.uniform(1.6, 2.6)
        image[_rectangle(across, up, (middle - 0.09, 0, 0.18, crown))] = np.array([0.30, 0.22, 0.15])
        round_crown = np.hypot(across - middle, (up - crown) * 1.2) < 0.7 + 0.2 * blotches(across, up, 0.2, random)
        image[round_crown] = (np.array([0.25, 0.42, 0.17]) * leaves)[round_crown]
    return image


def _gym(across: Floats, up: Floats, random: np.random.Generator) -> Floats:
    wall = _paint(across.shape, _tint(random, 0.6, 0.85, 0.05))
    wall[up < random.uniform(0.9, 1.5)] = _tint(random, 0.25, 0.6, 0.2)
    bars = random.uniform(-2, 1)
    frame = _rectangle(across, up, (bars, 0, 1.6, 2.6))
    rungs = frame & ((up % 0.22 < 0.05) | ((across - bars) % 0.78 < 0.06))
    wall[rungs] = np.array([0.55, 0.38, 0.22])
    wall[_rectangle(across, up, (random.uniform(-3, 3), 0, 1.2, 0.5))] = _tint(random, 0.2, 0.6, 0.25)
    return wall


def _shelves(across: Floats, up: Floats, random: np.random.Generator) -> Floats:
    board = 0.36
    level = np.floor(up / board)
    width = 0.07
    book = np.floor(across / width + level * 7.3)
    hues = [np.modf(np.abs(np.sin(book * (12.9 + 7 * index) + level * 78.2) * 43758.5))[0] for index in range(3)]
    shade = 0.2 + 0.3 * np.stack(hues, axis=-1)
    tall = (up / board) % 1 < 0.62 + 0.25 * hues[0]
    image = np.where(tall[..., None], shade * 0.8 + 0.08, 0.10)
    image[(up / board) % 1 < 0.09] = np.array([0.45, 0.33, 0.22])
    return np.where((up < 2.2)[..., None], image, _tint(random, 0.6, 0.8))


def _curtain(across: Floats, up: Floats, random: np.random.Generator) -> Floats:
    folds = np.sin(2 * np.pi * across / random.uniform(0.2, 0.4) + blotches(across, up, 0.8, random))
    return _tint(random, 0.25, 0.6, 0.2) * (1 + 0.25 * folds)[..., None]


PLACES: dict[str, tuple[Texture, Texture]] = {
    "room with planks": (_planks, _room),
    "room with tiles": (_tiles, _room),
    "yard": (_tiles, _bricks),
    "park": (_grass, _park),
    "gym": (_court, _gym),
    "library": (_carpet, _shelves),
    "stage": (_planks, _curtain),
    "office": (_carpet, _room),
}
