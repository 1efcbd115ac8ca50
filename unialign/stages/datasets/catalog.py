"""Every dataset that the program knows, by name: the package's own, and those of plug-ins."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from unialign.errors import UsageError
from unialign.plugins import Table, called, imported, is_reference
from unialign.stages.datasets.base import Dataset


@dataclass(frozen=True)
class DatasetRow:
    """One dataset; docs/datasets.md has an example.

    load: a function that returns a `Dataset`, or its place, "package.module:function", which is imported when it is
    used. It gets the data root, an absolute path, and those of these arguments that it has: `name`, that of the row;
    `roots`, other folders that links and absolute paths in lists may lead into; `labels`, the file of `--labels`.
    title: what it is, in a phrase.
    root: what the data root is. labels: what the file of `--labels` holds; empty where the dataset takes none.
    """

    load: str | Callable[..., Dataset]
    title: str
    root: Literal["folder", "file"] = "folder"
    labels: str = ""


_HERE = "unialign.stages.datasets"
CLASS_NAMES = "text with one class name per line"
DATASETS: Table[DatasetRow] = Table(
    "unialign.datasets",
    DatasetRow,
    {
        "ntu60": DatasetRow(f"{_HERE}.ntu:load_ntu", "NTU RGB+D 60"),
        "ntu120": DatasetRow(f"{_HERE}.ntu:load_ntu", "NTU RGB+D 120"),
        "folder": DatasetRow(f"{_HERE}.folder:load_folder", "your own videos", labels="CSV of path,label"),
        "demo": DatasetRow(f"{_HERE}.demo:load_demo", "what `unialign demo` renders"),
        "pyskl": DatasetRow(
            f"{_HERE}.pyskl:load_pyskl", "annotation pickle of pyskl or mmaction2", root="file", labels=CLASS_NAMES
        ),
        "penn-action": DatasetRow(f"{_HERE}.penn_action:load_penn_action", "Penn Action"),
        "utd-mhad": DatasetRow(f"{_HERE}.utd_mhad:load_utd_mhad", "UTD-MHAD", labels=CLASS_NAMES),
    },
)


def load_dataset(name: str, root: Path, labels: Path | None = None, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset of that name, a key of `DATASETS` or "package.module:function", read from `root`; it has that name.

    roots: other folders that links, and absolute paths in lists, may lead into. labels: see `DatasetRow`.
    Raises `UsageError` for an unknown name, a root that does not exist or holds no samples, two files of one sample,
    labels that cannot be read, and for functions of others that cannot be imported, fail, or return something else;
    `CorruptInput` for a broken or unsafe pickle.
    """
    if name in DATASETS:
        row = DATASETS[name]
        load = imported(row.load) if isinstance(row.load, str) else row.load
        if not (root.is_file() if row.root == "file" else root.is_dir()):
            raise UsageError(
                f"{root} is not a {row.root}, which the data root of {name} ({row.title}) is; give it with --root, "
                "UNIALIGN_DATA or `data:` in unialign.yaml."
            )
    elif is_reference(name):
        load = imported(name)
        if not root.exists():
            raise UsageError(f"{root} does not exist; give the data root with --root, UNIALIGN_DATA or `data:`.")
    else:
        raise UsageError(
            f"unknown dataset {name!r}; known are {', '.join(DATASETS)}, and package.module:function for one of your "
            "own."
        )
    wanted = inspect.signature(load).parameters
    if labels is not None and "labels" not in wanted:
        raise UsageError(f"dataset {name} brings its own labels; leave out {labels}.")
    given = {"name": name, "roots": roots} | ({} if labels is None else {"labels": labels})
    found = called(load, f"dataset {name}", root, **{each: given[each] for each in given if each in wanted})
    if not isinstance(found, Dataset):
        raise UsageError(f"dataset {name}: the function returned a {type(found).__name__}, not a unialign.Dataset.")
    return replace(found, name=name)
