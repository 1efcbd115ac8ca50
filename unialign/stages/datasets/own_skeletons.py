"""User skeletons in one npz file, made with a few lines of numpy: `--dataset skeletons --root FILE.npz`.

Legend: N samples, T frames of a sample, M persons, V joints, C coordinates, E edges.

Arrays: `ids` (N) strings, `labels` (N) numbers or names, `lengths` (N) frames of each sample, `keypoints`
(sum of T, M, V, C) with NaN where absent (or zeros: `absent_joints`). Optional: `scores` (sum of T, M, V), `splits` (N)
train, val or test, `groups` (N), `classes` names, `joints` (V) names, `edges` (E, 2), `mirror` (V), `centre`, `units`
("pixel" or "metre"), `image_size` (N, 2) height and width, `layout`, the name of a known layout. docs/own-dataset.md
walks through it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unialign.errors import CorruptInput
from unialign.stages.datasets.absent_joints import is_centered, zeros_for_absent
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.class_names import spoken_names
from unialign.stages.datasets.folder import slug
from unialign.stages.datasets.npz_files import check_shape, read_npz_arrays, texts, whole_numbers
from unialign.stages.datasets.packed_files import arrays_digest, remembered
from unialign.stages.datasets.scan import check_name, looks, refuse_collisions
from unialign.stages.datasets.skeleton_formats import METRE, PIXEL, KeypointClip, SkeletonFormat
from unialign.stages.datasets.splits import (
    PARTS,
    VAL_IS_TESTED,
    SplitRule,
    by_part,
    check_words,
    holdout,
    leave_groups_out,
    part_named,
)
from unialign.stages.skeleton_layouts import LAYOUTS, Layout, custom_layout, find_layout, layout_from
from unialign.words import counted

REQUIRED = ("ids", "labels", "lengths", "keypoints")
OPTIONAL = (
    *("scores", "splits", "groups", "classes", "joints", "edges", "mirror", "centre", "center", "units"),
    *("image_size", "layout"),
)
UNITS: Mapping[str, str] = {
    **dict.fromkeys(("pixel", "pixels", "px"), PIXEL),
    **dict.fromkeys(("metre", "metres", "meter", "meters", "m"), METRE),
}
MAX_CLASSES, MAX_PEOPLE, MAX_SIDE = 100_000, 64, 100_000
# A room is smaller than this in meters, and images are larger in pixels.
LARGEST_METRES, LARGEST_FRACTION = 100, 2
# Frames inspected to infer unit or layout from the values, and frames held in memory at once.
_LOOKED_AT, _AT_ONCE = 2000, 10_000


@dataclass(frozen=True, eq=False)
class OwnSkeletons:
    """A file that has been checked, samples in file order.

    keypoints: (sum of T, M, V, C). scores: (sum of T, M, V) or None. starts: first frame of each sample and the end.
    image_size: (N, 2) height and width, or None for meters. centered: whether 2-D keypoints are relative to a point of
    the body. assumed: what was assumed for missing data.
    """

    ids: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    keypoints: np.ndarray
    scores: np.ndarray | None
    starts: np.ndarray
    image_size: np.ndarray | None
    layout: Layout
    unit: str
    centered: bool
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    notes: tuple[str, ...]
    assumed: tuple[str, ...]
    places: Mapping[str, int]


def load_own_skeletons(root: Path) -> Dataset:
    """The dataset "skeletons" of one npz file; every sample's "skeleton" file is that file.

    Protocols: "split" if the file has `splits`, "group" if it has `groups`, and "holdout"; the first is the default.
    Raises `CorruptInput` naming the file and the array for a malformed file, `UsageError` for ids and classes that
    cannot be used and joints that do not form a skeleton.
    """
    file = read_own_skeletons(root)
    samples = [
        Sample(
            name,
            label,
            {"skeleton": root},
            {"group": file.groups[at]} if file.groups else {},
            own_skeleton_digest(root, name),
        )
        for at, (name, label) in enumerate(zip(file.ids, file.labels, strict=True))
    ]
    protocols: dict[str, SplitRule] = {}
    if file.splits:
        protocols["split"] = partial(by_part, dict(zip(file.ids, file.splits, strict=True)))
    if file.groups and len(set(file.groups)) > 1:
        protocols["group"] = partial(leave_groups_out, "group")
    return Dataset(
        name="skeletons",
        collection=f"skeletons-{slug(root.stem)}",
        root=root,
        classes=file.classes,
        samples=tuple(sorted(samples, key=lambda sample: sample.id)),
        protocols=protocols or {"holdout": holdout},
        notes=file.notes,
        skeleton_format=SkeletonFormat(
            name="npz, zeros are absent",
            layout=file.layout,
            unit=file.unit,
            read=read_own_skeleton,
            digest=own_skeleton_digest,
            max_people=file.keypoints.shape[1],
            scored=file.unit == METRE and file.scores is not None,
            source="skeletons in an npz file",
            license="that of the file",
        ),
    )


def read_own_skeleton(path: Path, sample: str) -> KeypointClip:
    """The clip of a sample. Raises `KeyError` for an id not in the file, else as `load_own_skeletons` does."""
    file = read_own_skeletons(path)
    at = file.places[sample]
    frames = slice(int(file.starts[at]), int(file.starts[at + 1]))
    keypoints = file.keypoints[frames].astype(np.float64)
    scores = None if file.scores is None else file.scores[frames].astype(np.float32)
    if np.isinf(keypoints).any() or (scores is not None and np.isinf(scores).any()):
        raise CorruptInput(f"{path}: {sample!r} holds infinite numbers; what is absent is NaN.")
    if file.unit == PIXEL:
        if keypoints.shape[3] == 2:
            score = np.ones(keypoints.shape[:3]) if scores is None else scores
            keypoints = np.concatenate([keypoints, score[..., None]], axis=3)
        scores = None
    absent = ~np.isfinite(keypoints).all(axis=3) | zeros_for_absent(keypoints, file.unit, centered=file.centered)
    keypoints[absent] = np.nan
    size = None if file.image_size is None else (int(file.image_size[at, 0]), int(file.image_size[at, 1]))
    return KeypointClip(keypoints.astype(np.float32), size, scores, file.assumed)


def own_skeleton_digest(path: Path, sample: str) -> str:
    """Digest of keypoints, scores and image size of a sample, not of its label. Raises as `read_own_skeleton` does."""
    file = read_own_skeletons(path)
    at = file.places[sample]
    frames = slice(int(file.starts[at]), int(file.starts[at + 1]))
    size = None if file.image_size is None else file.image_size[at].tolist()
    scores = None if file.scores is None else file.scores[frames]
    return arrays_digest(file.keypoints[frames], scores, facts=f"{file.unit} {size}")


@remembered
def read_own_skeletons(path: Path) -> OwnSkeletons:
    """The file, checked. Raises as `load_own_skeletons` does."""
    arrays = read_npz_arrays(path)
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise CorruptInput(
            f"{path}: has no {' and no '.join(map(repr, missing))}; a file of skeletons holds {', '.join(REQUIRED)} "
            "(docs/own-dataset.md)."
        )
    ids, starts, keypoints = _samples(path, arrays)
    count, (_, people, joints, _) = len(ids), keypoints.shape
    check_shape(path, arrays, "scores", keypoints.shape[:3], "one for each joint of keypoints")
    scores = _numbers(path, "scores", arrays["scores"]) if "scores" in arrays else None
    unit = _unit(path, arrays, keypoints, scores)
    if unit == PIXEL and keypoints.shape[3] == 3 and scores is not None:
        raise CorruptInput(f"{path}: keypoints have a third number beside x and y, and scores are given too; drop one.")
    if unit == PIXEL:
        _check_pixels(path, keypoints)
    sizes, assumed = _image_sizes(path, arrays, keypoints, count) if unit == PIXEL else (None, ())
    layout, note = _layout(path, arrays, keypoints, unit)
    labels, classes, named = _classes(path, arrays, count)
    splits, groups = _parts(path, arrays, count), _groups(path, arrays, count)
    centered = unit == PIXEL and is_centered(_looked_at(keypoints))
    unused = [f"array {name!r} is not used" for name in sorted(arrays) if name not in (*REQUIRED, *OPTIONAL)]
    own = [name for name in ("mirror", "centre", "center") if name in arrays and "edges" not in arrays]
    unused += [f"{name!r} is not used without 'edges'" for name in own]
    if "layout" in arrays and {"joints", "edges"} & arrays.keys():
        unused.append("'layout' is not used beside 'joints' and 'edges'")
    if "image_size" in arrays and unit == METRE:
        unused.append("image_size is not used: keypoints are in metres")
    notes = (
        f"{count:,} samples of {joints} joints ({layout.name}) in {unit}s, up to {counted(people, 'person')}",
        *([note] if note else []),
        *assumed,
        *_zeros(keypoints, unit, centered=centered),
        *([VAL_IS_TESTED] if splits and "test" not in splits else []),
        *unused,
        *(() if named else ("classes have no names; give `classes`, or names as `labels`",)),
    )
    places = {name: at for at, name in enumerate(ids)}
    return OwnSkeletons(
        ids=ids,
        labels=labels,
        classes=classes,
        keypoints=keypoints,
        scores=scores,
        starts=starts,
        image_size=sizes,
        layout=layout,
        unit=unit,
        centered=centered,
        splits=splits,
        groups=groups,
        notes=notes,
        assumed=assumed,
        places=places,
    )


def _zeros(keypoints: np.ndarray, unit: str, *, centered: bool) -> list[str]:
    """A note on joints at the origin that are taken as absent."""
    count = 0
    for start in range(0, len(keypoints), _AT_ONCE):
        count += int(zeros_for_absent(keypoints[start : start + _AT_ONCE], unit, centered=centered).sum())
    if not count:
        return []
    share = 100 * count / keypoints[..., 0].size
    return [f"{count:,} joints ({share:.2g} %) at the origin are taken as absent, as NaN is"]


def _samples(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Ids, first frames (N + 1) and keypoints."""
    if arrays["ids"].ndim != 1 or not arrays["ids"].size:
        raise CorruptInput(f"{path}: 'ids' has the shape {arrays['ids'].shape}; give one id for each sample.")
    ids = tuple(check_name(name, f"{path}: ids") for name in texts(path, "ids", arrays["ids"]))
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise CorruptInput(f"{path}: two samples have the id {twice!r}; ids must be unique.")
    refuse_collisions(ids, f"{path}: ids")
    for name in ("labels", "lengths"):
        check_shape(path, arrays, name, (len(ids),), "one for each id")
    lengths = whole_numbers(path, "lengths", arrays["lengths"])
    if lengths.min() < 1:
        raise CorruptInput(
            f"{path}: {ids[int(lengths.argmin())]!r} has {lengths.min()} frames; each sample has one or more."
        )
    keypoints = _numbers(path, "keypoints", arrays["keypoints"])
    if keypoints.ndim != 4 or keypoints.shape[3] not in (2, 3):
        raise CorruptInput(
            f"{path}: 'keypoints' has the shape {keypoints.shape}; it should be (frames of all samples, persons, "
            "joints, 2 or 3)."
        )
    if lengths.sum() != len(keypoints):
        raise CorruptInput(
            f"{path}: 'lengths' adds up to {lengths.sum()} frames, but 'keypoints' has {len(keypoints)}."
        )
    if not keypoints.shape[2]:
        raise CorruptInput(f"{path}: 'keypoints' has the shape {keypoints.shape}, which leaves no joints.")
    if not 1 <= keypoints.shape[1] <= MAX_PEOPLE:
        raise CorruptInput(f"{path}: 'keypoints' has {keypoints.shape[1]} persons; 1 to {MAX_PEOPLE} are read.")
    return ids, np.concatenate([[0], np.cumsum(lengths)]), keypoints


