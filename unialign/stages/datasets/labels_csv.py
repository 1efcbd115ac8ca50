"""Reading a CSV of paths and labels."""

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TextIO

from unialign.errors import UsageError
from unialign.stages.datasets.base import Span
from unialign.stages.datasets.scan import VIDEOS, ClipKind, looks, relative_name
from unialign.stages.datasets.splits import PARTS, check_words, part_named
from unialign.stages.video_containers import VIDEO_SUFFIXES

PATH_COLUMNS = ("path", "file")
LABEL_COLUMNS = ("label", "class")
SPAN_COLUMNS = ("start", "end")
DESCRIPTION_COLUMNS = ("description", "source_description")
GROUP_COLUMNS = ("group", "subject", "performer", "person", "actor", "participant", "room")

# Four times the size of the largest list in use (Kinetics-700); anything larger is not a label file.
MAX_BYTES = 256 * 2**20
MAX_ROWS, MAX_ROW = 2_000_000, 1 << 20

# Lists of mmaction2 and others: the path of a video, which may contain spaces, and its class number; or a folder of
# images, how many it holds, and the class number.
_MMACTION = (
    re.compile(r"(\S.*\.\w+)\s+(\d{1,6})", re.ASCII),
    re.compile(r"(\S.*)\s+\d{1,6}\s+(\d{1,6})", re.ASCII),
)
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)
_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars", " ": "blanks"}
# A description with an unclosed quote swallows the next clips of the list.
_NEXT_CLIP = re.compile(rf"[\r\n][^\r\n,]*({'|'.join(re.escape(each) for each in VIDEO_SUFFIXES)})\"?,", re.IGNORECASE)


@dataclass(frozen=True)
class LabelRow:
    """One labeled clip of a CSV.

    path: relative to the folder, with "/".
    attributes: the values of the columns split ("train", "val" or "test") and those in `GROUP_COLUMNS`, if the file has
        them.
    description: "" when there is none.
    folder: what `path` is relative to, if not the data root.
    span: the clip's part of the video, (start, end) in seconds; None for the whole video.
    """

    line: int
    path: str
    label: str
    attributes: Mapping[str, int | str] = field(default_factory=dict)
    description: str = ""
    folder: Path | None = None
    span: Span | None = None


@dataclass(frozen=True)
class LabelList:
    """All labeled clips of a source. notes: what is not used, one phrase each."""

    rows: tuple[LabelRow, ...]
    notes: tuple[str, ...] = ()


