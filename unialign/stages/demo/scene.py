"""One clip: a performance in front of a camera, as images and as a tracked skeleton.

Legend: T frames, V joints (25), H and W image height and width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unialign.stages.demo.backgrounds import draw_background
from unialign.stages.demo.body import Floats, Posture, place_body, turn_y
from unialign.stages.demo.camera import AZIMUTHS, Camera
from unialign.stages.demo.figure import Part, flesh_out
from unialign.stages.demo.motions import ACTIONS, perform
from unialign.stages.demo.performers import Performer, idle_sway, make_performer, vary_style
from unialign.stages.demo.shading import Lamp, Lens, SeenPart, draw_parts
from unialign.stages.demo.shadows import draw_shadows, fall

FPS = 15
SIZE = (112, 112)
# Rendered at twice the size and averaged, so that thin limbs have soft edges.
FINE = 2
MARGIN = 4  # fine pixels of background beyond the image, for camera jitter
SENSOR_NOISE = 0.006  # meters, standard deviation of a tracked joint along each axis


@dataclass(frozen=True)
class ClipKey:
    """What identifies a clip, with the letters of NTU RGB+D; numbers from 1."""

    camera: int
    performer: int
    replication: int
    action: int
    setup: int = 1

    @property
    def name(self) -> str:
        """`SsssCcccPpppRrrrAaaa`."""
        return f"S{self.setup:03d}C{self.camera:03d}P{self.performer:03d}R{self.replication:03d}A{self.action:03d}"


@dataclass(frozen=True)
class Take:
    """A performance in front of a camera, not yet rendered.

    posture: in world meters. noise_key: seeds of everything except the performance (background, light, noise).
    """

    posture: Posture
    camera: Camera
    performer: Performer
    noise_key: tuple[int, ...]


def stage_take(key: ClipKey, seed: int) -> Take:
    """The performance of that clip; a pure function of its arguments."""
    numbers = (seed, key.performer, key.camera, key.replication, key.action)
    random = np.random.default_rng([*numbers, 0])
    performer = make_performer(seed, key.performer)
    action = ACTIONS[key.action - 1]
    num_frames = int(random.integers(28, 37))
    clip_seconds = num_frames / FPS
    # Slow performers speed up if the clip would end before the action does.
    tempo = max(performer.tempo * random.uniform(0.93, 1.07), action.seconds / (clip_seconds - 0.15))
    slack = clip_seconds - action.seconds / tempo
    start = random.uniform(0.05, min(0.55, slack))
    seconds = np.arange(num_frames) / FPS
    angles = perform(
        action, (seconds - start) * tempo, vary_style(performer.style, random), idle_sway(seconds, performer, random)
    )
    angles["yaw"] = angles.get("yaw", np.zeros(num_frames)) + random.uniform(-14, 14)
    posture = place_body(angles, performer.proportions)
    place = np.array([random.uniform(-0.18, 0.18), 0.0, random.uniform(-0.25, 0.25)])
    posture = Posture(posture.joints + place, posture.trunk, posture.head)
    return Take(posture, _set_up_camera(key.camera, num_frames, random), performer, numbers)


def _set_up_camera(number: int, num_frames: int, random: np.random.Generator) -> Camera:
    distance = random.uniform(3.3, 3.9)
    shake = np.cumsum(random.normal(0, 0.3, (num_frames, 2)), axis=0)
    shake = np.clip(shake - shake.mean(axis=0), -MARGIN / FINE, MARGIN / FINE)
    return Camera(
        azimuth=AZIMUTHS[number - 1] + random.uniform(-6, 6),
        distance=distance,
        height=random.uniform(1.0, 1.6),
        aim=random.uniform(1.10, 1.16),
        roll=random.uniform(-2, 2),
        # The image shows about 2.5 m of height at the performer: raised hands stay inside.
        focal=SIZE[0] * distance / random.uniform(2.45, 2.6),
        size=SIZE,
        jitter=np.round(shake * FINE) / FINE,
    )


def render_take(take: Take) -> NDArray[np.uint8]:
    """The images of a take, `(T, H, W, 3)` RGB."""
    camera, random = take.camera, np.random.default_rng([*take.noise_key, 1])
    lamp, toward = _hang_lamp(camera, random)
    images, floor = _empty_scene(camera, lamp, random)
    parts = flesh_out(take.posture, take.performer.proportions, take.performer.look)

    # Soft shadows need no fine pixels.
    dark = draw_shadows(fall(parts, toward), Lens(camera.focal, camera.centres(), SIZE), camera)
    _darken(images, dark * floor * np.float32(0.75 * lamp.direct.mean() / (lamp.direct + lamp.ambient).mean()))

    # Pixel (i, j) of the image is the mean of fine pixels 2 i, 2 i + 1 and 2 j, 2 j + 1.
    fine = (SIZE[0] * FINE, SIZE[1] * FINE)
    lens = Lens(camera.focal * FINE, camera.centres() * FINE + (FINE - 1) / 2, fine)
    where, colours = draw_parts([_seen_from(camera, part) for part in parts], lens, lamp)
    _lay_over(images, where, colours, fine)
    return _expose(images, random)


def track_take(take: Take) -> tuple[Floats, Floats]:
    """Camera-space joints `(T, V, 3)` in meters as a depth sensor would report them, and their pixels `(T, V, 2)`.

    The pixels are columns and rows in the clip; integers are pixel centers.
    """
    random = np.random.default_rng([*take.noise_key, 2])
    exact = take.camera.to_camera(take.posture.joints)
    joints = exact + random.normal(0, SENSOR_NOISE, exact.shape)
    return joints, take.camera.project(joints)[..., ::-1]


def _hang_lamp(camera: Camera, random: np.random.Generator) -> tuple[Lamp, Floats]:
    """A lamp on the camera's side of the scene, and the world direction towards it."""
    aside = camera.azimuth + random.uniform(-70, 70)
    high = np.radians(random.uniform(40, 68))
    flat = turn_y(np.array([aside]))[0] @ np.array([0.0, 0.0, 1.0])
    toward = flat * np.cos(high) + np.array([0.0, np.sin(high), 0.0])
    warm = random.uniform(-0.07, 0.07)
    tint = np.array([1 + warm, 1.0, 1 - warm])
    share = random.uniform(0.45, 0.75)
    level = random.uniform(0.9, 1.2)
    rotation = camera.rotation
    direct, ambient = level * share * 1.25 * tint, level * (1 - share) * 1.05 / tint
    return Lamp(rotation @ toward, direct, ambient, rotation[:, 1]), toward


