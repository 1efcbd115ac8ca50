"""Movements of the figure: functions of time that give the angles of its joints.

Legend: T frames. Times are `(T,)` in seconds at a tempo of 1, angles in degrees (names: `body.ANGLES`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unialign.stages.demo.body import Floats

GRAVITY = 9.81  # m/s^2


@dataclass(frozen=True)
class Style:
    """How one performer moves; the values drawn for one clip.

    size: factor on the range of a movement. plane: direction of a raised arm, 0 sideways to 90 forward. bend: elbow of
        a raised arm. waves: swings of a waving hand per second. hop: height in meters. arms: how far the arms hang from
        the body. stance: legs outwards.
    """

    size: float = 1.0
    plane: float = 30.0
    bend: float = 10.0
    waves: float = 2.4
    hop: float = 0.18
    arms: float = 9.0
    stance: float = 4.0


Move = Callable[[Floats, Style], dict[str, Floats]]


def ease(time: Floats, start: float, seconds: float) -> Floats:
    """0 before `start`, 1 after `start + seconds`, and the smoothest path in between: the minimum-jerk polynomial.

    Source: Flash and Hogan, The coordination of arm movements, Journal of Neuroscience 5 (1985), equation for a
    movement between two points.
    """
    share = np.clip((time - start) / seconds, 0, 1)
    return np.asarray(share**3 * (10 - 15 * share + 6 * share**2))


def there_and_back(time: Floats, start: float, out: float, hold: float, back: float) -> Floats:
    """From 0 to 1 within `out` seconds, `hold` there, and to 0 again within `back` seconds."""
    return ease(time, start, out) - ease(time, start + out + hold, back)


def raise_arms(*sides: str) -> Move:
    """The arms of `sides` rise next to the head and are lowered again."""

    def move(time: Floats, style: Style) -> dict[str, Floats]:
        up = there_and_back(time, 0.0, 0.65, 0.25, 0.65)
        angles: dict[str, Floats] = {"nod": -5 * up}
        for side in sides:
            angles[f"{side}_raise"] = up * min(172.0, 158 * style.size)
            angles[f"{side}_plane"] = np.full_like(time, style.plane)
            angles[f"{side}_elbow"] = style.bend * up + 12 * np.sin(np.pi * up)
        if len(sides) == 1:
            angles["tilt"] = (-3.0 if sides[0] == "left" else 3.0) * up
        return angles

    return move


def wave_hand(side: str) -> Move:
    """The hand of `side` rises next to the head, swings from side to side, and is lowered again."""

    def move(time: Floats, style: Style) -> dict[str, Floats]:
        up = there_and_back(time, 0.0, 0.45, 0.95, 0.45)
        swinging = there_and_back(time, 0.3, 0.2, 0.85, 0.2)
        swing = swinging * np.sin(2 * np.pi * style.waves * (time - 0.3))
        return {
            f"{side}_raise": up * (62 + 10 * style.size) + 5 * swing,
            f"{side}_plane": np.full_like(time, 12.0),
            f"{side}_twist": up * 82,
            f"{side}_elbow": up * 88 + 33 * style.size * swing,
            "tilt": (-2.0 if side == "left" else 2.0) * up,
        }

    return move


def squat(knee: float) -> Move:
    """A squat until the knees are bent by `knee` degrees, arms to the front, and up again."""

    def move(time: Floats, style: Style) -> dict[str, Floats]:
        down = there_and_back(time, 0.0, 0.7, 0.15, 0.65)
        bend = down * knee * (0.9 + 0.1 * style.size)
        angles: dict[str, Floats] = {"lean": 0.30 * bend, "nod": -0.14 * bend}
        for side in ("left", "right"):
            angles[f"{side}_hip"] = 0.72 * bend
            angles[f"{side}_knee"] = bend
            angles[f"{side}_side"] = 0.10 * bend
            angles[f"{side}_raise"] = 68 * style.size * down
            angles[f"{side}_plane"] = np.full_like(time, 82.0)
            angles[f"{side}_elbow"] = 14 * down
        return angles

    return move


def hop(times: int) -> Move:
    """A crouch and `times` jumps on the spot with both feet."""

    def move(time: Floats, style: Style) -> dict[str, Floats]:
        flight = float(np.sqrt(8 * style.hop / GRAVITY))
        air = np.zeros_like(time)
        crouch = np.zeros_like(time)
        for number in range(times):
            take_off = 0.32 + number * (flight + 0.30)
            share = np.clip((time - take_off) / flight, 0, 1)
            air += 4 * style.hop * share * (1 - share)
            crouch += there_and_back(time, take_off - 0.32 if number == 0 else take_off - 0.30, 0.19, 0.0, 0.13)
        landing = 0.32 + times * flight + (times - 1) * 0.30
        crouch += there_and_back(time, landing, 0.13, 0.0, 0.25)
        aloft = np.clip(air / style.hop, 0, 1)
        angles: dict[str, Floats] = {"air": air, "lean": 16 * crouch, "nod": -6 * crouch}
        for side in ("left", "right"):
            angles[f"{side}_hip"] = 38 * crouch * style.size + 6 * aloft
            angles[f"{side}_knee"] = 64 * crouch * style.size + 12 * aloft
            angles[f"{side}_toe"] = -28 * aloft
            angles[f"{side}_raise"] = 34 * aloft * style.size - 16 * crouch
            angles[f"{side}_plane"] = np.full_like(time, 75.0)
            angles[f"{side}_elbow"] = 30 * crouch + 38 * aloft
        return angles

    return move


def turn(degrees: float) -> Move:
    """Steps on the spot, to the left, until the body has turned by `degrees`."""
    seconds = degrees / 200

    def move(time: Floats, style: Style) -> dict[str, Floats]:
        share = np.clip(time / seconds, 0, 1)
        # A person starts and stops smoothly but turns at a constant speed in between.
        turned = 0.5 * share + 0.5 * ease(time, 0.0, seconds)
        moving = there_and_back(time, 0.0, 0.2, seconds - 0.4, 0.2)
        step = np.sin(2 * np.pi * turned * degrees / 150) * moving
        angles: dict[str, Floats] = {"yaw": degrees * turned, "look": 14 * moving, "tilt": 1.5 * moving}
        for side, lifted in (("left", np.maximum(step, 0)), ("right", np.maximum(-step, 0))):
            angles[f"{side}_hip"] = 22 * lifted * style.size
            angles[f"{side}_knee"] = 40 * lifted * style.size
            angles[f"{side}_elbow"] = 14 * moving
        angles["left_raise"] = 8 * moving
        angles["right_raise"] = 12 * moving
        return angles

    return move


def kick(side: str) -> Move:
    """The leg of `side` swings up to the front while the other carries the weight."""
    other = "right" if side == "left" else "left"

    def move(time: Floats, style: Style) -> dict[str, Floats]:
        whole = there_and_back(time, 0.0, 0.3, 0.6, 0.35)
        drawn = there_and_back(time, 0.0, 0.28, 0.0, 0.26)
        high = there_and_back(time, 0.28, 0.27, 0.08, 0.5)
        sign = 1.0 if side == "left" else -1.0
        return {
            "weight": -0.5 * sign * ease(time, -0.2, 0.2),
            "tilt": -3.0 * sign * whole,
            "lean": -9 * high + 3 * drawn,
            f"{side}_hip": 78 * high * style.size - 18 * drawn,
            f"{side}_knee": 46 * drawn + 8 * high,
            f"{side}_toe": 55 * high - 18 * drawn,
            f"{other}_hip": 5 * whole,
            f"{other}_knee": 9 * whole,
            f"{side}_raise": 24 * whole,
            f"{other}_raise": 30 * whole,
            f"{other}_plane": 70 * whole,
            f"{other}_elbow": 28 * whole,
            f"{side}_elbow": 20 * whole,
        }

    return move


def bow(degrees: float) -> Move:
    """The trunk bends to the front by `degrees`, legs straight, and up again."""

    def move(time: Floats, style: Style) -> dict[str, Floats]:
        down = there_and_back(time, 0.0, 0.65, 0.25, 0.65) * degrees * (0.7 + 0.3 * style.size)
        return {
            "lean": 0.68 * down,
            "bend": 0.32 * down,
            "nod": 0.20 * down,
            "left_hip": -0.10 * down,
            "right_hip": -0.10 * down,
            "left_plane": np.full_like(down, 80.0),
            "right_plane": np.full_like(down, 80.0),
        }

    return move
