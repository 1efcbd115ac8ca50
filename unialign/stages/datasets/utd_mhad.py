"""UTD-MHAD: skeletons of a Kinect v1, 27 actions of 8 subjects, 4 times each.

Legend: T frames, V joints (20, layout "utd-20").

Source: C. Chen, R. Jafari, N. Kehtarnavaz, UTD-MHAD, ICIP 2015. Files are `a<action>_s<subject>_t<trial>_skeleton.mat`
with the array `d_skel` (20, 3, T) in meters; the color videos, if present, are `..._color.avi`.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.class_names import UNNAMED, read_class_names
from unialign.stages.datasets.mat_files import read_mat_array
from unialign.stages.datasets.scan import refuse_link_outside, walk_files
from unialign.stages.datasets.splits import SplitRule, by_attribute
from unialign.stages.datasets.zero_shot_splits import ZERO_SHOT_SPLITS, generalised_zero_shot, zero_shot

NUM_CLASSES = 27
NUM_JOINTS = 20
TRAIN_SUBJECTS = frozenset({1, 3, 5, 7})

# Genuine files have 41 to 125 frames; the bound keeps a hostile one from exhausting memory.
MAX_FRAMES = 10_000

_FILE = re.compile(r"(a(\d{1,2})_s(\d)_t(\d))_(?:skeleton\.mat|color\.(?:avi|mp4|mkv))", re.ASCII)
_HIGHEST = {"action": NUM_CLASSES, "subject": 8, "trial": 4}


def load_utd_mhad(root: Path, labels: Path | None = None, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "utd-mhad" from all folders below `root`.

    labels: UTF-8 file with the 27 class names in order, one per line; "class 0", "class 1", ... without it. Protocols:
    "subject-odd" trains on subjects 1, 3, 5, 7 and tests on the others; "zero-shot-1" to "zero-shot-3" do the same with
    22 seen classes for training and 5 unseen ones for testing; "generalised-1" to "generalised-3" test on all classes.
    Raises `UsageError` for a root without samples, numbers that the dataset does not have, two files for one sample,
    links out of the root, and labels that cannot be used.
    """
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    numbers: dict[str, dict[str, int]] = {}
    for entry in walk_files(root, roots):
        match = _FILE.fullmatch(entry.name)
        if match is None:
            continue
        path = Path(entry.path)
        if entry.is_symlink():
            refuse_link_outside(path, root, roots)
        numbers[match[1]] = dict(zip(_HIGHEST, (int(number) for number in match.groups()[1:]), strict=True))
        for field, number in numbers[match[1]].items():
            if not 1 <= number <= _HIGHEST[field]:
                raise UsageError(
                    f"{path}: {field} {number} is not one of utd-mhad (1 to {_HIGHEST[field]}); rename it."
                )
        kind = "skeleton" if path.suffix == ".mat" else "video"
        other = files[match[1]].setdefault(kind, path)
        if other is not path:
            raise UsageError(f"{other} and {path}: two {kind} files of one sample; remove or move one of them.")
    if not files:
        raise UsageError(f"{root}: no file of utd-mhad found; expected names such as a1_s1_t1_skeleton.mat below it.")
    samples = [
        Sample(
            name, numbers[name]["action"] - 1, files[name], {each: numbers[name][each] for each in ("subject", "trial")}
        )
        for name in sorted(files)
    ]
    return Dataset(
        name="utd-mhad",
        collection="utd-mhad",
        root=root,
        classes=_class_names(labels),
        samples=tuple(samples),
        protocols=_protocols(),
        notes=() if labels else (UNNAMED,),
        published=True,
        skeleton_format="utd-mhad",
    )


def read_utd_skeleton(path: Path) -> NDArray[np.float32]:
    """The keypoints of a skeleton file, (T, V, 3) float32: x, y, z in meters in camera space.

    A joint with a non-finite position is NaN. Raises `CorruptInput` naming the file if it cannot be read or is
    malformed.
    """
    values = read_mat_array(path, "d_skel", NUM_JOINTS * 3 * MAX_FRAMES)
    if values.shape[:2] != (NUM_JOINTS, 3):
        raise CorruptInput(f"{path}: d_skel is {values.shape}, not 20 joints, 3 coordinates and frames.")
    if values.ndim != 3 or not 1 <= values.shape[2] <= MAX_FRAMES:
        raise CorruptInput(f"{path}: d_skel should have 1 to {MAX_FRAMES} frames.")
    with np.errstate(over="ignore"):
        keypoints = np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)
    keypoints[~np.isfinite(keypoints).all(axis=2)] = np.nan
    return keypoints


def _protocols() -> dict[str, SplitRule]:
    subjects = partial(by_attribute, "subject", TRAIN_SUBJECTS)
    protocols: dict[str, SplitRule] = {"subject-odd": subjects}
    for kind, rule in (("zero-shot", zero_shot), ("generalised", generalised_zero_shot)):
        for number in (1, 2, 3):
            unseen = ZERO_SHOT_SPLITS[f"utd-mhad-{number}"].unseen
            protocols[f"{kind}-{number}"] = partial(rule, unseen, subjects)
    return protocols


def _class_names(labels: Path | None) -> tuple[str, ...]:
    if labels is None:
        return tuple(f"class {label}" for label in range(NUM_CLASSES))
    names = read_class_names(labels)
    if len(names) != NUM_CLASSES:
        raise UsageError(f"{labels}: {len(names)} class names; give the {NUM_CLASSES} of utd-mhad.")
    return names
