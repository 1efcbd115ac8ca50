"""Reading the `.skeleton` text files of NTU RGB+D (Kinect v2).

Legend: T frames, M bodies of the file, V joints (25).

The file: a line with the number of frames; per frame a line with the number of bodies; per body one line of 10 values
that begins with the body's id, a line with the number of joints, and 25 lines of 12 values (x y z in meters, depth x y,
color x y, orientation w x y z, tracking state).
Source: Matlab/read_skeleton_file.m of https://github.com/shahroudy/NTURGB-D.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unialign.errors import CorruptInput

NUM_JOINTS = 25
_BODY_VALUES = 10
_JOINT_VALUES = 12

# The largest files of NTU RGB+D 120 contain about 300 frames of 4 bodies; these bounds keep a malicious file from
# exhausting memory.
MAX_BYTES = 128 * 2**20
MAX_CELLS = 400_000


@dataclass(frozen=True, eq=False)
class SkeletonClip:
    """The content of a `.skeleton` file, one column per body id, in order of first appearance.

    keypoints: (T, M, V, 3) float32, meters in camera space; NaN if the body is absent and for joints whose position is
        not finite in the file.
    pixels: (T, M, V, 2) float32, x and y in the 1920 x 1080 color image; NaN likewise.
    joint_states: (T, M, V) int8: 0 not tracked, 1 inferred, 2 tracked; -1 if the body is absent.
    slots: (T, M) int16: the position of the body in the frame's list (some body rules use it); -1 if it is absent.
    body_ids: the M ids, integers of up to 64 bits.
    """

    keypoints: NDArray[np.float32]
    pixels: NDArray[np.float32]
    joint_states: NDArray[np.int8]
    slots: NDArray[np.int16]
    body_ids: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        """T, frames without bodies included."""
        return int(self.keypoints.shape[0])


@dataclass(frozen=True)
class _Record:
    """One body in one frame: where its joints start in the file."""

    frame: int
    slot: int
    body_id: int
    first_line: int


def read_skeleton(path: Path) -> SkeletonClip:
    """The clip of a `.skeleton` file.

    Raises `CorruptInput` naming the file and the line: status "truncated" if the file ends early, "unreadable" for any
    other deviation from the format above, including lines after the last frame.
    """
    lines = _read_lines(path)
    num_frames, records = _find_bodies(path, lines)
    columns: dict[int, int] = {}
    for record in records:
        columns.setdefault(record.body_id, len(columns))
    if num_frames * max(len(columns), 1) > MAX_CELLS:
        raise CorruptInput(
            f"{path}: {num_frames} frames of {len(columns)} bodies are more than a skeleton file may hold."
        )
    values = np.full((num_frames, len(columns), NUM_JOINTS, 5), np.nan, np.float32)
    states = np.full((num_frames, len(columns), NUM_JOINTS), -1, np.int8)
    slots = np.full((num_frames, len(columns)), -1, np.int16)
    for record in records:
        at = record.frame, columns[record.body_id]
        if slots[at] >= 0:
            raise _malformed(
                path, record.first_line - 2, f"repeats body id {record.body_id} within frame {record.frame}"
            )
        slots[at] = record.slot
        values[at], states[at] = _read_joints(path, lines, record.first_line)
    return SkeletonClip(values[..., :3].copy(), values[..., 3:].copy(), states, slots, tuple(columns))


def _read_lines(path: Path) -> list[str]:
    """The lines of the file without trailing blank ones."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CorruptInput(f"{path}: larger than {MAX_BYTES} bytes; this is no skeleton file.")
        text = path.read_bytes().decode("ascii")
    except OSError as error:
        raise CorruptInput(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise CorruptInput(f"{path}: is no skeleton file (byte {error.start} is not ASCII text).") from error
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _find_bodies(path: Path, lines: list[str]) -> tuple[int, list[_Record]]:
    """The number of frames, and every body of every frame in file order."""
    num_frames = _count(path, lines, 0, "number of frames")
    records = []
    at = 1
    for frame in range(num_frames):
        num_bodies = _count(path, lines, at, "number of bodies")
        at += 1
        for slot in range(num_bodies):
            body_id = _body_id(path, lines, at)
            if _count(path, lines, at + 1, "number of joints") != NUM_JOINTS:
                raise _malformed(path, at + 1, f"should say {NUM_JOINTS} joints")
            at += 2 + NUM_JOINTS
            if at > len(lines):
                raise _truncated(path, lines)
            records.append(_Record(frame, slot, body_id, at - NUM_JOINTS))
    if at < len(lines):
        raise _malformed(path, at, f"follows the last of {num_frames} frames")
    return num_frames, records


def _count(path: Path, lines: list[str], at: int, what: str) -> int:
    if at >= len(lines):
        raise _truncated(path, lines)
    text = lines[at].strip()
    # Nine digits are more than any real count; longer numbers indicate damage.
    if not text.isdigit() or len(text) > 9:
        raise _malformed(path, at, f"should be the {what}")
    return int(text)


def _body_id(path: Path, lines: list[str], at: int) -> int:
    if at >= len(lines):
        raise _truncated(path, lines)
    values = lines[at].split()
    if len(values) != _BODY_VALUES:
        if at == len(lines) - 1 and len(values) < _BODY_VALUES:
            raise _truncated(path, lines)
        raise _malformed(path, at, f"should have the {_BODY_VALUES} values of a body")
    # As a float, the id would lose its last digits, and two bodies could become one.
    if not values[0].isdigit() or len(values[0]) > 20:
        raise _malformed(path, at, "should begin with a body id, a whole number")
    return int(values[0])


def _read_joints(path: Path, lines: list[str], first: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Position and color pixel (V, 5), and tracking state (V,) of the 25 lines from `first`."""
    rows = []
    for at in range(first, first + NUM_JOINTS):
        values = lines[at].split()
        if len(values) != _JOINT_VALUES:
            if at == len(lines) - 1 and len(values) < _JOINT_VALUES:
                raise _truncated(path, lines)
            raise _malformed(path, at, f"should have the {_JOINT_VALUES} values of a joint")
        try:
            rows.append([float(value) for value in values])
        except ValueError:
            raise _malformed(path, at, "holds a value that is not a number") from None
        if rows[-1][11] not in {0.0, 1.0, 2.0}:
            raise _malformed(path, at, "should end with a tracking state of 0, 1 or 2")
    table = np.array(rows, np.float64)
    with np.errstate(over="ignore"):
        measured = table[:, [0, 1, 2, 5, 6]].astype(np.float32)
    measured[~np.isfinite(measured[:, :3]).all(axis=1), :3] = np.nan
    measured[~np.isfinite(measured[:, 3:]).all(axis=1), 3:] = np.nan
    return measured, table[:, 11].astype(np.int8)


def _malformed(path: Path, at: int, problem: str) -> CorruptInput:
    return CorruptInput(f"{path}: line {at + 1} {problem}; the file is damaged or no NTU skeleton file.")


def _truncated(path: Path, lines: list[str]) -> CorruptInput:
    return CorruptInput(f"{path}: ends early, at line {len(lines)}; fetch the file again.", status="truncated")