class _Lines:
    """The lines of a file for `csv.reader`. size: characters since the last row, which may span many lines."""

    def __init__(self, file: TextIO) -> None:
        self.size = 0
        self._file = file

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_ROW + 1):
            self.size += len(line)
            if self.size > MAX_ROW:
                raise csv.Error(f"a row of more than {MAX_ROW} characters")
            yield line


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Every line that is not blank, as its line number and its cells without surrounding whitespace.

    A row that spans several lines (in quotes) has the number of its first line. Raises `UsageError` for a file that is
    not readable, not UTF-8, not CSV or larger than 256 MiB, 2 million
    rows, or one mebibyte per row.
    """
    rows: list[tuple[int, list[str]]] = []
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES} bytes, which are too many; divide it.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _Lines(file)
            reader = csv.reader(lines, strict=True, skipinitialspace=True)
            first = 1
            for row in reader:
                rows.append((first, [cell.strip() for cell in row]))
                lines.size, first = 0, reader.line_num + 1
                if len(rows) > MAX_ROWS:
                    raise UsageError(f"{path}: more than {MAX_ROWS} lines, which are too many; divide it.")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text at byte {error.start}; save it as UTF-8.") from error
    except csv.Error as error:
        raise UsageError(f"{path}: line {first} is not CSV ({error}).") from error
    return [(line, row) for line, row in rows if any(row)]


def read_label_rows(path: Path, root: Path, roots: Sequence[Path] = (), kind: ClipKind = VIDEOS) -> LabelList:
    """The clips of a CSV with or without a header line; their paths are relative, or below `root` or one of `roots`.

    A header names a path column (path, file) and a label column (label, class); split, the columns of `GROUP_COLUMNS`,
    description and source_description are used if present. Without a header the file has exactly two columns: path,
    label; or each line is a path, a space and a class number, as mmaction2 writes them (for a folder of images: path,
    number of images, class number). A split is one of `PARTS`,
    case-insensitive. Raises `UsageError` naming the line for anything else, for rows with more cells than the first
    line (an unquoted comma), for hostile paths, for files that are neither videos nor folders, and for a path that is
    listed twice.
    """
    rows = read_rows(path)
    if not rows:
        raise UsageError(f"{path}: holds no lines; give one `path,label` line a clip.")
    form = next((each for each in _MMACTION if len(rows[0][1]) == 1 and each.fullmatch(rows[0][1][0])), None)
    if form is not None:
        rows = [(line, _path_and_number(path, line, cells, form)) for line, cells in rows]
    # Spreadsheets end lines with empty cells; a value without a column name was cut by an unquoted comma.
    width = max(at + 1 for at, cell in enumerate(rows[0][1]) if cell)
    columns = None if form is not None else _columns(path, rows[0][1])
    notes: tuple[str, ...] = ()
    if columns is None:
        columns = {"path": 0, "label": 1}
    else:
        notes = tuple(
            f"column {name!r} is not used" for at, name in enumerate(rows[0][1]) if name and at not in columns.values()
        )
        rows = rows[1:]
    found: dict[tuple[Path | None, str, Span | None], LabelRow] = {}
    for line, cells in rows:
        if any(cells[width:]):
            raise UsageError(
                f"{path}: line {line} has {len(cells)} cells, but line 1 has {width}; put a text with commas in quotes."
            )
        row = _label_row(path, line, cells, columns, (root, *roots), kind, folders=form is _MMACTION[1])
        other = found.setdefault((row.folder, row.path, row.span), row)
        if other is not row:
            raise UsageError(f"{path}: lines {other.line} and {line} both list {row.path!r}; keep one.")
    if "split" in columns:
        check_words((cells[columns["split"]] for _, cells in rows), str(path))
    _check_groups(path, found.values())
    if not found:
        raise UsageError(f"{path}: holds a header but no clips; give one `path,label` line a clip.")
    return LabelList(tuple(found.values()), notes)


def _check_groups(path: Path, rows: Iterable[LabelRow]) -> None:
    """Raise `UsageError` for two groups that differ only in case: one person would be in both train and test."""
    seen: dict[tuple[str, int | str], LabelRow] = {}
    for row in rows:
        for column in GROUP_COLUMNS:
            if column in row.attributes:
                seen.setdefault((column, row.attributes[column]), row)
    known: dict[tuple[str, str], tuple[str, LabelRow]] = {}
    for (column, value), row in seen.items():
        other, first = known.setdefault((column, looks(str(value))), (str(value), row))
        if other != value:
            raise UsageError(
                f"{path}: lines {first.line} and {row.line} have the {column}s {other!r} and {value!r}, which read the "
                "same; rename one."
            )


def _path_and_number(path: Path, line: int, cells: Sequence[str], form: re.Pattern[str]) -> list[str]:
    """Path and label of a line of mmaction2's lists. Raises `UsageError` for a malformed line."""
    match = form.fullmatch(cells[0]) if len(cells) == 1 else None
    if match is None:
        raise UsageError(f"{path}: line {line} is not `path number` like line 1; a class is a number from 0.")
    return [match[1], match[2]]


