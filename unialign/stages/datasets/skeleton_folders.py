"""Skeletons in files of other programs, labeled by folders or a list; and Kinetics-skeleton, by its own lists."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.class_names import spoken_names
from unialign.stages.datasets.folder import labeled_clips, slug
from unialign.stages.datasets.keypoint_files import (
    KEYPOINT_FORMATS,
    KINETICS_IMAGE,
    keypoint_clip,
    read_keypoints,
)
from unialign.stages.datasets.official_lists import find_lists, read_json
from unialign.stages.datasets.scan import ClipKind, check_name, refuse_link_outside, walk_files
from unialign.stages.datasets.skeleton_formats import PIXEL, SkeletonFormat
from unialign.stages.datasets.splits import by_part
from unialign.stages.skeleton_layouts import COCO_18, find_layout

_SUFFIXES = (".json", ".csv")
# Clips that are looked at for the layout before giving up: the first ones may show nobody.
_LOOKED_AT = 20


def load_skeleton_files(root: Path, labels: Path | None = None, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "skeleton-files": clips of one of `KEYPOINT_FORMATS` in class folders, or listed by a CSV.

    Labels, splits and ids are those of `folder.load_folder`. The joint layout follows from the number of joints of the
    first clip with a person. Raises `UsageError` for a root without such files or with files of several formats, for
    joints of no known layout, and as `load_folder` does; `CorruptInput` if none of the first clips can be read.
    """
    name = _format_below(root, roots)
    form = KEYPOINT_FORMATS[name]
    kind = ClipKind("skeleton", form.clip_at, _name_of, f"clips ({form.title})")
    dataset = labeled_clips(root, labels, roots, kind)
    found = _format_of(name, [sample.files["skeleton"] for sample in dataset.samples if sample.files])
    note = f"{form.title}; {len(found.layout.joints)} joints ({found.layout.name}) in {found.unit}s, by the first clip"
    return replace(
        dataset,
        name="skeleton-files",
        collection=f"skeleton-files-{slug(root.resolve().name)}",
        skeleton_format=found,
        notes=(*dataset.notes, note),
    )


def _name_of(path: PurePath) -> str:
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def _format_below(root: Path, roots: Sequence[Path]) -> str:
    """The only format of the files below the root."""
    found: dict[str, str] = {}
    for entry in walk_files(root, roots):
        for name, form in KEYPOINT_FORMATS.items():
            if form.clip_at(PurePosixPath(entry.name)) is not None:
                found.setdefault(name, entry.path)
                break
    if len(found) != 1:
        known = ", ".join(form.title for form in KEYPOINT_FORMATS.values())
        what = " and ".join(found.values()) if found else "none is there"
        raise UsageError(f"{root}: expected files of one format ({known}), but {what}.")
    return next(iter(found))


def _format_of(name: str, clips: Sequence[Path]) -> SkeletonFormat:
    """The format with the layout and unit of the first clip that shows a person."""
    for number, path in enumerate(clips):
        try:
            parsed = KEYPOINT_FORMATS[name].parse(path)
            keypoints = keypoint_clip(path, parsed).keypoints
        except CorruptInput:
            if number + 1 < min(len(clips), _LOOKED_AT):
                continue
            raise
        shown = keypoints.reshape(-1, *keypoints.shape[2:])
        layout, _ = find_layout(keypoints.shape[2], parsed.unit, np.asarray(shown), str(path))
        return SkeletonFormat(
            name="csv, zeros are absent" if name == "csv" else name,
            layout=layout,
            unit=parsed.unit,
            read=read_keypoints,
            source=KEYPOINT_FORMATS[name].title,
            license="that of the files",
        )
    raise UsageError("no clip of the list is here.")


def load_kinetics_skeleton(root: Path, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "kinetics-skeleton": poses of Kinetics-400 by OpenPose, as released with ST-GCN.

    Source: S. Yan et al., AAAI 2018 (yysijie/st-gcn): `kinetics_train/<id>.json`, `kinetics_val/`, and
    `kinetics_train_label.json`, `kinetics_val_label.json`: `{id: {"has_skeleton", "label", "label_index"}}`. 18 joints
    as fractions of a 340 x 256 image. A clip without a skeleton or without its file is kept, without files. Raises
    `UsageError` without both label files, and for malformed ones.
    """
    names = {"train": "kinetics_train_label.json", "val": "kinetics_val_label.json"}
    lists = find_lists(root, roots, {part: partial(str.__eq__, name) for part, name in names.items()})
    files: dict[str, Path] = {}
    for entry in walk_files(root, roots):
        path = Path(entry.path)
        if path.suffix == ".json" and path.name not in names.values():
            if entry.is_symlink():
                refuse_link_outside(path, root, roots)
            other = files.setdefault(path.stem, path)
            if other != path:
                raise UsageError(f"{other} and {path}: two files of one clip; remove or move one of them.")
    labels: dict[str, int] = {}
    part_of: dict[str, str] = {}
    classes: dict[int, str] = {}
    lost = 0
    for part, paths in lists.items():
        if len(paths) != 1:
            raise UsageError(f"{root}: the list {names[part]} is needed below it, once.")
        content = read_json(paths[0])
        for clip, facts in content.items() if isinstance(content, dict) else [("the file", None)]:
            facts = facts if isinstance(facts, dict) else {}
            label, index = facts.get("label"), facts.get("label_index")
            if not isinstance(label, str) or type(index) is not int or not 0 <= index < 1000:
                raise UsageError(f"{paths[0]}: {clip[:80]!r} has no 'label' and 'label_index'.")
            if classes.setdefault(index, label) != label or part_of.setdefault(clip, part) != part:
                raise UsageError(f"{paths[0]}: {clip[:80]!r} has another label or part than elsewhere.")
            labels[check_name(clip, str(paths[0]))] = index
            lost += not facts.get("has_skeleton", True) or clip not in files
    if sorted(classes) != list(range(len(classes))):
        raise UsageError(f"{root}: the label indices of its lists are not 0 to {len(classes) - 1}.")
    samples = tuple(
        Sample(clip, labels[clip], {"skeleton": files[clip]} if clip in files else {}) for clip in sorted(labels)
    )
    return Dataset(
        name="kinetics-skeleton",
        collection="kinetics-skeleton",
        root=root,
        classes=spoken_names([classes[index] for index in range(len(classes))], str(root)),
        samples=samples,
        protocols={"official": partial(by_part, part_of)},
        notes=(f"{lost:,} clips have no skeleton here",) if lost else (),
        published=True,
        skeleton_format=KINETICS_SKELETONS,
        listed={"official": part_of},
    )


KINETICS_SKELETONS = SkeletonFormat(
    name="kinetics-skeleton",
    layout=COCO_18,
    unit=PIXEL,
    read=read_keypoints,
    source=f"poses of OpenPose, released with ST-GCN, of images of {KINETICS_IMAGE[1]} x {KINETICS_IMAGE[0]}",
    license="that of the data set",
    citation="Yan, Xiong, Lin, Spatial Temporal Graph Convolutional Networks, AAAI 2018",
)
