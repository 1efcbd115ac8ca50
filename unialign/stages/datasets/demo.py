"""The demo dataset: what `stages.demo` renders, named and laid out like NTU RGB+D."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.labels_csv import read_rows
from unialign.stages.datasets.ntu import find_ntu_files, parse_name
from unialign.stages.datasets.splits import by_attribute

TRAIN_PERFORMERS = frozenset(range(1, 1000, 2))
TRAIN_CAMERAS = frozenset(range(2, 1000))


def load_demo(root: Path, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "demo": `rgb/<name>_rgb.mp4`, `skeletons/<name>.skeleton` and `classes.csv` below `root`.

    `classes.csv` has the columns label (from 0), name, description; several rows for a label add descriptions.
    Protocols: "xsub" trains on performers with odd numbers, "xview" on all cameras but the first. The label of a sample
    is its action number minus one. Raises `UsageError` for a missing or broken `classes.csv`, an action that it does
    not name, and a root without samples.
    """
    classes, descriptions = _read_classes(root / "classes.csv")
    samples = []
    found, notes = find_ntu_files(root, roots)
    for identifier, files in sorted(found.items()):
        numbers = parse_name(identifier)
        if not 0 <= numbers.label < len(classes):
            raise UsageError(f"{root / 'classes.csv'}: no row with label {numbers.label}, needed by {identifier}.")
        samples.append(Sample(identifier, numbers.label, files, numbers.attributes))
    if not samples:
        raise UsageError(f"{root}: no clips of the demonstration set found; make them with `unialign demo`.")
    return Dataset(
        name="demo",
        collection="demo",
        root=root,
        classes=classes,
        samples=tuple(samples),
        protocols={
            "xsub": partial(by_attribute, "performer", TRAIN_PERFORMERS),
            "xview": partial(by_attribute, "camera", TRAIN_CAMERAS),
        },
        descriptions=descriptions,
        notes=notes,
        published=True,
    )


def _read_classes(path: Path) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Class names and their descriptions, in label order."""
    if not path.is_file():
        raise UsageError(f"{path}: missing; the demonstration set needs it, make it with `unialign demo`.")
    rows = read_rows(path)
    header = rows[0][1] if rows else []
    if header[:3] != ["label", "name", "description"]:
        raise UsageError(f"{path}: the first line must be label,name,description.")
    names: dict[int, str] = {}
    texts: dict[int, list[str]] = {}
    for line, row in rows[1:]:
        if len(row) < 3 or not (row[0].isascii() and row[0].isdigit()) or not row[1]:
            raise UsageError(f"{path}: line {line} is not a class number from 0, a name and a description.")
        label = int(row[0])
        if names.setdefault(label, row[1]) != row[1]:
            raise UsageError(f"{path}: line {line} gives label {label} a second name; keep one.")
        texts.setdefault(label, []).extend(text for text in (row[2],) if text)
    if sorted(names) != list(range(len(names))) or not names:
        raise UsageError(f"{path}: the labels must be 0, 1, 2, ... without gaps.")
    if len(set(names.values())) != len(names):
        raise UsageError(f"{path}: two labels have the same name; give each its own.")
    labels = range(len(names))
    return tuple(names[label] for label in labels), tuple(tuple(texts[label]) for label in labels)
