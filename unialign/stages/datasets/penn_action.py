"""Penn Action: 2,326 clips of 15 actions with 13 annotated 2-D joints and an official split of 1,258 / 1,068.

Legend: T frames, V joints (13, layout "penn-13").

Source: W. Zhang, M. Zhu, K. Derpanis, From Actemes to Action, ICCV 2013. As released: `labels/0001.mat` with x, y and
visibility (T, 13), action, train (1 or -1), dimensions (height, width, frames); frames in `frames/0001/000001.jpg`.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.mat_files import read_mat_arrays
from unialign.stages.datasets.scan import refuse_link_outside, walk_files
from unialign.stages.datasets.skeleton_formats import PIXEL, KeypointClip, SkeletonFormat
from unialign.stages.datasets.splits import by_part
from unialign.stages.skeleton_layouts import PENN_13

# In the order of the dataset's own table, numbered from 0 by published scores (lshiwjx/PGCN); names as in the files.
ACTIONS = (
    *("baseball_pitch", "clean_and_jerk", "pullup", "strum_guitar", "baseball_swing", "golf_swing", "pushup"),
    *("tennis_forehand", "bench_press", "jumping_jacks", "situp", "tennis_serve", "bowl", "jump_rope", "squat"),
)
# Natural names of classes whose names in the files are not.
_SPOKEN = {"pullup": "pull-up", "pushup": "push-up", "situp": "sit-up"}
NUM_JOINTS = len(PENN_13.joints)
# Genuine clips have 18 to 663 frames; the bound keeps a hostile file from exhausting memory.
MAX_FRAMES = 10_000
# An annotated joint that is not visible. Its position is known, so it is not absent; recipes drop scores up to 0.01.
OCCLUDED = 0.5

_FILE = re.compile(r"(\d{4})\.mat", re.ASCII)
_FACTS = {"action": 64, "train": 1, "dimensions": 3}


def load_penn_action(root: Path, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "penn-action" from the label files `NNNN.mat` below `root`.

    Action and split are read from each file, so this takes a few seconds for all 2,326. Raises `UsageError` for a root
    without label files, two files for one clip and links out of the root; `CorruptInput` for a label file that cannot
    be read or names no action of the dataset.
    """
    files: dict[str, Path] = {}
    for entry in walk_files(root, roots):
        match = _FILE.fullmatch(entry.name)
        if match is None:
            continue
        path = Path(entry.path)
        if entry.is_symlink():
            refuse_link_outside(path, root, roots)
        other = files.setdefault(match[1], path)
        if other is not path:
            raise UsageError(f"{other} and {path}: two label files of one clip; remove or move one of them.")
    if not files:
        raise UsageError(f"{root}: no file of penn-action found; expected names such as labels/0001.mat below it.")
    samples, part_of = [], {}
    for name in sorted(files):
        label, part_of[name] = _action_and_part(files[name])
        samples.append(Sample(name, label, {"skeleton": files[name]}))
    return Dataset(
        name="penn-action",
        collection="penn-action",
        root=root,
        classes=tuple(_SPOKEN.get(action, action.replace("_", " ")) for action in ACTIONS),
        samples=tuple(samples),
        protocols={"official": partial(by_part, part_of)},
        published=True,
        skeleton_format=PENN_SKELETONS,
    )


def _action_and_part(path: Path) -> tuple[int, str]:
    found = read_mat_arrays(path, _FACTS | {"x": NUM_JOINTS * MAX_FRAMES})
    action = "".join(map(chr, found["action"].ravel().tolist())) if found["action"].dtype == np.uint16 else ""
    if action not in ACTIONS:
        raise CorruptInput(f"{path}: the action {action[:40]!r} is none of Penn Action's 15.")
    train = found["train"].ravel().tolist()
    if train not in ([1], [-1]):
        raise CorruptInput(f"{path}: train is {train}, which should be 1 (training) or -1 (testing).")
    return ACTIONS.index(action), "train" if train == [1] else "test"


def read_penn_skeleton(path: Path, _sample: str = "") -> KeypointClip:
    """The joints of a label file, (T, 1, V, 3): x, y in pixels, and a score of 1 (visible) or 0.5 (occluded).

    The annotators put joints outside the image at (1, 1), not visible: these are absent (NaN), as are non-finite ones.
    Raises `CorruptInput` for a malformed file.
    """
    size = NUM_JOINTS * MAX_FRAMES
    found = read_mat_arrays(path, {"x": size, "y": size, "visibility": size, "dimensions": 3})
    x, y, visible = (found[name].astype(np.float64) for name in ("x", "y", "visibility"))
    if x.ndim != 2 or x.shape[1] != NUM_JOINTS or not 1 <= len(x) <= MAX_FRAMES:
        raise CorruptInput(f"{path}: x is {x.shape}, not 1 to {MAX_FRAMES} frames of {NUM_JOINTS} joints.")
    if not x.shape == y.shape == visible.shape:
        raise CorruptInput(f"{path}: x, y and visibility differ in size: {x.shape}, {y.shape}, {visible.shape}.")
    height, width, *_ = (*found["dimensions"].ravel().tolist(), 0, 0)
    if not (0 < height < 100_000 and 0 < width < 100_000 and height == int(height) and width == int(width)):
        raise CorruptInput(f"{path}: dimensions are no height and width of an image.")
    outside = (x == 1) & (y == 1) & (visible == 0)
    keypoints = np.stack([x, y, np.where(visible > 0, 1.0, OCCLUDED)], axis=2)
    keypoints[outside | ~np.isfinite(keypoints).all(axis=2) | (np.abs(keypoints) > 1e6).any(axis=2)] = np.nan
    return KeypointClip(keypoints[:, None].astype(np.float32), (int(height), int(width)))


PENN_SKELETONS = SkeletonFormat(
    name="penn-action",
    layout=PENN_13,
    unit=PIXEL,
    read=read_penn_skeleton,
    max_people=1,
    source="annotated joints of Penn Action's label files",
    license="that of the data set: research",
    citation="Zhang, Zhu, Derpanis, From Actemes to Action, ICCV 2013",
)
