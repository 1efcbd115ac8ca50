"""Folders of videos as labels: one folder per class, or train/, val/ and test/ with class folders in each."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from unialign.errors import UsageError
from unialign.stages.datasets.labels_csv import LabelList, LabelRow
from unialign.stages.datasets.scan import VIDEOS, ClipKind, check_name, kinds_of, walk_files
from unialign.stages.datasets.splits import check_words, part_named
from unialign.words import counted

_SHOWN = 5


def read_class_folders(root: Path, roots: Sequence[Path] = (), kind: ClipKind = VIDEOS) -> LabelList:
    """One row per clip: its class is the folder below the root, or below the folder of the split's
    part.

    If every folder with videos is named like a part of a split (see `splits.PARTS`), the folders inside are the
    classes, and the rows have the part as their split. Videos may be nested deeper in a class folder
    (class/person/clip). Notes name folders that are not used as classes because they contain no readable file, and
    count the files that are skipped.
    Raises `UsageError`, listing what was found, for videos next to class folders, parts next to classes, class folders
    on different levels, and a single class; for names and links as `check_name` and `walk_files` do.
    """
    videos: list[PurePosixPath] = []
    folders: dict[PurePosixPath, PurePosixPath] = {}  # of images, each with its first one
    others: list[PurePosixPath] = []
    for entry in walk_files(root, roots):
        name = PurePosixPath(Path(entry.path).relative_to(root).as_posix())
        clip = kind.clip_at(name)
        if clip == name:
            videos.append(PurePosixPath(check_name(str(name), str(root))))
        elif clip is not None and len(name.parts) > 2:
            folders.setdefault(name.parent, name)
        else:
            others.append(name)
    # Images beside a video, or in a folder named as it is, are pictures of it.
    shown = {each for video in videos for each in (video.parent, video.with_suffix(""))}
    videos += [PurePosixPath(check_name(str(each), str(root))) for each in folders if each not in shown]
    others += [first for each, first in folders.items() if each in shown]
    if not videos:
        seen = f"; there are {kinds_of(others)}" if others else ""
        raise UsageError(
            f"{root}: no {kind.title} in class folders found{seen}; expected <class>/<name>.mp4 or a CSV of path,label."
        )
    level = _level_of_classes(root, videos)
    _check_levels(root, videos, level)
    rows = [
        LabelRow(0, str(name), name.parts[level], {"split": str(part_named(name.parts[0]))} if level else {})
        for name in videos
    ]
    notes = (*_same_inside(videos, level), *_silent_folders(root, videos, others, level), *_not_taken(others))
    return LabelList(tuple(rows), notes)


def _level_of_classes(root: Path, videos: Sequence[PurePosixPath]) -> int:
    """0 if the folders in the root are classes, 1 if they are the parts of a split."""
    tops = sorted({name.parts[0] for name in videos if len(name.parts) > 1})
    parts = [top for top in tops if part_named(top)]
    if parts and len(parts) < len(tops):
        classes = [top for top in tops if top not in parts]
        raise UsageError(
            f"{root}: {_listed(parts)} would be parts of a split, {_listed(classes)} beside them classes; move them "
            "apart, or give a CSV of path,label."
        )
    numbered = [top for top in tops if part_named(top.rstrip("0123456789_- ."))]
    if numbered and len(numbered) == len(tops) and not parts:
        raise UsageError(
            f"{root}: {_listed(tops)} would be parts of several splits; give one of them as folders train, val and "
            "test, or a CSV of path,label,split."
        )
    check_words(parts, str(root))
    return 1 if parts else 0


def _check_levels(root: Path, videos: Sequence[PurePosixPath], level: int) -> None:
    depths: dict[str, set[int]] = defaultdict(set)
    for name in videos:
        if len(name.parts) <= level + 1:
            where = f"in {name.parts[0]}/ without a class folder" if level else "beside the class folders"
            raise UsageError(f"{root / name}: lies {where}, so it has no label; move it or give a CSV.")
        depths[name.parts[level]].add(len(name.parts) - level)
    flat, deep = ({each for each, found in depths.items() if (2 in found) == direct} for direct in (True, False))
    if flat and deep:
        raise UsageError(
            f"{root}: {_listed(flat)} hold videos themselves, {_listed(deep)} only in folders of their own, so the "
            "classes would be on two levels; move them to one, or give a CSV of path,label."
        )
    if len(depths) == 1:
        (only,) = depths
        inner = sorted({name.parts[level + 1] for name in videos if len(name.parts) > level + 2})
        way = f"give --root {root / only}" if level == 0 else "move them up to its place"
        what = "parts of a split" if all(part_named(each) for each in inner) else "classes"
        advice = f"with the folders {_listed(inner)} as {what}, {way}; otherwise " if inner else ""
        raise UsageError(
            f"{root}: all of {counted(len(videos), 'video')} lie in one class folder, {only!r}, which "
            "leaves nothing to tell apart; "
            f"{advice}give another data root, or a CSV of path,label."
        )


def _same_inside(videos: Sequence[PurePosixPath], level: int) -> list[str]:
    """A note if several classes have subfolders of one name: those may be the classes, the outer ones persons."""
    outer: dict[str, set[str]] = defaultdict(set)
    for name in videos:
        if len(name.parts) > level + 2:
            outer[name.parts[level + 1]].add(name.parts[level])
    shared = [inner for inner, classes in outer.items() if len(classes) > 1]
    if not shared:
        return []
    classes = _listed(set().union(*outer.values()))
    return [
        f"classes are the outer folders ({classes}), several of which have the same folders inside ({_listed(shared)})"
    ]


def _silent_folders(
    root: Path, videos: Sequence[PurePosixPath], others: Sequence[PurePosixPath], level: int
) -> list[str]:
    """A note for each folder without a video at the class level, so that no class is dropped silently."""
    spoken = {name.parts[:end] for name in videos for end in (1, 2)}
    notes = []
    for parent in [root, *(root / part for part in sorted({name.parts[0] for name in videos}))][: None if level else 1]:
        for folder in sorted(each.name for each in os.scandir(parent) if each.is_dir()):
            parts = (parent / folder).relative_to(root).parts
            if folder.startswith(".") or parts in spoken:
                continue
            files = [name for name in others if name.parts[: len(parts)] == parts]
            what = f"none of its files is a video that is read ({kinds_of(files)})" if files else "it is empty"
            if (parent / folder).is_symlink():
                what = f"a link to {os.path.relpath(os.path.realpath(parent / folder), root)}" if not files else what
            notes.append(f"folder {'/'.join(parts)} is no class: {what}")
    return notes


def _not_taken(others: Sequence[PurePosixPath]) -> list[str]:
    return [f"files not taken: {kinds_of(others)}"] if others else []


def _listed(names: Sequence[str] | set[str]) -> str:
    ordered = sorted(names)
    more = [f"{len(ordered) - _SHOWN} more"] if len(ordered) > _SHOWN else []
    return ", ".join([*(f"{name}/" for name in ordered[:_SHOWN]), *more])
