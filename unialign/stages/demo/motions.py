"""The classes of the rendered collection: names, descriptions, and the movement of each.

Classes of one group differ in one detail only: which limb, how far, or how often. Everything else (tempo, size, idle
sway, the other limbs) is drawn from the same distributions for all classes of a group.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unialign.stages.demo.body import Floats
from unialign.stages.demo.moves import Move, Style, bow, hop, kick, raise_arms, squat, turn, wave_hand


@dataclass(frozen=True)
class Action:
    """One class.

    name: as a person would say it. description: a sentence with the detail that distinguishes it in its group. seconds:
        its duration at a tempo of 1.
    """

    name: str
    description: str
    group: str
    seconds: float
    move: Move


ACTIONS = (
    Action(
        "raise the left arm",
        "A person lifts only the left arm up beside the head and lowers it again, the right arm stays down.",
        "which arm",
        1.55,
        raise_arms("left"),
    ),
    Action(
        "raise the right arm",
        "A person lifts only the right arm up beside the head and lowers it again, the left arm stays down.",
        "which arm",
        1.55,
        raise_arms("right"),
    ),
    Action(
        "raise both arms",
        "A person lifts the left and the right arm together up beside the head and lowers both again.",
        "which arm",
        1.55,
        raise_arms("left", "right"),
    ),
    Action(
        "wave the left hand",
        "A person holds the left hand up at head height and swings it from side to side, the right hand hangs still.",
        "which hand",
        1.85,
        wave_hand("left"),
    ),
    Action(
        "wave the right hand",
        "A person holds the right hand up at head height and swings it from side to side, the left hand hangs still.",
        "which hand",
        1.85,
        wave_hand("right"),
    ),
    Action(
        "squat halfway down",
        "A person bends the knees a little, arms held forward, the hips stay well above the knees, and stands up.",
        "how deep",
        1.5,
        squat(56),
    ),
    Action(
        "squat all the way down",
        "A person bends the knees fully, arms held forward, until the hips sink below the knees, and stands up.",
        "how deep",
        1.5,
        squat(128),
    ),
    Action(
        "hop once",
        "A person crouches and jumps up from both feet a single time, then lands and stands still.",
        "how often",
        1.1,
        hop(1),
    ),
    Action(
        "hop twice",
        "A person crouches and jumps up from both feet two times in a row, then lands and stands still.",
        "how often",
        1.8,
        hop(2),
    ),
    Action(
        "turn halfway around",
        "A person turns to the left in small steps by half a turn and ends facing the opposite way.",
        "how far",
        0.9,
        turn(180),
    ),
    Action(
        "turn all the way around",
        "A person turns to the left in small steps by a full turn and ends facing the same way as before.",
        "how far",
        1.8,
        turn(360),
    ),
    Action(
        "kick with the left leg",
        "A person stands on the right leg and swings the left leg up to the front.",
        "which leg",
        1.25,
        kick("left"),
    ),
    Action(
        "kick with the right leg",
        "A person stands on the left leg and swings the right leg up to the front.",
        "which leg",
        1.25,
        kick("right"),
    ),
    Action(
        "bow slightly",
        "A person tips the upper body forward a little, legs straight, still looking ahead, and comes up again.",
        "how low",
        1.55,
        bow(30),
    ),
    Action(
        "bow deeply",
        "A person tips the upper body far forward, legs straight, until the back is level, and comes up again.",
        "how low",
        1.55,
        bow(92),
    ),
)
CLASSES: tuple[str, ...] = tuple(action.name for action in ACTIONS)
DESCRIPTIONS: tuple[str, ...] = tuple(action.description for action in ACTIONS)


def perform(action: Action, time: Floats, style: Style, idle: Mapping[str, Floats]) -> dict[str, Floats]:
    """All angles `(T,)` of an action at `time`, on top of the performer's posture and the `idle` sway."""
    angles: dict[str, Floats] = {
        "left_raise": np.full_like(time, style.arms),
        "right_raise": np.full_like(time, style.arms),
        "left_elbow": np.full_like(time, 10.0),
        "right_elbow": np.full_like(time, 10.0),
        "left_side": np.full_like(time, style.stance),
        "right_side": np.full_like(time, style.stance),
    }
    for part in (action.move(time, style), idle):
        for name, values in part.items():
            angles[name] = angles[name] + values if name in angles else values
    return angles
