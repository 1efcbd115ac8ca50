"""Kinetics-400, -600 and -700, from the official CSV files and clips named by video and seconds.

Source: W. Kay et al., The Kinetics Human Action Video Dataset, 2017, and its successors: `label,youtube_id,time_start,
time_end,split` (and more), clips `<youtube_id>_<start, 6 digits>_<end>.mp4` in any folder. Labels are numbered in the
alphabetical order of the training labels. A clip that is not here is cut from the whole video `<youtube_id>.mp4`, if
that is. Videos vanish from YouTube: copies differ, so the digest of what was found is part of every run.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.labels_csv import read_rows
from unialign.stages.datasets.official_lists import Cut, find_lists, listed_dataset
from unialign.stages.datasets.splits import part_named

COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
NUM_CLASSES = {"k400": 400, "k600": 600, "k700": 700}
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)
_WORDS = {"validate": "val", "validation": "val"}


def load_kinetics(root: Path, name: str, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "k400", "k600" or "k700": all CSV files below `root` with Kinetics' columns, and their clips.

    Rows without a label (the official test lists) are not used. Raises `UsageError` without such a file, for malformed
    rows, a clip in two parts, and as `listed_dataset` does.
    """
    found = find_lists(root, roots, {"lists": lambda each: each.endswith(".csv")})["lists"]
    labels: dict[str, str] = {}
    part_of: dict[str, str] = {}
    cuts: dict[str, Cut] = {}
    unlabeled = 0
    for path in found:
        rows = read_rows(path)
        header = [cell.lower() for cell in rows[0][1]] if rows else []
        if not {"youtube_id", "time_start", "time_end"} <= set(header):
            continue
        at = {column: header.index(column) for column in COLUMNS if column in header}
        for line, cells in rows[1:]:
            if len(cells) < len(header):
                raise UsageError(f"{path}: line {line} has {len(cells)} of the {len(header)} cells of the header.")
            label = cells[at["label"]] if "label" in at else ""
            word = cells[at["split"]] if "split" in at else path.stem
            part = _WORDS.get(word.lower()) or part_named(word)
            if not label or part is None:
                unlabeled += 1
                continue
            clip, cut = _clip(path, line, cells[at["youtube_id"]], cells[at["time_start"]], cells[at["time_end"]])
            if cut is not None:
                cuts[clip] = cut
            if part_of.setdefault(clip, part) != part or labels.setdefault(clip, label) != label:
                raise UsageError(f"{path}: line {line}: the clip {clip} is listed twice, in two parts or classes.")
    if not part_of:
        raise UsageError(
            f"{root}: the official CSV files ({', '.join(COLUMNS)}) of {name} are needed below it, train and validate."
        )
    classes = sorted({labels[clip] for clip, part in part_of.items() if part == "train"})
    number = {label: at for at, label in enumerate(classes)}
    strange = next((label for label in labels.values() if label not in number), None)
    if strange is not None:
        raise UsageError(f"{root}: the class {strange[:80]!r} has no training clip in the lists.")
    notes = [f"{unlabeled:,} rows without a label or a part (the official test) are not used"] if unlabeled else []
    if len(classes) != NUM_CLASSES[name]:
        notes.append(f"the lists have {len(classes)} classes, {name} has {NUM_CLASSES[name]}")
    return listed_dataset(
        name,
        root,
        roots,
        classes=classes,
        labels={clip: number[label] for clip, label in labels.items()},
        parts={"official": part_of},
        cuts=cuts,
        notes=notes,
    )


def _clip(path: Path, line: int, video: str, start: str, end: str) -> tuple[str, Cut | None]:
    """The id of a clip, and where it is in its whole video; None if it has no length."""
    first, last = _seconds(start), _seconds(end)
    if not video or first is None or last is None or first[0] > last[0]:
        raise UsageError(f"{path}: line {line} has no video, or no start and end in seconds.")
    cut = Cut(video, (first[0], last[0])) if first[0] < last[0] else None
    return f"{video}_{first[1]:06d}_{last[1]:06d}", cut


@lru_cache(maxsize=4096)  # most of 300,000 rows have one of a few hundred times
def _seconds(text: str) -> tuple[Fraction, int] | None:
    """A time in seconds, exact and rounded; None if it is not one."""
    exact = Fraction(text) if _SECONDS.fullmatch(text) else None
    return None if exact is None else (exact, round(exact))