def _empty_scene(camera: Camera, lamp: Lamp, random: np.random.Generator) -> tuple[Floats, Floats]:
    """The background in every frame `(T, H, W, 3)`, and how much of each pixel is floor `(T, H, W)`, both 0..1."""
    height, width = (length * FINE + 2 * MARGIN for length in SIZE)
    up = ((height - 1) / 2 - np.arange(height)) / (camera.focal * FINE)
    left = ((width - 1) / 2 - np.arange(width)) / (camera.focal * FINE)
    slopes = np.broadcast_to(left[None, :], (height, width)), np.broadcast_to(up[:, None], (height, width))
    background, is_floor = draw_background(slopes, camera.rotation, camera.position, random)
    lit = background * (0.75 * lamp.direct + lamp.ambient)
    scene = np.concatenate([lit, is_floor[..., None]], axis=-1).astype(np.float32)
    mean = (scene[:-1, :-1] + scene[:-1, 1:] + scene[1:, :-1] + scene[1:, 1:]) / 4
    frames = []
    for down, right in np.rint(camera.jitter * FINE).astype(int):
        rows = slice(MARGIN - down, MARGIN - down + FINE * SIZE[0], FINE)
        columns = slice(MARGIN - right, MARGIN - right + FINE * SIZE[1], FINE)
        frames.append(mean[rows, columns])
    stacked = np.stack(frames)
    return np.ascontiguousarray(stacked[..., :3]), stacked[..., 3]


def _seen_from(camera: Camera, part: Part) -> SeenPart:
    start, end = camera.to_camera(part.start), camera.to_camera(part.end)
    axis = None if part.axis is None else (part.axis @ camera.rotation.T).astype(np.float32)
    return SeenPart(start.astype(np.float32), (end - start).astype(np.float32), axis, part)


def _lay_over(images: Floats, where: NDArray[np.intp], colours: Floats, fine: tuple[int, int]) -> None:
    """Adds the figure's fine pixels to the images in place, each with its share of a pixel."""
    frame, row, column = np.unravel_index(where, (len(images), *fine))
    pixel = (frame * SIZE[0] + row // FINE) * SIZE[1] + column // FINE
    count = np.bincount(pixel)
    touched = np.flatnonzero(count)
    sums = [np.bincount(pixel, colours[:, channel])[touched] for channel in range(3)]
    flat = images.reshape(-1, 3)
    free = 1 - count[touched] / FINE**2
    flat[touched] = flat[touched] * free[:, None] + np.stack(sums, axis=-1) / FINE**2


def _darken(images: Floats, loss: Floats) -> None:
    """Reduces the brightness of the images by the fraction `loss (T, H, W)`, in place."""
    touched = np.flatnonzero(loss)
    flat = images.reshape(-1, 3)
    flat[touched] *= (1 - loss.reshape(-1)[touched])[:, None]


def _expose(images: Floats, random: np.random.Generator) -> NDArray[np.uint8]:
    """The images as 8-bit values, with the contrast and the noise of a cheap camera."""
    gain, offset = np.float32(random.uniform(0.8, 1.05)), np.float32(random.uniform(-0.02, 0.05))
    noise = random.standard_normal(images.shape, dtype=np.float32)
    noise *= np.float32(random.uniform(0.012, 0.03))
    noise += images * gain + offset
    np.clip(noise, 0, 1, out=noise)
    return (noise * 255 + 0.5).astype(np.uint8)
