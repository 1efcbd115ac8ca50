"""The performers: body, clothes and manner of moving, all drawn from the seed and the performer's number."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unialign.stages.demo.body import Floats, Proportions
from unialign.stages.demo.moves import Style

Colour = tuple[float, float, float]

SKINS: tuple[Colour, ...] = ((0.91, 0.74, 0.62), (0.82, 0.62, 0.48), (0.66, 0.47, 0.35), (0.45, 0.31, 0.23))
HAIRS: tuple[Colour, ...] = ((0.10, 0.08, 0.07), (0.26, 0.17, 0.11), (0.52, 0.38, 0.20), (0.45, 0.43, 0.42))
SHIRTS: tuple[Colour, ...] = (
    (0.72, 0.16, 0.15),
    (0.16, 0.33, 0.62),
    (0.20, 0.46, 0.27),
    (0.86, 0.84, 0.80),
    (0.85, 0.65, 0.18),
    (0.35, 0.22, 0.44),
    (0.17, 0.19, 0.23),
    (0.48, 0.58, 0.64),
    (0.80, 0.47, 0.52),
)
TROUSERS: tuple[Colour, ...] = (
    (0.16, 0.20, 0.33),
    (0.12, 0.12, 0.13),
    (0.48, 0.42, 0.32),
    (0.36, 0.38, 0.40),
    (0.30, 0.22, 0.17),
    (0.70, 0.66, 0.58),
)
SHOES: tuple[Colour, ...] = ((0.08, 0.08, 0.09), (0.85, 0.85, 0.86), (0.42, 0.26, 0.16), (0.55, 0.12, 0.14))


@dataclass(frozen=True)
class Look:
    """The clothes of a performer. stripe: color of the shirt's stripes (the shirt's own color for a plain one)."""

    skin: Colour
    hair: Colour
    shirt: Colour
    stripe: Colour
    trousers: Colour
    shoes: Colour
    long_sleeves: bool
    long_trousers: bool
    long_hair: bool


@dataclass(frozen=True)
class Performer:
    """One person. tempo: factor on speed. slouch: degrees that the upper trunk hangs. sway: factor on idle movement."""

    proportions: Proportions
    look: Look
    style: Style
    tempo: float
    slouch: float
    sway: float


def make_performer(seed: int, performer: int) -> Performer:
    """The performer of that number; a pure function of its arguments."""
    random = np.random.default_rng([seed, performer])

    def factor(spread: float) -> float:
        return float(np.clip(random.normal(1, spread), 1 - 2 * spread, 1 + 2 * spread))

    proportions = Proportions(
        height=float(np.clip(random.normal(1.70, 0.10), 1.48, 1.92)),
        legs=factor(0.03),
        arms=factor(0.03),
        shoulders=factor(0.05),
        bulk=float(random.uniform(0.85, 1.25)),
        head=float(random.uniform(0.95, 1.08)),
    )
    style = Style(
        size=float(random.uniform(0.88, 1.08)),
        plane=float(random.uniform(5, 70)),
        bend=float(random.uniform(4, 24)),
        waves=float(random.uniform(1.9, 2.7)),
        hop=float(random.uniform(0.13, 0.22)),
        arms=float(random.uniform(6, 15)),
        stance=float(random.uniform(2, 7)),
    )
    return Performer(
        proportions,
        _dress(random),
        style,
        tempo=float(random.uniform(0.88, 1.15)),
        slouch=float(random.uniform(0, 9)),
        sway=float(random.uniform(0.5, 1.5)),
    )


def vary_style(style: Style, random: np.random.Generator) -> Style:
    """The same habits with small variations per clip, as nobody moves in exactly the same way twice."""
    return Style(
        size=style.size * float(random.uniform(0.95, 1.05)),
        plane=style.plane + float(random.uniform(-10, 10)),
        bend=max(0.0, style.bend + float(random.uniform(-6, 6))),
        waves=style.waves * float(random.uniform(0.93, 1.07)),
        hop=style.hop * float(random.uniform(0.9, 1.1)),
        arms=style.arms + float(random.uniform(-2, 2)),
        stance=style.stance + float(random.uniform(-1, 1)),
    )


def idle_sway(time: Floats, performer: Performer, random: np.random.Generator) -> dict[str, Floats]:
    """Small slow movements `(T,)` in degrees below every action: nobody stands perfectly still."""
    spans = {
        "yaw": 2.5,
        "lean": 1.2,
        "tilt": 1.2,
        "bend": 1.5,
        "nod": 3.0,
        "look": 8.0,
        "left_raise": 3.0,
        "right_raise": 3.0,
        "left_elbow": 6.0,
        "right_elbow": 6.0,
        "left_hip": 1.0,
        "right_hip": 1.0,
    }
    sway: dict[str, Floats] = {}
    for name, span in spans.items():
        slow, quick = random.uniform(0.15, 0.5), random.uniform(0.6, 1.2)
        first, second = random.uniform(0, 2 * np.pi, 2)
        wave = 0.7 * np.sin(2 * np.pi * slow * time + first) + 0.3 * np.sin(2 * np.pi * quick * time + second)
        sway[name] = performer.sway * span * wave
    sway["bend"] = sway["bend"] + performer.slouch
    sway["nod"] = sway["nod"] - 0.5 * performer.slouch
    return sway


def _dress(random: np.random.Generator) -> Look:
    def pick(colours: tuple[Colour, ...]) -> Colour:
        return _near(colours[int(random.integers(len(colours)))], random)

    shirt = pick(SHIRTS)
    stripe = pick(SHIRTS) if random.random() < 0.35 else shirt
    return Look(
        skin=pick(SKINS),
        hair=pick(HAIRS),
        shirt=shirt,
        stripe=stripe,
        trousers=pick(TROUSERS),
        shoes=pick(SHOES),
        long_sleeves=bool(random.random() < 0.5),
        long_trousers=bool(random.random() < 0.75),
        long_hair=bool(random.random() < 0.4),
    )


def _near(colour: Colour, random: np.random.Generator) -> Colour:
    shifted: NDArray[np.floating] = np.clip(np.array(colour) + random.uniform(-0.05, 0.05, 3), 0.03, 0.97)
    return float(shifted[0]), float(shifted[1]), float(shifted[2])
