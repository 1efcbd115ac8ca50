"""Skeletons as other programs write them, one clip per file or folder: OpenPose, AlphaPose, MediaPipe, ST-GCN, CSV.

Legend: T frames, M persons, V joints.

Persons keep the places that the file gives them: by its tracking id where there is one, else by their order in each
frame. Joints with a score of 0 and numbers that are not finite are absent (NaN).
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

import numpy as np

from unialign.cache.bounded import parse_json, read_plain
from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.absent_joints import is_centered, zeros_for_absent
from unialign.stages.datasets.labels_csv import read_rows, separator_in
from unialign.stages.datasets.skeleton_formats import METRE, PIXEL, KeypointClip
from unialign.stages.frame_files import is_keypoint_frame, keypoint_frames
from unialign.stages.skeleton_layouts import LAYOUTS, MAX_JOINTS
from unialign.types import Json

MAX_BYTES, MAX_FRAMES, MAX_PEOPLE, MAX_SIDE = 2**28, 216_000, 64, 100_000
# Numbers of a clip: two hours of ten persons.
MAX_NUMBERS = 2**27
# Largest coordinate: pixels far outside of the largest image.
MOST = 10 * MAX_SIDE
# The image that the keypoints of Kinetics-skeleton are fractions of (yysijie/st-gcn).
KINETICS_IMAGE = (256, 340)
_Path = TypeVar("_Path", bound=PurePath)
_COLUMN = re.compile(r"(.+?)[_ .](x|y|z|score|confidence|visibility|likelihood)")
_SCORES = ("score", "confidence", "visibility", "likelihood")

# The persons of a frame by their place, each (V, 3): x, y in pixels and score, or x, y, z in meters.
Frame = Mapping[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class Parsed:
    """A clip as read. frames: see `Frame`. unit: "pixel" or "metre". size: height and width, None if not stated."""

    frames: Sequence[Frame]
    unit: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class KeypointFormat:
    """One format. clip_at: (file) -> the file or folder that is a clip, None for a file of something else."""

    title: str
    clip_at: Callable[[PurePath], PurePath | None]
    parse: Callable[[Path], Parsed]


def parse_openpose(folder: Path) -> Parsed:
    """A folder of `<clip>_000000000000_keypoints.json`, one file per frame: `{"people": [{"pose_keypoints_2d"}]}`.

    Raises `CorruptInput` naming the file and field for anything else, for missing frames, and for coordinates from -1
    to 1 (`--keypoint_scale`), whose image is not known.
    """
    frames = []
    for path in keypoint_frames(folder):
        content = _json(path, f"{folder}: {path.name}")
        people = content.get("people") if isinstance(content, dict) else None
        if not isinstance(people, list):
            raise CorruptInput(f"{folder}: {path.name} has no list 'people'; it is no file of OpenPose.")
        where = f"{folder}: {path.name}, pose_keypoints_2d"
        frames.append(
            {
                place: _triples(person.get("pose_keypoints_2d") if isinstance(person, dict) else None, where)
                for place, person in enumerate(people)
            }
        )
    largest = max((np.abs(each[:, :2]).max() for frame in frames for each in frame.values()), default=0)
    if 0 < largest <= 1:
        raise CorruptInput(
            f"{folder}: keypoints up to {largest:.3g} are no pixels; run OpenPose with --keypoint_scale 0."
        )
    return Parsed(frames, PIXEL)


def parse_json_clip(path: Path) -> Parsed:
    """A JSON file of one clip, by its content: AlphaPose, Kinetics-skeleton (ST-GCN), or landmarks of MediaPipe.

    Raises `CorruptInput` naming the file and field for anything else.
    """
    content = _json(path, str(path))
    if content == []:
        raise CorruptInput(f"{path}: holds no detections.", "no-person")
    if isinstance(content, list) and isinstance(content[0], dict) and "image_id" in content[0]:
        return _alphapose(path, content)
    if isinstance(content, dict) and "data" in content:
        return _kinetics(path, content["data"])
    if isinstance(content, list) or (isinstance(content, dict) and "frames" in content):
        return _mediapipe(path, content if isinstance(content, dict) else {"frames": content})
    raise CorruptInput(
        f"{path}: is no clip of AlphaPose ('image_id'), ST-GCN ('data') or MediaPipe ('frames'); see docs/datasets.md."
    )


def _alphapose(path: Path, detections: list[Json]) -> Parsed:
    """`[{"image_id": "12.jpg", "keypoints": [x, y, score, ...], "idx": 1}]`, one entry per person and frame."""
    found: dict[int, dict[int, np.ndarray]] = {}
    for number, each in enumerate(detections):
        where = f"{path}: entry {number}"
        digits = re.findall(r"\d{1,9}", str(each.get("image_id"))) if isinstance(each, dict) else []
        if not digits:
            raise CorruptInput(f"{where} has no frame number in 'image_id'.")
        frame = found.setdefault(int(digits[-1]), {})
        person = each.get("idx", len(frame))
        while isinstance(person, list) and len(person) == 1:
            (person,) = person
        if type(person) not in (int, float) or not abs(person) < 10**9 or person != int(person):
            raise CorruptInput(f"{where} has 'idx' {str(person)[:40]!r}, which is no number of a person.")
        if int(person) in frame:
            raise CorruptInput(f"{where}: person {int(person)} is twice in one frame.")
        frame[int(person)] = _triples(each.get("keypoints"), f"{where}, keypoints")
    first, last = min(found), max(found)
    _check_count(path, last - first + 1)
    known = sorted({person for frame in found.values() for person in frame})
    place = {person: at for at, person in enumerate(known)}
    frames = [{place[person]: joints for person, joints in found.get(at, {}).items()} for at in range(first, last + 1)]
    return Parsed(frames, PIXEL)


def _kinetics(path: Path, data: Json) -> Parsed:
    """`[{"frame_index": 1, "skeleton": [{"pose": [x, y, ...], "score": [...]}]}]`: fractions of the image."""
    frames: dict[int, Frame] = {}
    for each in data if isinstance(data, list) else [None]:
        index = each.get("frame_index") if isinstance(each, dict) else None
        people = each.get("skeleton") if isinstance(each, dict) else None
        if type(index) is not int or not 0 < index <= MAX_FRAMES or not isinstance(people, list):
            raise CorruptInput(f"{path}: 'data' is no list of 'frame_index' from 1 and 'skeleton'.")
        frame = {}
        for place, person in enumerate(people):
            where = f"{path}: frame {index}, person {place}"
            pose = _numbers(person.get("pose") if isinstance(person, dict) else None, f"{where}, pose")
            score = _numbers(person.get("score") if isinstance(person, dict) else None, f"{where}, score")
            if len(pose) != 2 * len(score):
                raise CorruptInput(f"{where}: {len(pose)} numbers of 'pose' do not fit {len(score)} of 'score'.")
            height, width = KINETICS_IMAGE
            frame[place] = np.column_stack([pose[0::2] * width, pose[1::2] * height, score])
        if index in frames:
            raise CorruptInput(f"{path}: frame {index} is there twice.")
        frames[index] = frame
    if not frames:
        raise CorruptInput(f"{path}: has no frames.", "no-person")
    return Parsed([frames.get(at, {}) for at in range(1, max(frames) + 1)], PIXEL, KINETICS_IMAGE)


def _mediapipe(path: Path, content: Mapping[str, Json]) -> Parsed:
    """`{"width", "height", "frames": [{"pose_landmarks": [...]}, null, ...]}`: pixels where the image size is stated.

    Without it `pose_world_landmarks`, in meters. A frame may also be the list of landmarks itself; landmarks are
    objects with x, y, z and visibility, of one person or, in a list of lists, of several.
    """
    size = _image_size(path, content)
    unit = METRE if size is None else PIXEL
    field = "pose_world_landmarks" if size is None else "pose_landmarks"
    entries = content["frames"]
    if not isinstance(entries, list) or not entries:
        raise CorruptInput(f"{path}: 'frames' is no list with an entry for each frame.")
    _check_count(path, len(entries))
    frames = []
    for number, entry in enumerate(entries):
        where = f"{path}: frame {number}, {field}"
        if isinstance(entry, list) and size is None and entry:
            raise CorruptInput(f"{path}: has no 'width' and 'height' of the image; landmarks are fractions of it.")
        found = entry.get(field) if isinstance(entry, dict) else entry
        people = [] if not found else found if isinstance(found, list) else [found]
        if people and isinstance(people[0], dict) and "x" in people[0]:
            people = [people]
        frames.append({place: _landmarks(person, size, where) for place, person in enumerate(people)})
    if size is None and not any(frames) and any(entries):
        raise CorruptInput(f"{path}: has neither 'width' and 'height' nor 'pose_world_landmarks'.")
    return Parsed(frames, unit, size)


def _landmarks(person: Json, size: tuple[int, int] | None, where: str) -> np.ndarray:
    """(V, 3) of one person. A message of protobuf as a dictionary has them in its field "landmark"."""
    if isinstance(person, dict):
        person = person.get("landmark")
    fine = isinstance(person, list) and all(isinstance(each, dict) for each in person)
    if not fine or not person:
        raise CorruptInput(f"{where}: is no list of objects with x, y and z.")
    third = "z" if size is None else "visibility"
    values = [
        [each.get("x"), each.get("y"), each.get(third, 1.0 if third == "visibility" else None)] for each in person
    ]
    joints = _numbers([number for row in values for number in row], where).reshape(-1, 3)
    if size is not None:
        joints *= (size[1], size[0], 1)
    return joints


def _image_size(path: Path, content: Mapping[str, Json]) -> tuple[int, int] | None:
    height, width = content.get("height"), content.get("width")
    if height is None and width is None:
        return None
    # OpenCV gives them as floats.
    sizes = [int(each) for each in (height, width) if isinstance(each, int | float) and 1 <= each <= MAX_SIDE]
    if sizes == [height, width]:
        return sizes[0], sizes[1]
    raise CorruptInput(f"{path}: 'height' and 'width' are {str((height, width))[:60]}, no size of an image.")


def parse_csv(path: Path) -> Parsed:
    """A CSV with a line per frame (and person) and columns `nose_x`, `nose_y`, ... of the joints of a known layout.

    Columns that have the names of all joints of a layout may come in any order; others are in the layout's order.

    Beside them `nose_score` (or confidence, visibility, likelihood), or `nose_z` for meters; `frame`, and `person`, are
    whole numbers. Empty cells are absent, zeros as `absent_joints` says. Raises `CorruptInput` naming the column or
    line for anything else.
    """
    names, lines = _table(path)
    columns, wanted = _joint_columns(path, names)
    if not lines:
        raise CorruptInput(f"{path}: has a header, but no lines below it.")
    _check_count(path, len(lines))
    frames: dict[int, dict[int, np.ndarray]] = {}
    for number, (line, cells) in enumerate(lines):
        if len(cells) != len(names):
            raise CorruptInput(f"{path}: line {line} has {len(cells)} cells, but the header has {len(names)}.")
        frame, person = (
            _whole(path, line, cells[names.index(name)]) if name in names else default
            for name, default in (("frame", number), ("person", 0))
        )
        values = [[cells[each[name]] if name in each else "1" for name in wanted] for each in columns.values()]
        if person in frames.setdefault(frame, {}):
            raise CorruptInput(f"{path}: line {line}: person {person} is twice in frame {frame}.")
        frames[frame][person] = _cells(path, line, values)
    _check_count(path, max(frames) - min(frames) + 1)
    unit = METRE if wanted[2] == "z" else PIXEL
    everybody = [joints for persons in frames.values() for joints in persons.values()]  # (V, 3) each
    centered = unit == PIXEL and is_centered(np.stack(everybody))
    for joints in everybody:
        joints[zeros_for_absent(joints[None, None], unit, centered=centered)[0, 0]] = np.nan
    ordered = [frames.get(at, {}) for at in range(min(frames), max(frames) + 1)]
    return Parsed(ordered, unit)


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns in small letters, and the lines below with their numbers."""
    try:
        rows = read_rows(path)
    except UsageError as error:
        # One clip of many: the others are not affected.
        raise CorruptInput(str(error)) from error
    if not rows:
        raise CorruptInput(f"{path}: is empty.")
    names, lines = [cell.strip().lower() for cell in rows[0][1]], rows[1:]
    if len(names) == 1 and (sign := separator_in(names)):
        raise CorruptInput(f"{path}: is separated by {sign}; save it as CSV, separated by commas.")
    return names, lines