def _columns(path: Path, first: Sequence[str]) -> dict[str, int] | None:
    """Column index of each known column, None for a file without a header line."""
    names = [cell.lower() for cell in first]
    path_column = next((name for name in PATH_COLUMNS if name in names), None)
    label_column = next((name for name in LABEL_COLUMNS if name in names), None)
    if path_column is None or label_column is None:
        if len(first) == 2 and PurePosixPath(first[0]).suffix.lower() in VIDEO_SUFFIXES:
            return None
        if sign := separator_in(first):
            raise UsageError(f"{path}: line 1 is separated by {sign}; save the list as CSV, separated by commas.")
        raise UsageError(
            f"{path}: line 1 is neither a header with path,label (or file,class) nor a video's path,label."
        )
    description = next((name for name in DESCRIPTION_COLUMNS if name in names), None)
    wanted = {"path": path_column, "label": label_column, "description": description}
    wanted |= {name: name for name in ("split", *GROUP_COLUMNS) if name in names}
    spans = [name for name in SPAN_COLUMNS if name in names]
    if len(spans) == 1:
        raise UsageError(f"{path}: line 1 has the column {spans[0]!r} alone; a part of a video has a start and an end.")
    wanted |= {name: name for name in spans}
    twice = next((name for name in wanted.values() if name is not None and names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: line 1 has the column {twice!r} {names.count(twice)} times; rename all but one.")
    return {column: names.index(name) for column, name in wanted.items() if name is not None}


def separator_in(first: Sequence[str]) -> str:
    """What the cells of a first line are separated by, as a word, if not by commas; "" if nothing looks like it."""
    for sign, what in _SEPARATORS.items():
        if any(sign in cell for cell in first) and (sign != " " or len(first) == 1):
            return what
    return ""


def _label_row(
    path: Path,
    line: int,
    cells: Sequence[str],
    columns: Mapping[str, int],
    roots: Sequence[Path],
    kind: ClipKind,
    *,
    folders: bool = False,
) -> LabelRow:
    """One line. folders: the list is of folders of images, whether or not they are here."""
    if len(cells) <= max(columns.values()):
        raise UsageError(f"{path}: line {line} has {len(cells)} of the {max(columns.values()) + 1} columns it needs.")
    values = {column: cells[at] for column, at in columns.items()}
    for column, value in values.items():
        if any(unicodedata.category(char) == "Cc" and not char.isspace() for char in value):
            raise UsageError(f"{path}: line {line}: the {column} holds a control character; remove it.")
        if (len(value.splitlines()) > 1 and column != "description") or _NEXT_CLIP.search(value):
            raise UsageError(f"{path}: line {line}: the {column} goes on over several lines; close its quote.")
    name, folder = relative_name(values["path"], roots[0], roots[1:], f"{path}: line {line}")
    plain = PurePosixPath(name)
    if not (folders or kind.clip_at(plain) == plain or (folder / name).is_dir()):
        what = "a video (endings: docs/videos.md) nor a folder of images" if kind is VIDEOS else "one nor a folder"
        raise UsageError(f"{path}: line {line} lists {name!r}, which is neither {what}.")
    used = [name for name in ("split", *GROUP_COLUMNS) if name in columns]
    for column in ("label", *used):
        if not values[column]:
            raise UsageError(f"{path}: line {line} has an empty {column}.")
    attributes: dict[str, int | str] = {column: values[column] for column in used}
    if "split" in attributes:
        part = part_named(values["split"])
        if part is None:
            raise UsageError(
                f"{path}: line {line} has the split {values['split']!r}; known are {', '.join(PARTS)}, in any case."
            )
        attributes["split"] = part
    text = values.get("description", "")
    span = _span(path, line, values["start"], values["end"]) if "start" in values else None
    return LabelRow(line, name, values["label"], attributes, text, folder if folder != roots[0] else None, span)


def _span(path: Path, line: int, start: str, end: str) -> Span | None:
    """Start and end as exact seconds; None if both are empty. Raises `UsageError` for anything else."""
    if not start and not end:
        return None
    if not (_SECONDS.fullmatch(start) and _SECONDS.fullmatch(end)) or not Fraction(start) < Fraction(end):
        raise UsageError(
            f"{path}: line {line} is from {start[:20]!r} to {end[:20]!r}; give seconds with up to six decimals, the "
            "end after the start."
        )
    return Fraction(start), Fraction(end)
