"""J-HMDB: 928 clips of 21 actions in images of 320 x 240, with 15 annotated 2-D joints and three splits.

Legend: T frames, V joints (15, layout "jhmdb-15").

Source: H. Jhuang et al., Towards understanding action recognition, ICCV 2013. As released:
`joint_positions/<class>/<clip>/joint_positions.mat` with pos_img (2, 15, T) in pixels,
`splits/<class>_test_split<k>.txt` with lines `<clip>.avi 1` (training) or `2` (testing), and
`ReCompress_Videos/<class>/<clip>.avi`. Also read: the pickles
`GT_train_<k>.pkl` and `GT_test_<k>.pkl` of fandulu/DD-Net, whose joints are the release's pos_world: relative to the
image center, in units of the image height and the person's size.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.class_names import spoken_names
from unialign.stages.datasets.mat_files import read_mat_arrays
from unialign.stages.datasets.packed_files import arrays_digest, remembered
from unialign.stages.datasets.pickles import load_restricted
from unialign.stages.datasets.scan import check_name, refuse_collisions, refuse_link_outside, walk_files
from unialign.stages.datasets.skeleton_formats import PIXEL, KeypointClip, SkeletonFormat
from unialign.stages.datasets.splits import SplitRule, by_part, holdout
from unialign.stages.skeleton_layouts import JHMDB_15

# Folder names in alphabetical order, which is the label order.
ACTIONS = (
    *("brush_hair", "catch", "clap", "climb_stairs", "golf", "jump", "kick_ball", "pick", "pour", "pullup", "push"),
    *("run", "shoot_ball", "shoot_bow", "shoot_gun", "sit", "stand", "swing_baseball", "throw", "walk", "wave"),
)
_SPOKEN = {"pullup": "pull-up"}
IMAGE_SIZE = (240, 320)
NUM_JOINTS = len(JHMDB_15.joints)
# Genuine clips have 15 to 40 frames; the bounds keep hostile files from exhausting memory.
MAX_FRAMES, MAX_LINES = 10_000, 10_000

_SPLIT = re.compile(rf"({'|'.join(ACTIONS)})_test_split([123])\.txt", re.ASCII)
_LINE = re.compile(r"(\S.*)\.avi\s+([012])", re.ASCII)
_PICKLE = re.compile(r"GT_(train|test)_([123])\.pkl", re.ASCII)
_PARTS = {"1": "train", "2": "test", "0": ""}


def load_jhmdb(root: Path, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "jhmdb": joint positions, videos and splits as released, or DD-Net's pickles, below `root`.

    Protocols: "split1" to "split3", as far as present; "holdout" if there are none. Clips of the pickles have no names;
    they become `split1/train/0000` and so on, in file order, with the classes that occur.
    Raises `UsageError` for a root without either and links out of it, `CorruptInput` for malformed pickles and lists.
    """
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    lists: dict[tuple[str, str], Path] = {}
    pickles: dict[tuple[str, str], Path] = {}
    for entry in walk_files(root, roots):
        path = Path(entry.path)
        if entry.is_symlink():
            refuse_link_outside(path, root, roots)
        action, clip = path.parts[-3:-1] if len(path.parts) > 3 else ("", "")
        if path.name == "joint_positions.mat" and action in ACTIONS:
            _add(files[f"{action}/{clip}"], "skeleton", path)
        elif path.suffix.lower() in (".avi", ".mp4") and path.parent.name in ACTIONS:
            _add(files[f"{path.parent.name}/{path.stem}"], "video", path)
        elif match := _SPLIT.fullmatch(path.name):
            lists[match[1], match[2]] = path
        elif match := _PICKLE.fullmatch(path.name):
            pickles[match[2], match[1]] = path
    if not files and pickles:
        return _from_pickles(root, pickles)
    if not files:
        raise UsageError(
            f"{root}: no file of jhmdb found; expected joint_positions/wave/<clip>/joint_positions.mat, videos in "
            "class folders, or GT_train_1.pkl and GT_test_1.pkl below it."
        )
    refuse_collisions(files, str(root))
    samples = tuple(
        Sample(check_name(name, str(root)), ACTIONS.index(name.split("/")[0]), found)
        for name, found in sorted(files.items())
    )
    protocols, notes = _protocols(lists, {sample.id for sample in samples})
    return Dataset(
        name="jhmdb",
        collection="jhmdb",
        root=root,
        classes=spoken_names([_SPOKEN.get(action, action) for action in ACTIONS], "jhmdb"),
        samples=samples,
        protocols=protocols or {"holdout": holdout},
        notes=notes,
        published=True,
        skeleton_format=JHMDB_SKELETONS,
    )


