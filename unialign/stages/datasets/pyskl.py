"""Annotation pickles of pyskl and mmaction2: keypoints, labels and splits in one file.

Legend: M persons, T frames, V joints, C coordinates.

Source: the data formats of https://github.com/kennymckormick/pyskl and https://github.com/open-mmlab/mmaction2.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.class_names import UNNAMED, read_class_names
from unialign.stages.datasets.folder import slug
from unialign.stages.datasets.pickles import load_restricted
from unialign.stages.datasets.scan import check_name, refuse_collisions
from unialign.stages.datasets.skeleton_formats import METRE, PIXEL
from unialign.stages.datasets.splits import PARTS, SplitRule, by_part, check_words, holdout
from unialign.stages.skeleton_layouts import COCO_17, Layout, find_layout

# Height and width that pyskl and mmaction2 assume if a file has none.
DEFAULT_PICTURE = (1080, 1920)
# Scores are heatmap maxima, which slightly overshoot 0 to 1 in genuine files; percentages and losses are far outside.
LEAST_SCORE, MOST_SCORE = -0.5, 2.0
# Detections of a frame that are read where an annotation lists them.
MAX_PERSONS = 20

# A Kinect sees 8 m far; anything far beyond is pixels. Nobody is 10 m away from the center of a lifted pose.
LARGEST_METRES, LARGEST_BODY = 100, 10

_PART = re.compile(
    rf"(?<![^_. -])(?P<part>{'|'.join(PARTS)})(?:[_-]?(?:set|split|data))?(?P<number>[0-9]*)(?![^_. -])", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class PysklAnnotation:
    """One clip.

    id: as a plain relative path ("./vids//clip" becomes "vids/clip").
    keypoint: (M, T, V, C) of any float type; C is 2 (pixels) or 3 (meters, or pixels and score).
    score: (M, T, V), or None (3-D files have none).
    img_shape: height and width of the image that the pixels refer to (without it, original_shape), or None.
    """

    id: str
    label: int
    keypoint: np.ndarray
    score: np.ndarray | None
    img_shape: tuple[int, int] | None
    total_frames: int

    @property
    def digest(self) -> str:
        """SHA-256, "sha256:<hex>", of what poses are made of: keypoints, scores and image size, not the label."""
        found = hashlib.sha256(f"{self.img_shape} {self.total_frames}".encode())
        for array in (self.keypoint, self.score):
            if array is not None:
                found.update(f" {array.dtype.str} {array.shape} ".encode())
                found.update(np.ascontiguousarray(array).data)
        return f"sha256:{found.hexdigest()}"


@dataclass(frozen=True, eq=False)
class PysklFile:
    """A whole file; ids are unique, splits name ids (which need not all be among the annotations)."""

    annotations: tuple[PysklAnnotation, ...]
    splits: Mapping[str, tuple[str, ...]]


def read_pyskl(path: Path) -> PysklFile:
    """The annotations and splits of a pickle; a bare list of annotations (older files) has no splits.

    Whole numbers as keypoints or scores become float32. Raises `CorruptInput` for a pickle that is not safe to load,
    and naming the annotation and field for one in another format, including Kinetics files that keep their keypoints
    elsewhere; `UsageError` for hostile ids.
    """
    content = load_restricted(path)
    if isinstance(content, list):
        content = {"annotations": content}
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise CorruptInput(f"{path}: is no pyskl file, it has no list 'annotations'.")
    annotations = tuple(_annotation(path, number, entry) for number, entry in enumerate(content["annotations"]))
    twice = [name for name, count in Counter(annotation.id for annotation in annotations).items() if count > 1]
    if twice:
        raise CorruptInput(f"{path}: two annotations have the id {twice[0]!r}; ids must be unique.")
    splits = content.get("split", {})
    if not isinstance(splits, dict):
        raise CorruptInput(f"{path}: 'split' is not a dict of names to lists of ids.")
    for name, ids in splits.items():
        listed = isinstance(ids, list | tuple | set | frozenset)
        if not isinstance(name, str) or not listed or not all(isinstance(each, str) for each in ids):
            raise CorruptInput(f"{path}: split {str(name)[:80]!r} is not a list of ids.")
    where = f"{path}: a split"
    return PysklFile(
        annotations, {name: tuple(check_name(each, where) for each in sorted(ids)) for name, ids in splits.items()}
    )


def load_pyskl(root: Path, labels: Path | None = None) -> Dataset:
    """The dataset "pyskl" of one pickle; every sample's "skeleton" file is the pickle itself.

    Classes are the lines of `labels` (UTF-8), or "class 0", "class 1", ... without it. Splits whose names differ only
    in a word of `PARTS` (xsub_train and xsub_val, train_xsub and test_xsub, training and validation, train1, val1 and
    test1) form a protocol ("xsub", "split", "split1"); val is used for testing if there is no test. A file without
    splits has the protocol "holdout". Splits that are not used, and ids without an annotation, which are left out, are
    in the notes.
    Raises `CorruptInput` as `read_pyskl` does, and for a split whose parts overlap or occur twice; `UsageError` for
    unusable labels, hostile ids and a file without annotations.
    """
    file = read_pyskl(root)
    if not file.annotations:
        raise UsageError(f"{root}: holds no annotations; give another file.")
    refuse_collisions((annotation.id for annotation in file.annotations), str(root))
    num_classes = max(annotation.label for annotation in file.annotations) + 1
    samples = [
        Sample(annotation.id, annotation.label, {"skeleton": root}, digest=annotation.digest)
        for annotation in file.annotations
    ]
    protocols, notes = _protocols(root, file.splits, {sample.id for sample in samples})
    return Dataset(
        name="pyskl",
        collection=f"pyskl-{slug(root.stem)}",
        root=root,
        classes=_class_names(root, num_classes, labels),
        samples=tuple(sorted(samples, key=lambda sample: sample.id)),
        protocols=protocols or {"holdout": holdout},
        notes=(*notes, *_joints(root, file.annotations), *_taken(file.annotations), *(() if labels else (UNNAMED,))),
        skeleton_format="pyskl",
    )


def _annotation(path: Path, number: int, entry: Any) -> PysklAnnotation:
    where = f"{path}: annotation {number}"
    if not isinstance(entry, dict):
        raise CorruptInput(f"{where} is not a dict.")
    name = entry.get("frame_dir", entry.get("filename"))
    if not isinstance(name, str) or not name:
        raise CorruptInput(f"{where} has no text 'frame_dir' (or 'filename') as its id.")
    where = f"{where} ({name[:80]!r})"
    if "raw_file" in entry:
        raise CorruptInput(f"{where} keeps its keypoints in another file ('raw_file'); this layout is not supported.")
    label, total_frames = entry.get("label"), entry.get("total_frames")
    # The bound keeps a damaged label from requesting a million class names.
    if type(label) is not int or not 0 <= label < 100_000:
        raise CorruptInput(f"{where}: 'label' is not a class number from 0.")
    if "keypoint" not in entry:
        raise CorruptInput(
            f"{where} has no 'keypoint'. In PYSKL's form for Kinetics the keypoints are in other files, one per clip, "
            "which are not read: put them into the annotations, or extract poses from the videos."
        )
    if "frame_inds" in entry:
        entry = _by_person(where, entry)
        total_frames = entry["total_frames"]
    keypoint = _floats(entry.get("keypoint"))
    if keypoint is None or keypoint.ndim != 4:
        raise CorruptInput(f"{where}: 'keypoint' is not an array of numbers (persons, frames, joints, coordinates).")
    if keypoint.shape[3] not in (2, 3):
        raise CorruptInput(f"{where}: 'keypoint' has {keypoint.shape[3]} coordinates per joint; 2 or 3 are known.")
    if type(total_frames) is not int or total_frames != keypoint.shape[1]:
        raise CorruptInput(f"{where}: 'total_frames' does not agree with the {keypoint.shape[1]} frames of 'keypoint'.")
    score = _floats(entry.get("keypoint_score"))
    if (score is None) != (entry.get("keypoint_score") is None) or (
        score is not None and score.shape != keypoint.shape[:3]
    ):
        raise CorruptInput(f"{where}: 'keypoint_score' does not have one number for each joint of 'keypoint'.")
    size = _picture_size(where, "img_shape", entry) or _picture_size(where, "original_shape", entry)
    return PysklAnnotation(check_name(name, where), label, keypoint, score, size, total_frames)


def _by_person(where: str, entry: Mapping[Any, Any]) -> dict[Any, Any]:
    """An annotation that lists detections, as one with an array by person and frame.

    Detections (N, V, 3) with the number of their frame (N): those of a frame are persons in their order, and frames
    without any are left out, as both projects do (`DecompressPose`), since Kinetics' poses are of every second frame.
    """
    frames, joints = entry["frame_inds"], _floats(entry["keypoint"])
    fine = isinstance(frames, np.ndarray) and frames.ndim == 1 and frames.dtype.kind in "iu"
    if not fine or joints is None or joints.ndim != 3 or joints.shape[2] != 3 or not 0 < len(joints) == len(frames):
        raise CorruptInput(f"{where}: 'frame_inds' and 'keypoint' are no detections (N) and (N, joints, 3).")
    numbers, place = np.unique(frames, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(numbers)))
    person = np.empty(len(frames), np.int64)
    person[order] = np.arange(len(frames)) - starts[place[order]]
    if person.max() >= MAX_PERSONS:
        raise CorruptInput(f"{where}: {int(person.max()) + 1} detections in one frame; {MAX_PERSONS} are read.")
    whole = np.zeros((int(person.max()) + 1, len(numbers), *joints.shape[1:]), joints.dtype)
    whole[person, place] = joints
    return {
        **entry,
        "keypoint": whole[..., :2],
        "keypoint_score": whole[..., 2],
        "total_frames": len(numbers),
    }


def _floats(value: Any) -> np.ndarray | None:
    """The array, whole numbers as float32; None for anything else."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        return None
    return value if value.dtype.kind == "f" else value.astype(np.float32)


