"""Reading a CSV of paths and labels."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unialign.cache.errors import UsageError
from unialign.stages.datasets.scan import VIDEO_SUFFIXES, check_name

PATH_COLUMNS = ("path", "file")
LABEL_COLUMNS = ("label", "class")
DESCRIPTION_COLUMNS = ("description", "source_description")
GROUP_COLUMNS = ("group", "subject", "room")

# Four times the size of the largest list in use (Kinetics-700); more is no label file.
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class LabelRow:
    """One labelled clip of a CSV.

    path: relative to the data root, with "/".
    attributes: the values of the columns split, group, subject and room, where the file has them.
    description: "" when there is none.
    """

    line: int
    path: str
    label: str
    attributes: Mapping[str, int | str]
    description: str


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Every line that is not blank, as its line number and its cells without surrounding blanks.

    Raises `UsageError` for a file that is not readable, not UTF-8, not CSV or larger than 256 MiB.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES} bytes; this is no list of labels.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text at byte {error.start}; save it as UTF-8.") from error
    except csv.Error as error:
        raise UsageError(f"{path}: line {reader.line_num} is not CSV ({error}).") from error
    return [(line, row) for line, row in rows if any(row)]


def read_label_rows(path: Path) -> list[LabelRow]:
    """The clips of a CSV with or without a header line.

    A header names a path column (path, file) and a label column (label, class); split, group, subject, room,
    description and source_description are used where present, other columns are not. Without a header the file has
    exactly two columns: path, label. Raises `UsageError` naming the line for anything else, for hostile paths, for
    files that are no videos, for a split other than train or test, and for a path that is listed twice.
    """
    rows = read_rows(path)
    if not rows:
        raise UsageError(f"{path}: holds no lines; give one `path,label` line a clip.")
    columns = _columns(path, rows[0][1])
    if columns is None:
        columns = {"path": 0, "label": 1}
    else:
        rows = rows[1:]
    found: dict[str, LabelRow] = {}
    for line, cells in rows:
        row = _label_row(path, line, cells, columns)
        other = found.setdefault(row.path, row)
        if other is not row:
            raise UsageError(f"{path}: lines {other.line} and {line} both list {row.path!r}; keep one.")
    if not found:
        raise UsageError(f"{path}: holds a header but no clips; give one `path,label` line a clip.")
    return list(found.values())


def _columns(path: Path, first: list[str]) -> dict[str, int] | None:
    """Where each known column stands, None for a file without a header line."""
    names = [cell.lower() for cell in first]
    path_column = next((name for name in PATH_COLUMNS if name in names), None)
    label_column = next((name for name in LABEL_COLUMNS if name in names), None)
    if path_column is None or label_column is None:
        if len(first) == 2 and PurePosixPath(first[0]).suffix.lower() in VIDEO_SUFFIXES:
            return None
        raise UsageError(
            f"{path}: line 1 is neither a header with path,label (or file,class) nor a video's path,label."
        )
    columns = {"path": names.index(path_column), "label": names.index(label_column)}
    columns |= {name: names.index(name) for name in ("split", *GROUP_COLUMNS) if name in names}
    description = next((name for name in DESCRIPTION_COLUMNS if name in names), None)
    return columns if description is None else columns | {"description": names.index(description)}


def _label_row(path: Path, line: int, cells: list[str], columns: Mapping[str, int]) -> LabelRow:
    if len(cells) <= max(columns.values()):
        raise UsageError(f"{path}: line {line} has {len(cells)} of the {max(columns.values()) + 1} columns it needs.")
    name = check_name(cells[columns["path"]], f"{path}: line {line}")
    if PurePosixPath(name).suffix.lower() not in VIDEO_SUFFIXES:
        raise UsageError(
            f"{path}: line {line} lists {name!r}, which is no video ({', '.join(sorted(VIDEO_SUFFIXES))})."
        )
    values = {column: cells[at] for column, at in columns.items()}
    for column in ("label", *(name for name in ("split", *GROUP_COLUMNS) if name in columns)):
        if not values[column]:
            raise UsageError(f"{path}: line {line} has an empty {column}.")
    attributes: dict[str, int | str] = {key: values[key] for key in GROUP_COLUMNS if key in values}
    if "split" in values:
        attributes["split"] = values["split"].lower()
        if attributes["split"] not in {"train", "test"}:
            raise UsageError(f"{path}: line {line} has the split {values['split']!r}; write train or test.")
    return LabelRow(line, name, values["label"], attributes, values.get("description", ""))
