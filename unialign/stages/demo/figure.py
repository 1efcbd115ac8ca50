"""The shape of the figure: rounded cones between the joints, with radii and colors.

Legend: T frames. World space, meters.
"""

from dataclasses import dataclass

import numpy as np

from unialign.stages.demo.body import JOINT_INDEX, Floats, Posture, Proportions
from unialign.stages.demo.performers import Colour, Look


@dataclass(frozen=True)
class Part:
    """One rounded cone: all spheres between two.

    start, end: centers `(T, 3)`. radii: at the start and at the end. thin: factor on the extent along `axis (T, 3)` (1:
        round). stripe: color of the stripes across the part, `num_stripes` of them.
    """

    start: Floats
    end: Floats
    radii: tuple[float, float]
    colour: Colour
    thin: float = 1.0
    axis: Floats | None = None
    stripe: Colour | None = None
    num_stripes: int = 0
    casts_shadow: bool = True


def flesh_out(posture: Posture, proportions: Proportions, look: Look) -> list[Part]:
    """All parts of the dressed figure, in no particular order."""
    return [
        *_trunk(posture, proportions, look),
        *_head(posture, proportions, look),
        *(part for side in ("left", "right") for part in _arm(posture, proportions, look, side)),
        *(part for side in ("left", "right") for part in _leg(posture, proportions, look, side)),
    ]


def _joint(posture: Posture, name: str) -> Floats:
    return np.asarray(posture.joints[:, JOINT_INDEX[name]])


def _between(first: Floats, second: Floats, share: float) -> Floats:
    return np.asarray(first + share * (second - first))


def _trunk(posture: Posture, proportions: Proportions, look: Look) -> list[Part]:
    unit = proportions.height / 1.72
    thick = unit * (0.55 + 0.45 * proportions.bulk)
    wide = thick * (0.6 + 0.4 * proportions.shoulders)
    base, middle, top = (_joint(posture, name) for name in ("spine base", "spine middle", "spine shoulder"))
    front = posture.trunk[:, :, 2]
    chest = _between(middle, top, 0.62)
    left, right = _joint(posture, "left shoulder"), _joint(posture, "right shoulder")
    left_hip, right_hip = _joint(posture, "left hip"), _joint(posture, "right hip")
    nape = _between(_joint(posture, "neck"), _joint(posture, "head"), 0.3)
    belly, ribs, hips = 0.140 * thick, 0.162 * wide, 0.098 * thick
    return [
        Part(_between(base, middle, 0.15), middle, (0.150 * thick, belly), look.shirt, 0.70, front, look.stripe, 3),
        Part(middle, chest, (belly, ribs), look.shirt, 0.66, front, look.stripe, 3),
        Part(_between(left, right, 0.08), _between(left, right, 0.92), (0.066 * thick, 0.066 * thick), look.shirt),
        Part(
            _between(left_hip, right_hip, -0.12),
            _between(left_hip, right_hip, 1.12),
            (hips, hips),
            look.trousers,
            0.92,
            front,
        ),
        Part(top, nape, (0.058 * unit, 0.050 * unit), look.skin),
    ]


def _head(posture: Posture, proportions: Proportions, look: Look) -> list[Part]:
    unit = proportions.height / 1.72 * proportions.head
    centre = _joint(posture, "head")
    left, up, front = (posture.head[:, :, axis] for axis in range(3))

    def at(aside: float, above: float, before: float) -> Floats:
        return np.asarray(centre + unit * (aside * left + above * up + before * front))

    parts = [
        Part(at(0, -0.052, 0.024), at(0, 0.030, 0.006), (0.062 * unit, 0.088 * unit), look.skin, 0.86, left),
        Part(at(0, 0.040, -0.030), at(0, 0.060, 0.000), (0.090 * unit, 0.086 * unit), look.hair, 0.95, left),
        Part(at(0, -0.004, 0.092), at(0, -0.030, 0.102), (0.009 * unit, 0.014 * unit), look.skin, casts_shadow=False),
    ]
    if look.long_hair:
        parts.append(
            Part(at(0, 0.02, -0.055), at(0, -0.135, -0.070), (0.080 * unit, 0.055 * unit), look.hair, 0.9, left)
        )
    dark = (0.07, 0.05, 0.05)
    for aside in (-0.031, 0.031):
        eye = at(aside, 0.004, 0.082)
        parts.append(Part(eye, eye + 0.001 * up, (0.0095 * unit, 0.0095 * unit), dark, casts_shadow=False))
        ear = at(aside * 2.5, -0.012, 0.000)
        parts.append(Part(ear, ear + 0.02 * up, (0.016 * unit, 0.018 * unit), look.skin, casts_shadow=False))
    mouth = at(-0.016, -0.062, 0.080), at(0.016, -0.062, 0.080)
    parts.append(Part(*mouth, (0.008 * unit, 0.008 * unit), (0.50, 0.22, 0.20), casts_shadow=False))
    return parts


def _arm(posture: Posture, proportions: Proportions, look: Look, side: str) -> list[Part]:
    thick = proportions.height / 1.72 * (0.5 + 0.5 * proportions.bulk)
    shoulder, elbow, wrist, hand, tip, thumb = (
        _joint(posture, f"{side} {name}") for name in ("shoulder", "elbow", "wrist", "hand", "hand tip", "thumb")
    )
    fore = look.shirt if look.long_sleeves else look.skin
    cloth = 1.12 if look.long_sleeves else 1.0
    sleeve = _between(shoulder, elbow, 0.62)
    return [
        Part(shoulder, sleeve, (0.062 * thick, 0.052 * thick), look.shirt, stripe=look.stripe, num_stripes=2),
        Part(sleeve, elbow, (0.045 * thick * cloth, 0.040 * thick * cloth), fore),
        Part(elbow, wrist, (0.041 * thick * cloth, 0.029 * thick * cloth), fore),
        Part(wrist, hand, (0.027 * thick, 0.036 * thick), look.skin),
        Part(hand, _between(hand, tip, 0.85), (0.036 * thick, 0.018 * thick), look.skin),
        Part(_between(wrist, thumb, 0.3), thumb, (0.018 * thick, 0.013 * thick), look.skin, casts_shadow=False),
    ]


def _leg(posture: Posture, proportions: Proportions, look: Look, side: str) -> list[Part]:
    unit = proportions.height / 1.72
    thick = unit * (0.5 + 0.5 * proportions.bulk)
    hip, knee, ankle, foot = (_joint(posture, f"{side} {name}") for name in ("hip", "knee", "ankle", "foot"))
    shin = look.trousers if look.long_trousers else look.skin
    cloth = 1.14 if look.long_trousers else 1.0
    hem = _between(hip, knee, 0.7)
    heel = _between(ankle, foot, -0.15) - unit * np.array([0.0, 0.026, 0.0])
    return [
        Part(hip, hem, (0.096 * thick, (0.080 if look.long_trousers else 0.077) * thick), look.trousers),
        Part(hem, knee, (0.070 * thick * cloth, 0.060 * thick * cloth), shin),
        Part(knee, _between(knee, ankle, 0.35), (0.060 * thick * cloth, 0.059 * thick * cloth), shin),
        Part(_between(knee, ankle, 0.35), ankle, (0.059 * thick * cloth, 0.040 * thick * cloth), shin),
        Part(heel, foot, (0.042 * unit, 0.034 * unit), look.shoes),
        Part(ankle, foot, (0.045 * unit, 0.032 * unit), look.shoes),
    ]