def _picture_size(where: str, name: str, entry: Mapping[Any, Any]) -> tuple[int, int] | None:
    value = entry.get(name)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if value is None:
        return None
    if (
        not isinstance(value, tuple | list)
        or len(value) != 2
        or not all(type(size) in (int, float) and 0 < size < 100_000 and size == int(size) for size in value)
    ):
        raise CorruptInput(f"{where}: {name!r} is not a height and a width.")
    return int(value[0]), int(value[1])


def unit_of(annotation: PysklAnnotation) -> str:
    """ "pixel" or "metre": two coordinates are pixels, and so are three with a score last; other three are meters.

    17 joints come from detectors unless they have room-scale depths and no score: then they would be Human3.6M's.
    """
    points = annotation.keypoint
    if points.shape[3] == 2:
        return PIXEL
    finite = np.where(np.isfinite(points), np.abs(points), 0)
    largest = finite.max(axis=(0, 1, 2), initial=0)
    if points.shape[2] == len(COCO_17.joints):
        is_room = annotation.score is None and largest[2] > 1 and largest.max() <= LARGEST_BODY
        return METRE if is_room else PIXEL
    return PIXEL if largest[2] <= 1 and largest[:2].max() > LARGEST_METRES else METRE


def annotated_layout(annotations: Sequence[PysklAnnotation], where: str) -> tuple[Layout, str, str]:
    """The known layout and unit of the first clip in a file that has one, and a note if there was a choice.

    Raises `UsageError` if no clip has one, see `find_layout`.
    """
    problem: UsageError | None = None
    shapes = set()
    for annotation in annotations:
        points = annotation.keypoint.reshape(-1, *annotation.keypoint.shape[2:]).astype(np.float64)
        if points.shape[1:] in shapes:
            continue
        shapes.add(points.shape[1:])
        points[~np.isfinite(points).all(axis=2) | (points == 0).all(axis=2)] = np.nan
        unit = unit_of(annotation)
        try:
            layout, note = find_layout(points.shape[1], unit, points, where)
        except UsageError as error:
            problem = problem or error
        else:
            return layout, unit, note
    raise problem or UsageError(f"{where}: holds no annotations; give another file.")