def _add(files: dict[str, Path], kind: str, path: Path) -> None:
    if files.setdefault(kind, path) is not path:
        raise UsageError(f"{files[kind]} and {path}: two {kind} files of one sample; remove or move one of them.")


def _protocols(lists: Mapping[tuple[str, str], Path], known: set[str]) -> tuple[dict[str, SplitRule], tuple[str, ...]]:
    """The splits defined by the lists, and notes on listed clips that are missing."""
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for (action, number), path in sorted(lists.items(), key=lambda item: item[0][::-1]):
        for line, text in enumerate(_lines(path), 1):
            match = _LINE.fullmatch(text.strip())
            if match is None:
                raise CorruptInput(f"{path}: line {line} is not `<clip>.avi 1` or `2`.")
            parts[number][f"{action}/{match[1]}"] = _PARTS[match[2]]
    notes = [
        f"{sum(name not in known for name in part_of)} clips of split {number} are not here"
        for number, part_of in parts.items()
        if any(name not in known for name in part_of)
    ]
    return {f"split{number}": partial(by_part, part_of) for number, part_of in parts.items()}, tuple(notes)


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(2**22).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptInput(f"{path}: cannot be read as a list of clips ({error}).") from error
    if len(lines) > MAX_LINES:
        raise CorruptInput(f"{path}: more than {MAX_LINES} lines; this is no list of J-HMDB.")
    return [line for line in lines if line.strip()]


def read_jhmdb_skeleton(path: Path, _sample: str = "") -> KeypointClip:
    """The joints of a joint_positions.mat, (T, 1, V, 3): x, y in pixels of 320 x 240 and a score of 1.

    Raises `CorruptInput` for a malformed file.
    """
    found = read_mat_arrays(path, {"pos_img": 2 * NUM_JOINTS * MAX_FRAMES})["pos_img"]
    if found.ndim == 2:  # MATLAB drops the axis if there is only one frame.
        found = found[..., None]
    if found.shape[:2] != (2, NUM_JOINTS) or found.ndim != 3 or not 1 <= found.shape[2] <= MAX_FRAMES:
        raise CorruptInput(f"{path}: pos_img is {found.shape}, not 2 x {NUM_JOINTS} x 1 to {MAX_FRAMES} frames.")
    return KeypointClip(_scored(found.transpose(2, 1, 0)), IMAGE_SIZE)


def _scored(place: np.ndarray) -> np.ndarray:
    """Positions (T, V, 2) as keypoints (T, 1, V, 3) with a score of 1."""
    keypoints = np.concatenate([place, np.ones((*place.shape[:2], 1))], axis=2)
    keypoints[~np.isfinite(keypoints).all(axis=2) | (np.abs(keypoints) > 1e6).any(axis=2)] = np.nan
    return keypoints[:, None].astype(np.float32)


