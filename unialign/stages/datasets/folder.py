"""Any folder of videos: one folder per class, or a CSV that gives each video its label."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample, Span
from unialign.stages.datasets.class_folders import read_class_folders
from unialign.stages.datasets.class_names import spoken_names
from unialign.stages.datasets.labels_csv import GROUP_COLUMNS, LabelRow, read_label_rows
from unialign.stages.datasets.scan import VIDEOS, ClipKind, refuse_collisions, refuse_link_outside
from unialign.stages.datasets.splits import VAL_IS_TESTED, SplitRule, by_attribute, by_part, holdout, leave_groups_out
from unialign.stages.video_containers import VIDEO_SUFFIXES
from unialign.words import counted

# Maximum number of videos that are compared with a list.
MOST_LOOKED_AT = 1_000_000
# UCF101: v_ApplyEyeMakeup_g08_c01.avi is clip 1 of group 8. Its three official splits test these groups.
_UCF101 = re.compile(r"v_.+_(g\d\d)_c\d\d", re.ASCII)
_UCF101_TESTS = {f"ucf101-{n + 1}": tuple(f"g{group:02d}" for group in range(7 * n + 1, 7 * n + 8)) for n in range(3)}


def load_folder(root: Path, labels: Path | None = None, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "folder": class folders with videos or folders of images, or the clips of a CSV (`labels`, else
    `labels.csv` in the root).

    roots: other folders that links and absolute paths may lead into. Ids are paths relative to the root (or to the
    folder in `roots`) without their suffix ("emergency/roomA_00"). Classes are the folder names, see
    `read_class_folders`, or the labels of the CSV, sorted (by value when all are whole numbers), normalized by
    `spoken_names`. Protocols, the first is the default: "split" if the CSV has such a column or the folders are the
    parts of a split; "ucf101-1" to "ucf101-3" if all files are named as in UCF101; "group" if the CSV (or UCF101's file
    names) has groups with two or more values; "holdout" always. A video that is in the CSV but not on disk stays a
    sample without files. The descriptions of a class are the distinct ones of its rows, except rows marked as test.
    Raises `UsageError` for hostile or colliding names, links out of the root, duplicate ids, unreadable lists, and
    folders that `read_class_folders` rejects.
    """
    found = labeled_clips(root, labels, roots, VIDEOS)
    unlisted = _unlisted(root, found.samples) if labels is not None or (root / "labels.csv").is_file() else ()
    return replace(found, notes=(*found.notes, *unlisted))


def labeled_clips(root: Path, labels: Path | None, roots: Sequence[Path], kind: ClipKind) -> Dataset:
    """Clips of any kind, labeled by folders or a CSV. Raises as `load_folder` does."""
    if labels is None and (root / "labels.csv").is_file():
        labels = root / "labels.csv"
    if labels is not None and not labels.is_file():
        raise UsageError(f"{labels}: the list of labels is not a file; give a CSV with path,label lines.")
    listed = read_class_folders(root, roots, kind) if labels is None else read_label_rows(labels, root, roots, kind)
    rows = _with_groups(listed.rows)
    names = _sorted_labels({row.label for row in rows})
    samples = _samples(root, roots, rows, {name: index for index, name in enumerate(names)}, kind)
    if labels is not None and not any(sample.files for sample in samples):
        raise UsageError(
            f"{labels}: none of {counted(len(samples), kind.file)} it lists is in {root}; check the data root."
        )
    return Dataset(
        name="folder",
        collection=f"folder-{slug(root.resolve().name)}",
        root=root,
        classes=spoken_names(names, str(root)),
        samples=samples,
        protocols=_protocols(samples),
        descriptions=_descriptions(rows, names),
        notes=(*listed.notes, *([VAL_IS_TESTED] if _two_parts(samples) else [])),
    )


def _two_parts(samples: Sequence[Sample]) -> bool:
    parts = {sample.attributes.get("split") for sample in samples}
    return "val" in parts and "test" not in parts


def _unlisted(root: Path, samples: Sequence[Sample]) -> list[str]:
    """A note on the videos below the root that a list does not name, since a line may have been forgotten."""
    listed = {str(sample.files["video"]) for sample in samples if sample.files}
    left = sorted(path for path in islice(_videos_below(root), MOST_LOOKED_AT) if path not in listed)
    if not left:
        return []
    first = os.path.relpath(left[0], root)
    return [f"{counted(len(left), 'video')} below the data root not in the list, such as {first}"]