def _numbers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "fiu" or values.dtype.itemsize > 8:
        raise CorruptInput(f"{path}: {name!r} is an array of {values.dtype}, not of numbers.")
    return values


def _looked_at(keypoints: np.ndarray) -> np.ndarray:
    """Some frames of all persons, (frames, V, C) float64, spread over the file; NaN where absent."""
    step = max(1, len(keypoints) // _LOOKED_AT)
    some = keypoints[::step].astype(np.float64).reshape(-1, *keypoints.shape[2:])
    some[~np.isfinite(some).all(axis=2)] = np.nan
    return np.asarray(some)


def _unit(path: Path, arrays: Mapping[str, np.ndarray], keypoints: np.ndarray, scores: np.ndarray | None) -> str:
    """ "pixel" or "metre": as the file says, or inferred from the number of coordinates and their magnitude."""
    if "units" in arrays:
        if arrays["units"].size != 1:
            raise CorruptInput(f"{path}: 'units' has the shape {arrays['units'].shape}; give one word for all samples.")
        (said,) = texts(path, "units", arrays["units"])
        unit = UNITS.get(said.strip().lower())
        if unit is None:
            raise CorruptInput(f"{path}: 'units' is {said[:40]!r}; known are pixel and metre.")
        if unit == METRE and keypoints.shape[3] == 2:
            raise CorruptInput(f"{path}: keypoints with two coordinates are in pixels, but 'units' says metre.")
        return unit
    if keypoints.shape[3] == 2:
        return PIXEL
    largest = np.nanmax(np.abs(_looked_at(keypoints)), axis=(0, 1), initial=0)
    if largest.max() <= LARGEST_METRES and not (largest[:2].max() > 20 and largest[2] <= 1):
        return METRE
    if largest[2] <= 1 and scores is None:
        return PIXEL
    raise CorruptInput(
        f"{path}: keypoints up to {largest.max():.0f} are no metres, and their third number up to {largest[2]:.0f} is "
        "no score; give 2-D keypoints in pixels, or 3-D ones in metres."
    )


def _check_pixels(path: Path, keypoints: np.ndarray) -> None:
    """Raise `CorruptInput` for fractions of an image in place of pixels."""
    largest = np.nanmax(np.abs(_looked_at(keypoints)[..., :2]), initial=0)
    if 0 < largest <= LARGEST_FRACTION:
        raise CorruptInput(
            f"{path}: 'keypoints' up to {largest:.3g} are no pixels; multiply fractions by width and height of images."
        )


def _image_sizes(
    path: Path, arrays: Mapping[str, np.ndarray], keypoints: np.ndarray, count: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Height and width (N, 2) of each sample's image; if not in the file, the smallest that contains all joints."""
    if "image_size" in arrays:
        sizes = whole_numbers(path, "image_size", arrays["image_size"])
        if sizes.shape == (2,):
            sizes = np.broadcast_to(sizes, (count, 2))
        check_shape(path, {"image_size": sizes}, "image_size", (count, 2), "height and width for each id")
        if sizes.min() < 1 or sizes.max() > MAX_SIDE:
            raise CorruptInput(f"{path}: 'image_size' holds {sizes.min()} to {sizes.max()}, no heights and widths.")
        return sizes, ()
    largest = np.ones(2)
    for start in range(0, len(keypoints), _AT_ONCE):
        place = keypoints[start : start + _AT_ONCE, ..., :2].astype(np.float64).reshape(-1, 2)
        largest = np.fmax(largest, np.nanmax(np.where(np.isfinite(place), place, np.nan), axis=0, initial=1))
    width, height = np.ceil(largest).tolist()
    if max(width, height) > MAX_SIDE:
        raise CorruptInput(f"{path}: keypoints up to {max(width, height):.0f} are no pixels of an image.")
    sizes = np.broadcast_to(np.array([height, width], np.int64), (count, 2))
    said = f"no 'image_size': an image of {int(sizes[0, 1])} x {int(sizes[0, 0])}, which holds all joints, is assumed"
    return sizes, (said,)


def _layout(path: Path, arrays: Mapping[str, np.ndarray], keypoints: np.ndarray, unit: str) -> tuple[Layout, str]:
    """The layout that the file defines, names, or matches by its number of joints; and a note on how it was found."""
    count = keypoints.shape[2]
    if "joints" in arrays or "edges" in arrays:
        if "joints" in arrays:
            check_shape(path, arrays, "joints", (count,), "a name for each joint of keypoints")
        edges = whole_numbers(path, "edges", arrays["edges"]) if "edges" in arrays else None
        names = (
            texts(path, "joints", arrays["joints"]) if "joints" in arrays else [f"joint {at}" for at in range(count)]
        )
        if edges is None:
            spoken = tuple(name.replace("_", " ") for name in names)
            for layout in LAYOUTS.values():
                if layout.joints == spoken:
                    return layout, ""
            raise CorruptInput(f"{path}: 'joints' are those of no known layout; give 'edges' too, their bones.")
        check_shape(path, {"edges": edges}, "edges", (count - 1, 2), f"the {count - 1} bones of {count} joints")
        mirror = whole_numbers(path, "mirror", arrays["mirror"]) if "mirror" in arrays else None
        middle = next((arrays[name] for name in ("centre", "center") if name in arrays), None)
        if middle is not None and middle.size != 1:
            raise CorruptInput(f"{path}: 'centre' is {middle.shape}, not the number of one joint.")
        made = custom_layout(
            names,
            [(first, second) for first, second in edges.tolist()],
            center=None if middle is None else int(whole_numbers(path, "centre", middle).ravel()[0]),
            mirror=None if mirror is None else mirror.ravel().tolist(),
            where=str(path),
        )
        return made, ""
    if "layout" in arrays:
        said = texts(path, "layout", arrays["layout"])
        named = layout_from(said[0] if len(said) == 1 else "", f"{path}: layout")
        if len(named.joints) != count:
            raise CorruptInput(
                f"{path}: the layout {named.name} has {len(named.joints)} joints, keypoints have {count}."
            )
        return named, ""
    return find_layout(count, unit, _looked_at(keypoints), str(path))


def _classes(path: Path, arrays: Mapping[str, np.ndarray], count: int) -> tuple[tuple[int, ...], tuple[str, ...], bool]:
    """Label of each sample, names of the classes, and whether these are real names."""
    given = texts(path, "classes", arrays["classes"]) if "classes" in arrays else None
    if given is not None and len(set(given)) < len(given):
        twice = Counter(given).most_common(1)[0][0]
        raise CorruptInput(f"{path}: 'classes' names {twice[:80]!r} twice; give each class its own name.")
    if arrays["labels"].dtype.kind in "US":
        names = texts(path, "labels", arrays["labels"])
        order = {name: at for at, name in enumerate(given or sorted(set(names)))}
        unknown = next((name for name in names if name not in order), None)
        if unknown is not None:
            raise CorruptInput(f"{path}: the label {unknown[:80]!r} is none of 'classes'.")
        return tuple(order[name] for name in names), spoken_names(given or list(order), str(path)), True
    labels = whole_numbers(path, "labels", arrays["labels"])
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        raise CorruptInput(f"{path}: 'labels' goes from {labels.min()} to {labels.max()}; labels count from 0.")
    if given is not None and labels.max() >= len(given):
        raise CorruptInput(f"{path}: 'labels' goes up to {labels.max()}, but 'classes' has {len(given)} names.")
    unnamed = tuple(f"class {label}" for label in range(int(labels.max()) + 1))
    return tuple(labels.tolist()), unnamed if given is None else spoken_names(given, str(path)), given is not None


def _parts(path: Path, arrays: Mapping[str, np.ndarray], count: int) -> tuple[str, ...]:
    """The part of each sample, "" for a sample that is in none; empty if the file has no splits."""
    if "splits" not in arrays:
        return ()
    check_shape(path, arrays, "splits", (count,), "one for each id")
    words = texts(path, "splits", arrays["splits"])
    parts = [part_named(word) if word.strip() else "" for word in words]
    if None in parts:
        wrong = words[parts.index(None)]
        raise CorruptInput(f"{path}: 'splits' has {wrong[:40]!r}; known are {', '.join(PARTS)}, in any case.")
    check_words([word for word in words if word.strip()], str(path))
    if "train" not in parts or not {"val", "test"} & set(parts):
        raise CorruptInput(f"{path}: 'splits' needs a train part and one to test on.")
    return tuple(part or "" for part in parts)


def _groups(path: Path, arrays: Mapping[str, np.ndarray], count: int) -> tuple[str, ...]:
    if "groups" not in arrays:
        return ()
    check_shape(path, arrays, "groups", (count,), "one for each id")
    if arrays["groups"].dtype.kind in "US":
        groups = texts(path, "groups", arrays["groups"])
        known: dict[str, str] = {}
        for group in groups:
            if not group.strip():
                raise CorruptInput(f"{path}: 'groups' is empty for some sample; give each its own, such as its id.")
            if (other := known.setdefault(looks(group), group)) != group:
                raise CorruptInput(f"{path}: 'groups' has {other[:80]!r} and {group[:80]!r}, which read the same.")
        return tuple(groups)
    return tuple(str(number) for number in whole_numbers(path, "groups", arrays["groups"]).tolist())