def _joints(root: Path, annotations: Sequence[PysklAnnotation]) -> list[str]:
    """What the joints are assumed to be if there is a choice, or why no layout is known."""
    try:
        note = annotated_layout(annotations, "extract poses")[2]
    except UsageError as error:
        return [f"joints: {error}"]
    return [note] if note else []


def _taken(annotations: Sequence[PysklAnnotation]) -> list[str]:
    """A note for each thing that pixels need, many files lack, and `completed` fills in."""
    flat = annotations if unit_of(annotations[0]) == PIXEL else ()
    third = sum(each.score is None and each.keypoint.shape[3] == 3 for each in flat)
    scoreless = sum(each.score is None and each.keypoint.shape[3] == 2 for each in flat)
    sizeless = sum(each.img_shape is None for each in flat)
    counted = {
        "have the score as third number of 'keypoint'": third,
        "have no 'keypoint_score': 1 is taken for each joint that is there": scoreless,
        f"have no 'img_shape': a picture of {DEFAULT_PICTURE[1]} x {DEFAULT_PICTURE[0]} is taken": sizeless,
    }
    return [f"{count} of {len(annotations)} annotations {what}" for what, count in counted.items() if count]


def completed(annotation: PysklAnnotation) -> tuple[PysklAnnotation, tuple[str, ...], str]:
    """A clip as pixels, scores and an image size; what was filled in; or why this is not possible.

    Scores may be the third number of each joint (0 to 1); without any they are 1, and 0 for joints at (0, 0), which is
    how both projects mark absent joints. Without a size the image is `DEFAULT_PICTURE`, their own default, unless the
    values do not fit into it.
    """
    points, score, size = annotation.keypoint, annotation.score, annotation.img_shape
    assumed: list[str] = []
    if points.shape[3] == 3:
        third = points[..., 2]
        if score is not None and not np.array_equal(third, score, equal_nan=True):
            return annotation, (), "a third number for each joint and another 'keypoint_score'"
        with np.errstate(invalid="ignore"):
            if ((third < 0) | (third > 1)).any():
                return annotation, (), f"{points.shape[2]} joints whose third number is no score from 0 to 1"
        points, score = points[..., :2], third
        assumed.append("keypoint_score: third number of keypoint")
    elif score is not None:
        with np.errstate(invalid="ignore"):
            if ((score < LEAST_SCORE) | (score > MOST_SCORE)).any():
                low, high = np.nanmin(score), np.nanmax(score)
                per_cent = "; divide per cents by 100" if low >= 0 and high <= 100 else ""
                return annotation, (), f"'keypoint_score' from {low:.3g} to {high:.3g}, not 0 to 1{per_cent}"
    else:
        score = (np.isfinite(points) & (points != 0)).any(axis=3).astype(points.dtype)
        assumed.append("keypoint_score: 1")
    finite = np.abs(points[np.isfinite(points).all(axis=3) & (points != 0).any(axis=3)])  # (joints, 2)
    largest = finite.max(axis=0) if len(finite) else np.zeros(2)
    if len(finite) and largest.max() <= 2:
        return annotation, (), f"numbers up to {largest.max():.3g}, which are no pixels"
    if size is None:
        height, width = size = DEFAULT_PICTURE
        if largest[0] > 1.25 * width or largest[1] > 1.25 * height:
            return annotation, (), f"no 'img_shape', and joints far outside {width} x {height}"
        assumed.append(f"img_shape: {height} x {width}")
    return replace(annotation, keypoint=points, score=score, img_shape=size), tuple(assumed), ""