def _joint_columns(path: Path, names: Sequence[str]) -> tuple[dict[str, dict[str, int]], tuple[str, str, str]]:
    """Place of each column by joint and kind, joints in order; and the kinds: x, y, and score or z."""
    columns: dict[str, dict[str, int]] = {}
    for at, name in enumerate(names):
        match = _COLUMN.fullmatch(name)
        if match:
            kind = "score" if match[2] in _SCORES else match[2]
            if columns.setdefault(match[1], {}).setdefault(kind, at) != at:
                raise CorruptInput(f"{path}: has two columns for the {kind} of {match[1][:60]}; remove one.")
        elif name in names[:at]:
            raise CorruptInput(f"{path}: has two columns {name[:60]}; remove one.")
        elif not name:
            raise CorruptInput(
                f"{path}: column {at + 1} has no name; without the index of pandas: to_csv(index=False)."
            )
        elif name not in ("frame", "person"):
            raise CorruptInput(f"{path}: the column {name[:60]!r} is neither frame, person nor the x, y, z of a joint.")
    if not columns:
        raise CorruptInput(f"{path}: has no columns of joints, such as nose_x and nose_y.")
    kinds = {frozenset(each) for each in columns.values()}
    if len(kinds) != 1 or not {"x", "y"} <= (kind := set(*kinds)):
        raise CorruptInput(f"{path}: not every joint has the same columns x and y, and score or z.")
    wanted = ("x", "y", "z" if "z" in kind else "score")
    if kind not in ({"x", "y"}, set(wanted)):
        raise CorruptInput(f"{path}: joints have {', '.join(sorted(kind))}; give x, y and score, or x, y, z.")
    return _in_order(columns), wanted


