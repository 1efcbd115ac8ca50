"""The npz files that CTR-GCN trains on, such as NTU60_CS.npz: two bodies of 25 joints, padded to one length.

Legend: N samples, T frames, L classes.

Source: Y. Chen et al., CTR-GCN, ICCV 2021 (Uason-Chen/CTR-GCN): `x_train` and `x_test` (N, T, 150), frames of 2 bodies
of 25 joints of 3 coordinates, in meters from a joint of the first frame, zeros behind the last frame and for an absent
body; `y_train` and `y_test` (N, L) one-hot, or (N,) numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unialign.errors import CorruptInput
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.class_names import UNNAMED
from unialign.stages.datasets.folder import slug
from unialign.stages.datasets.npz_files import read_npz_arrays, whole_numbers
from unialign.stages.datasets.ntu_classes import NTU_CLASSES
from unialign.stages.datasets.packed_files import arrays_digest, remembered
from unialign.stages.datasets.skeleton_formats import METRE, KeypointClip, SkeletonFormat
from unialign.stages.datasets.splits import by_part
from unialign.stages.skeleton_layouts import NTU_25

BODIES = 2
WIDTH = BODIES * len(NTU_25.joints) * 3
MAX_CLASSES = 10_000


@dataclass(frozen=True, eq=False)
class _Part:
    frames: np.ndarray  # (N, T, 150)
    labels: np.ndarray  # (N,)
    num_classes: int


def load_ctr_gcn(root: Path) -> Dataset:
    """The dataset "ctr-gcn": samples "train/000000", ... and "test/000000", ... in the order of the file.

    The file has no ids, so the digest of a sample is all that identifies it. Class names are those of NTU RGB+D for 60
    and 120 classes. Raises `CorruptInput` naming the array for a malformed file.
    """
    parts = _read(root)
    samples, part_of = [], {}
    for part, content in parts.items():
        for at, label in enumerate(content.labels.tolist()):
            name = f"{part}/{at:06d}"
            part_of[name] = part
            samples.append(Sample(name, label, {"skeleton": root}, digest=ctr_gcn_digest(root, name)))
    count = max(content.num_classes for content in parts.values())
    named = count in (60, 120)
    return Dataset(
        name="ctr-gcn",
        collection=f"ctr-gcn-{slug(root.stem)}",
        root=root,
        classes=NTU_CLASSES[:count] if named else tuple(f"class {label}" for label in range(count)),
        samples=tuple(sorted(samples, key=lambda sample: sample.id)),
        protocols={"official": partial(by_part, part_of)},
        notes=() if named else (UNNAMED,),
        skeleton_format=CTR_GCN_SKELETONS,
    )


def read_ctr_gcn(path: Path, sample: str) -> KeypointClip:
    """The clip of a sample up to its last frame with a body. Raises `KeyError` for an unknown id, `CorruptInput`
    ("no-person") for a sample of zeros."""
    frames = _frames(path, sample)
    shown = (frames != 0).any(axis=1)
    if not shown.any():
        raise CorruptInput(f"{path}: {sample} is all zeros.", "no-person")
    last = int(np.flatnonzero(shown)[-1]) + 1
    keypoints = frames[:last].reshape(last, BODIES, -1, 3).astype(np.float32)
    # Only whole bodies are absent: a joint at the origin is the one that positions are relative to.
    keypoints[(keypoints == 0).all(axis=(2, 3))] = np.nan
    keypoints[~np.isfinite(keypoints).all(axis=3)] = np.nan
    return KeypointClip(keypoints)


def ctr_gcn_digest(path: Path, sample: str) -> str:
    """Digest of the frames of a sample. Raises `KeyError` for an unknown id."""
    return arrays_digest(_frames(path, sample))


def _frames(path: Path, sample: str) -> np.ndarray:
    part, _, number = sample.partition("/")
    content = _read(path).get(part)
    if content is None or not number.isdecimal() or int(number) >= len(content.labels):
        raise KeyError(sample)
    return np.asarray(content.frames[int(number)])


@remembered
def _read(path: Path) -> Mapping[str, _Part]:
    arrays = read_npz_arrays(path)
    found = {part: _part(path, arrays, part) for part in ("train", "test")}
    lengths = {content.frames.shape[1] for content in found.values()}
    if len(lengths) > 1:
        raise CorruptInput(f"{path}: 'x_train' and 'x_test' have {sorted(lengths)} frames; they should have as many.")
    return found


def _part(path: Path, arrays: Mapping[str, np.ndarray], part: str) -> _Part:
    frames, labels = arrays.get(f"x_{part}"), arrays.get(f"y_{part}")
    if frames is None or labels is None:
        raise CorruptInput(f"{path}: has no 'x_{part}' and 'y_{part}'; a file of CTR-GCN holds both of train and test.")
    if frames.ndim != 3 or frames.shape[2] != WIDTH or frames.dtype.kind != "f" or not frames.size:
        raise CorruptInput(f"{path}: 'x_{part}' is {frames.dtype} {frames.shape}, not (samples, frames, {WIDTH}).")
    if labels.ndim not in (1, 2) or len(labels) != len(frames):
        raise CorruptInput(f"{path}: 'y_{part}' has the shape {labels.shape}; give one label for each sample.")
    numbers = whole_numbers(path, f"y_{part}", labels)
    count = int(numbers.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    if labels.ndim == 2:
        if not (np.isin(numbers, (0, 1)).all() and (numbers.sum(axis=1) == 1).all()):
            raise CorruptInput(f"{path}: 'y_{part}' is not one-hot: some row has not exactly one 1.")
        numbers = numbers.argmax(axis=1)
    if numbers.min() < 0 or count > MAX_CLASSES:
        raise CorruptInput(f"{path}: 'y_{part}' holds labels from {numbers.min()} to {numbers.max()}.")
    return _Part(frames, numbers, count)


CTR_GCN_SKELETONS = SkeletonFormat(
    name="ctr-gcn",
    layout=NTU_25,
    unit=METRE,
    read=read_ctr_gcn,
    digest=ctr_gcn_digest,
    max_people=BODIES,
    source="skeletons prepared for CTR-GCN",
    license="that of the data set: research",
    citation="Chen et al., Channel-wise Topology Refinement Graph Convolution, ICCV 2021",
)
