"""Where the track of a person is lost, and where it jumps, for drawing.

Legend: T frames, P persons, V joints.
"""

import numpy as np
from numpy.typing import NDArray

PRESENT, LOST, JUMP, ABSENT = "p", "-", "!", " "
# Frames are taken for a jump if the middle of the joints moves further than this, in sizes of the body.
FAR = 1.0


def track_states(joints: NDArray[np.floating]) -> list[str]:
    """For each person a string with one letter per frame: "p" present, "!" present after a jump, "-" lost, " " absent.

    joints (T, P, V, 2), NaN where unknown. Lost: without joints between frames that have some. Absent: before the first
    and after the last. A jump: the middle of the joints is more than one size of the body (the larger side of the
    median box) away from where it was in the last frame that had joints, per frame in between: another person may have
    taken the track over. Nobody has looked at the pictures for that; a cut or a fast move gives the same.
    """
    return [_states(joints[:, person]) for person in range(joints.shape[1])]


def held(joints: NDArray[np.floating]) -> NDArray[np.floating]:
    """The same joints with those of a lost person replaced by those of the last frame that had some, (T, P, V, 2)."""
    found = joints.copy()
    for person, states in enumerate(track_states(joints)):
        for frame, state in enumerate(states):
            if state == LOST:
                found[frame, person] = found[frame - 1, person]
    return found


def _states(joints: NDArray[np.floating]) -> str:
    known = np.isfinite(joints).all(axis=-1)  # (T, V)
    there = known.any(axis=1)
    places = np.flatnonzero(there)
    if not len(places):
        return ABSENT * len(joints)
    masked = np.where(known[..., None], joints, np.nan)
    centers = np.stack([np.nanmean(masked[place], axis=0) for place in places])
    sides = np.stack([np.nanmax(masked[place], axis=0) - np.nanmin(masked[place], axis=0) for place in places])
    size = max(float(np.median(sides.max(axis=1))), 1e-6)
    states = [ABSENT] * len(joints)
    for frame in range(places[0], places[-1] + 1):
        states[frame] = PRESENT if there[frame] else LOST
    for number in range(1, len(places)):
        gap = places[number] - places[number - 1]
        if float(np.linalg.norm(centers[number] - centers[number - 1])) > FAR * size * gap:
            states[places[number]] = JUMP
    return "".join(states)