def _from_pickles(root: Path, pickles: Mapping[tuple[str, str], Path]) -> Dataset:
    clips = {key: _read_pickle(path) for key, path in sorted(pickles.items())}
    names = sorted({label for found in clips.values() for label, _ in found})
    samples: list[Sample] = []
    part_of: dict[str, dict[str, str]] = defaultdict(dict)
    for (number, part), found in clips.items():
        path = pickles[number, part]
        for at, (label, place) in enumerate(found):
            name = f"split{number}/{part}/{at:04d}"
            samples.append(Sample(name, names.index(label), {"skeleton": path}, digest=arrays_digest(place)))
            part_of[f"split{number}"][name] = part
    whole = {name: parts for name, parts in part_of.items() if set(parts.values()) == {"train", "test"}}
    if not whole:
        raise UsageError(
            f"{root}: GT_train_<k>.pkl and GT_test_<k>.pkl of one split are needed; one of them is missing."
        )
    return Dataset(
        name="jhmdb",
        collection="jhmdb",
        root=root,
        classes=spoken_names([_SPOKEN.get(name, name) for name in names], str(root)),
        samples=tuple(sorted(samples, key=lambda sample: sample.id)),
        protocols={name: partial(by_part, parts) for name, parts in whole.items()},
        notes=("pickles of DD-Net: clips have no names, and classes are those that occur",),
        published=True,
        skeleton_format=JHMDB_PICKLES,
    )


@remembered
def _read_pickle(path: Path) -> list[tuple[str, np.ndarray]]:
    """Label and joints (T, V, 2) of each clip of a DD-Net pickle."""
    content = load_restricted(path)
    poses, labels = (content.get(name) if isinstance(content, dict) else None for name in ("pose", "label"))
    if not (isinstance(poses, list) and isinstance(labels, list) and len(poses) == len(labels)):
        raise CorruptInput(f"{path}: is no pickle of DD-Net, it has no lists 'pose' and 'label' of one length.")
    found: list[tuple[str, np.ndarray]] = []
    for at, (label, place) in enumerate(zip(labels, poses, strict=True)):
        if not isinstance(label, str) or not label.isprintable() or not 0 < len(label) <= 64:
            raise CorruptInput(f"{path}: clip {at} has no class name.")
        found.append((label, _place(path, at, place)))
    return found


def _place(path: Path, at: int, place: Any) -> np.ndarray:
    is_array = isinstance(place, np.ndarray) and place.dtype.kind in "fiu" and place.ndim == 3
    if not is_array or place.shape[1:] != (NUM_JOINTS, 2) or not 1 <= len(place) <= MAX_FRAMES:
        raise CorruptInput(f"{path}: clip {at} is no array of 1 to {MAX_FRAMES} frames, {NUM_JOINTS} joints and x, y.")
    return np.asarray(place, np.float64)


def read_jhmdb_pickle(path: Path, sample: str) -> KeypointClip:
    """A clip of a pickle, (T, 1, V, 3), as if the person's size were 1: pixels of an image of 320 x 240.

    Raises `KeyError` for an id that the file does not hold, `CorruptInput` as the dataset does.
    """
    height, width = IMAGE_SIZE
    return KeypointClip(_scored(_of_pickle(path, sample) * height + np.array([width / 2, height / 2])), IMAGE_SIZE)


def jhmdb_pickle_digest(path: Path, sample: str) -> str:
    """Digest of a clip of a pickle. Raises as `read_jhmdb_pickle` does."""
    return arrays_digest(_of_pickle(path, sample))


def _of_pickle(path: Path, sample: str) -> np.ndarray:
    number = sample.rpartition("/")[2]
    found = _read_pickle(path)
    if not number.isdecimal() or int(number) >= len(found):
        raise KeyError(sample)
    return found[int(number)][1]


JHMDB_SKELETONS = SkeletonFormat(
    name="jhmdb",
    layout=JHMDB_15,
    unit=PIXEL,
    read=read_jhmdb_skeleton,
    max_people=1,
    source="annotated joints of J-HMDB's joint_positions.mat",
    license="that of the data set: research",
    citation="Jhuang et al., Towards understanding action recognition, ICCV 2013",
)
JHMDB_PICKLES = replace(
    JHMDB_SKELETONS,
    name="jhmdb-ddnet",
    read=read_jhmdb_pickle,
    digest=jhmdb_pickle_digest,
    source="annotated joints of J-HMDB in the pickles of fandulu/DD-Net",
)
