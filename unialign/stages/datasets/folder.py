"""Any folder of videos: one folder a class, or a CSV that gives each video its label."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from unialign.cache.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.labels_csv import GROUP_COLUMNS, LabelList, LabelRow, read_label_rows
from unialign.stages.datasets.scan import VIDEO_SUFFIXES, check_name, refuse_collisions, refuse_link_outside, walk_files
from unialign.stages.datasets.splits import SplitRule, by_part, holdout, leave_groups_out


def load_folder(root: Path, labels: Path | None = None) -> Dataset:
    """The dataset "folder": class folders with videos, or the clips of a CSV (`labels`, else `labels.csv` in the root).

    Ids are paths relative to the root without their suffix ("emergency/roomA_00"). Classes are the folder names, or
    the labels of the CSV, sorted (by value when all are whole numbers), with underscores read as spaces. Protocols:
    "split" where the CSV has such a column (then the default), "holdout" always, "group" where the CSV has a group,
    subject or room column with two or more values. A video that the CSV lists and the disk lacks stays a sample
    without files. Descriptions of a class are the different texts of its rows, those of rows marked as test left out.
    Raises `UsageError` for hostile or colliding names, links out of the root, double ids and unreadable lists.
    """
    if labels is None and (root / "labels.csv").is_file():
        labels = root / "labels.csv"
    if labels is not None and not labels.is_file():
        raise UsageError(f"{labels}: the list of labels is not a file; give a CSV with path,label lines.")
    listed = LabelList(tuple(_rows_of_class_folders(root))) if labels is None else read_label_rows(labels)
    rows = listed.rows
    if not rows:
        raise UsageError(
            f"{root}: no videos in class folders found; expected <class>/<name>.mp4 or a CSV of path,label."
        )
    names = _sorted_labels({row.label for row in rows})
    samples = _samples(root, rows, {name: index for index, name in enumerate(names)})
    if labels is not None and not any(sample.files for sample in samples):
        raise UsageError(
            f"{labels}: none of the {len(samples)} videos it lists lies below {root}; check the data root."
        )
    return Dataset(
        name="folder",
        collection=f"folder-{slug(root.resolve().name)}",
        root=root,
        classes=_readable(names, root),
        samples=samples,
        protocols=_protocols(samples),
        descriptions=_descriptions(rows, names),
        notes=tuple(f"column {name!r} is not used" for name in listed.unused),
    )


def slug(name: str) -> str:
    """The name in lower-case letters, digits and single hyphens; eight digits of its SHA-256 where none remain."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return plain[:64] or hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]


def _rows_of_class_folders(root: Path) -> list[LabelRow]:
    rows = []
    for entry in walk_files(root):
        path = Path(entry.path)
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        name = check_name(path.relative_to(root).as_posix(), str(root))
        folder = PurePosixPath(name).parts[0]
        if folder == name:
            raise UsageError(f"{path}: lies beside the class folders, so it has no label; move it or give a CSV.")
        rows.append(LabelRow(0, name, folder))
    return rows


def _samples(root: Path, rows: Sequence[LabelRow], label_of: Mapping[str, int]) -> tuple[Sample, ...]:
    real_root = os.path.realpath(root)
    real_folders: dict[Path, bool] = {}
    by_id: dict[str, tuple[Sample, str]] = {}
    for row in rows:
        path = root / row.path
        if path.parent not in real_folders:
            real_folders[path.parent] = Path(os.path.realpath(path.parent)).is_relative_to(real_root)
        if not real_folders[path.parent] or path.is_symlink():
            refuse_link_outside(path, root)
        files = {"video": path} if path.is_file() else {}
        identifier = PurePosixPath(row.path).with_suffix("").as_posix()
        sample = Sample(identifier, label_of[row.label], files, row.attributes)
        _, other = by_id.setdefault(identifier, (sample, row.path))
        if other != row.path:
            raise UsageError(
                f"{root / other} and {path}: both give the sample id {identifier!r}; rename or remove one of them."
            )
    refuse_collisions(by_id, str(root))
    return tuple(by_id[identifier][0] for identifier in sorted(by_id))


def _sorted_labels(labels: set[str]) -> list[str]:
    if all(label.isascii() and label.isdigit() for label in labels):
        return sorted(labels, key=lambda label: (len(label.lstrip("0")), label.lstrip("0"), label))
    return sorted(labels)


def _readable(names: Sequence[str], root: Path) -> tuple[str, ...]:
    readable: dict[str, str] = {}
    for name in names:
        spoken = " ".join(name.replace("_", " ").split())
        other = readable.setdefault(spoken, name)
        if other != name or not spoken:
            raise UsageError(f"{root}: the classes {other!r} and {name!r} read the same; rename one.")
    return tuple(readable)


def _protocols(samples: Sequence[Sample]) -> dict[str, SplitRule]:
    columns = samples[0].attributes
    protocols: dict[str, SplitRule] = {}
    if "split" in columns:
        protocols["split"] = partial(by_part, {sample.id: str(sample.attributes["split"]) for sample in samples})
    protocols["holdout"] = holdout
    group = next((name for name in GROUP_COLUMNS if name in columns), None)
    if group is not None and len({sample.attributes[group] for sample in samples}) > 1:
        protocols["group"] = partial(leave_groups_out, group)
    return protocols


def _descriptions(rows: Sequence[LabelRow], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    texts: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        if row.description and row.attributes.get("split") != "test":
            texts[row.label][row.description] = None
    return tuple(tuple(texts[name]) for name in names) if texts else ()