def _in_order(columns: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The columns of each joint in the order of the layout whose joints they name, as they are for other names."""
    spoken = {re.sub(r"[_ .]+", " ", name): name for name in columns}
    layouts = [layout.joints for layout in LAYOUTS.values() if {*layout.joints} == {*spoken}]
    if not layouts or tuple(spoken) in layouts:
        return columns
    return {spoken[joint]: columns[spoken[joint]] for joint in layouts[0]}


def _whole(path: Path, line: int, cell: str) -> int:
    # A column that once had gaps comes out of pandas as floats.
    if not re.fullmatch(r"\d{1,9}(\.0*)?", cell, re.ASCII):
        raise CorruptInput(f"{path}: line {line} has {cell[:40]!r}, no number of a frame or person.")
    return int(cell.partition(".")[0])


def _cells(path: Path, line: int, values: list[list[str]]) -> np.ndarray:
    try:
        return np.array([[float(cell) if cell else np.nan for cell in row] for row in values])
    except ValueError as error:
        raise CorruptInput(f"{path}: line {line} holds something that is no number ({error}).") from error


def keypoint_clip(path: Path, parsed: Parsed) -> KeypointClip:
    """The persons of a clip as (T, M, V, 3), M as many as the file has places.

    Raises `CorruptInput` ("no-person" without any) for persons of different numbers of joints, and for too many.
    """
    persons = [(at, place, joints) for at, frame in enumerate(parsed.frames) for place, joints in frame.items()]
    if not persons:
        raise CorruptInput(f"{path}: shows no person.", "no-person")
    people, joints = 1 + max(place for _, place, _ in persons), len(persons[0][2])
    if people > MAX_PEOPLE or joints > MAX_JOINTS or len(parsed.frames) * people * joints * 3 > MAX_NUMBERS:
        raise CorruptInput(f"{path}: {people} persons of {joints} joints in {len(parsed.frames)} frames are too many.")
    keypoints = np.full((len(parsed.frames), people, joints, 3), np.nan)
    for at, place, values in persons:
        if len(values) != joints:
            raise CorruptInput(f"{path}: persons have {joints} and {len(values)} joints.")
        keypoints[at, place] = values
    keypoints[np.isinf(keypoints)] = np.nan
    if (most := np.nanmax(np.abs(keypoints), initial=0)) > MOST:
        raise CorruptInput(f"{path}: holds numbers up to {most:.3g}, which are no places of joints.")
    absent = ~np.isfinite(keypoints).all(axis=3)
    if parsed.unit == PIXEL:
        absent |= keypoints[..., 2] <= 0
    keypoints[absent] = np.nan
    if absent.all():
        raise CorruptInput(f"{path}: no joint of any person has a place.", "no-person")
    if parsed.unit == METRE:
        return KeypointClip(keypoints.astype(np.float32))
    if parsed.size is not None:
        return KeypointClip(keypoints.astype(np.float32), parsed.size)
    largest = np.ceil(np.nanmax(np.abs(keypoints[..., :2]), axis=(0, 1, 2), initial=1))
    if largest.max() > MAX_SIDE:
        raise CorruptInput(f"{path}: keypoints up to {largest.max():.0f} are no pixels of an image.")
    width, height = np.ceil(np.nanmax(keypoints[..., :2], axis=(0, 1, 2), initial=1)).astype(int).tolist()
    return KeypointClip(keypoints.astype(np.float32), (height, width), assumed=("an image that just holds all joints",))


def _check_count(path: Path, frames: int) -> None:
    if frames > MAX_FRAMES:
        raise CorruptInput(f"{path}: {frames:,} frames are more than {MAX_FRAMES:,}.", "too-long")


def _json(path: Path, where: str) -> Json:
    try:
        return parse_json(read_plain(path, MAX_BYTES).removeprefix(BOM_UTF8))
    except OSError as error:
        raise CorruptInput(f"{where}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise CorruptInput(f"{where}: is no JSON ({str(error)[:100]}).") from error


def _numbers(values: Json, where: str) -> np.ndarray:
    if values is None:
        raise CorruptInput(f"{where}: is missing.")
    if not isinstance(values, list) or not {*map(type, values)} <= {int, float}:
        raise CorruptInput(f"{where}: is no list of numbers.")
    if len(values) > 5 * MAX_JOINTS:
        raise CorruptInput(f"{where}: {len(values):,} numbers are of more than {MAX_JOINTS} joints.")
    try:
        return np.array(values, np.float64)
    except OverflowError as error:
        raise CorruptInput(f"{where}: holds a number that is too large.") from error


def _triples(values: Json, where: str) -> np.ndarray:
    """(V, 3) from a flat list of x, y, score."""
    numbers = _numbers(values, where)
    if not numbers.size or numbers.size % 3:
        raise CorruptInput(f"{where}: {numbers.size} numbers are not x, y and score of each joint.")
    return numbers.reshape(-1, 3)


def _suffixed(suffix: str) -> Callable[[_Path], _Path | None]:
    return lambda path: path if path.suffix.lower() == suffix and path.name != "labels.csv" else None


# By the name that a store of them gets.
KEYPOINT_FORMATS: Mapping[str, KeypointFormat] = {
    "openpose": KeypointFormat(
        "OpenPose, a folder of JSON files per clip",
        lambda path: path.parent if is_keypoint_frame(path.name) else None,
        parse_openpose,
    ),
    "json": KeypointFormat("AlphaPose, MediaPipe or ST-GCN, a JSON file per clip", _suffixed(".json"), parse_json_clip),
    "csv": KeypointFormat("a CSV file per clip, a line per frame", _suffixed(".csv"), parse_csv),
}


def read_keypoints(path: Path, sample: str) -> KeypointClip:
    """The clip at a path, by what is there. Raises as its parser and `keypoint_clip` do."""
    del sample
    form = KEYPOINT_FORMATS["openpose" if path.is_dir() else path.suffix.lower().removeprefix(".")]
    return keypoint_clip(path, form.parse(path))