def _videos_below(root: Path) -> Iterator[str]:
    """Paths of videos by name; links to folders and hidden files are left out."""
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield os.path.join(folder, name)


def slug(name: str) -> str:
    """The name in lower-case letters, digits and single hyphens; eight digits of its SHA-256 if nothing remains."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return plain[:64] or hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]


def _with_groups(rows: Sequence[LabelRow]) -> Sequence[LabelRow]:
    """The rows with UCF101's groups, if all are named that way and the list has no groups of its own."""
    found = [_UCF101.fullmatch(PurePosixPath(row.path).stem) for row in rows]
    if any(name in rows[0].attributes for name in GROUP_COLUMNS):
        return rows
    groups = [match[1] for match in found if match]
    if len(groups) < len(rows):
        return rows
    return [
        replace(row, attributes={**row.attributes, "group": group}) for row, group in zip(rows, groups, strict=True)
    ]


def _samples(
    root: Path, roots: Sequence[Path], rows: Sequence[LabelRow], label_of: Mapping[str, int], kind: ClipKind
) -> tuple[Sample, ...]:
    allowed = [os.path.realpath(folder) for folder in (root, *roots)]
    fine: dict[Path, bool] = {}  # folder, whether links may point into it
    by_id: dict[str, tuple[Sample, Path]] = {}
    for row in rows:
        path = (row.folder or root) / row.path
        if path.parent not in fine:
            real = Path(os.path.realpath(path.parent))
            fine[path.parent] = any(real.is_relative_to(folder) for folder in allowed)
        if not fine[path.parent] or path.is_symlink():
            refuse_link_outside(path, root, roots)
        # Whatever is there: anything that is not a file is reported when it is read.
        files = {kind.file: path} if path.exists() else {}
        plain = PurePosixPath(row.path)
        identifier = plain.with_name(kind.name_of(plain)).as_posix() + _part_of_id(row.span)
        sample = Sample(identifier, label_of[row.label], files, row.attributes, span=row.span)
        first, other = by_id.setdefault(identifier, (sample, path))
        if other != path or first.span != row.span:
            raise UsageError(
                f"{other} and {path}: both give the sample id {identifier!r}; rename or remove one of them."
            )
    refuse_collisions(by_id, str(root))
    return tuple(by_id[identifier][0] for identifier in sorted(by_id))


def _part_of_id(span: Span | None) -> str:
    """The suffix of the id of a part of a video: "@2.5-4" for 2.5 to 4 seconds."""
    return "" if span is None else "@" + "-".join(f"{float(each):.6f}".rstrip("0").rstrip(".") for each in span)


def _sorted_labels(labels: set[str]) -> list[str]:
    if all(label.isascii() and label.isdigit() for label in labels):
        return sorted(labels, key=lambda label: (len(label.lstrip("0")), label.lstrip("0"), label))
    return sorted(labels)


def _protocols(samples: Sequence[Sample]) -> dict[str, SplitRule]:
    columns = samples[0].attributes
    protocols: dict[str, SplitRule] = {}
    if "split" in columns:
        protocols["split"] = partial(by_part, {sample.id: str(sample.attributes["split"]) for sample in samples})
    group = next((name for name in GROUP_COLUMNS if name in columns), None)
    groups = {sample.attributes[group] for sample in samples} if group is not None else set()
    if all(_UCF101.fullmatch(PurePosixPath(sample.id).name) for sample in samples):
        for name, tested in _UCF101_TESTS.items():
            if groups & set(tested) and groups - set(tested):
                protocols[name] = partial(by_attribute, "group", groups - set(tested))
    if group is not None and len(groups) > 1:
        protocols["group"] = partial(leave_groups_out, group)
    protocols["holdout"] = holdout
    return protocols


def _descriptions(rows: Sequence[LabelRow], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    texts: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        if row.description and row.attributes.get("split") != "test":
            texts[row.label][row.description] = None
    return tuple(tuple(texts[name]) for name in names) if texts else ()