def _class_names(root: Path, num_classes: int, labels: Path | None) -> tuple[str, ...]:
    if labels is None:
        return tuple(f"class {label}" for label in range(num_classes))
    names = read_class_names(labels)
    if len(names) < num_classes:
        raise UsageError(f"{labels}: {len(names)} class names, but {root} has labels up to {num_classes - 1}.")
    return names


def _protocols(
    root: Path, splits: Mapping[str, Sequence[str]], known: Collection[str]
) -> tuple[dict[str, SplitRule], list[str]]:
    """The protocols implied by the names of the splits, and a note for each split that belongs to none."""
    named: dict[str, dict[str, str]] = defaultdict(dict)  # protocol, part: the split of the file
    notes = []
    check_words((match["part"] for name in splits for match in _PART.finditer(name)), str(root))
    for name in splits:
        protocol, part = _protocol_and_part(name)
        if not part:
            notes.append(f"split {name!r} is not used: its name has no part ({', '.join(PARTS)}), or several")
        elif part in named[protocol]:
            other = named[protocol][part]
            raise CorruptInput(f"{root}: the splits {other!r} and {name!r} are both the {part} part of one protocol.")
        else:
            named[protocol][part] = name
    protocols: dict[str, SplitRule] = {}
    for protocol, names in named.items():
        part_of: dict[str, str] = {}
        for part, split in names.items():
            for each in splits[split]:
                if part_of.setdefault(each, part) != part:
                    raise CorruptInput(f"{root}: {each!r} is both in split {names[part_of[each]]!r} and in {split!r}.")
        shown = " and ".join(repr(split) for split in names.values())
        held = {part for each, part in part_of.items() if each in known}
        empty = next((split for part, split in names.items() if part not in held and splits[split]), None)
        if len(names) == 1 or "train" not in names:
            notes.append(f"split {shown} is not used: a protocol needs a train part and another one")
        elif empty is not None:
            notes.append(f"splits {shown} are not used: no id of {empty!r} has an annotation")
        else:
            protocols[protocol] = partial(by_part, part_of)
            lost = sum(each not in known for each in part_of)
            if lost:
                notes.append(f"{lost:,} {'id' if lost == 1 else 'ids'} of splits {shown} without an annotation")
    return protocols, notes


def _protocol_and_part(name: str) -> tuple[str, str]:
    """The protocol and the part implied by the name of a split: ("xsub", "val") for "xsub_val" and for "val_xsub".

    A number attached to the part's word belongs to the protocol: ("split1", "test") for "test1". ("", "") if the name
    has no word of `PARTS` between underscores, hyphens, dots or spaces, or two of them.
    """
    found = list(_PART.finditer(name))
    if len(found) != 1:
        return "", ""
    (match,) = found
    rest = [each for each in (name[: match.start()].rstrip("_-. "), name[match.end() :].lstrip("_-. ")) if each]
    return f"{'_'.join(rest) or 'split'}{match['number']}", PARTS[match["part"].lower()]
