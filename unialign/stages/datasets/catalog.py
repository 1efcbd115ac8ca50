"""Every dataset that the program knows, by name."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.demo import load_demo
from unialign.stages.datasets.folder import load_folder
from unialign.stages.datasets.ntu import load_ntu
from unialign.stages.datasets.pyskl import load_pyskl
from unialign.stages.datasets.utd_mhad import load_utd_mhad

# Loaders take the data root; those named in _WITH_LABELS also a file with labels.
DATASETS: Mapping[str, Callable[..., Dataset]] = {
    "ntu60": partial(load_ntu, name="ntu60"),
    "ntu120": partial(load_ntu, name="ntu120"),
    "folder": load_folder,
    "demo": load_demo,
    "pyskl": load_pyskl,
    "utd-mhad": load_utd_mhad,
}
_WITH_LABELS = frozenset({"folder", "pyskl", "utd-mhad"})
_ROOT_IS_FILE = frozenset({"pyskl"})


def load_dataset(name: str, root: Path, labels: Path | None = None, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset of that name read from `root`: a folder, for "pyskl" a pickle file.

    roots: other folders that links, and absolute paths in lists, may lead into.

    labels: for "folder" a CSV of path,label, for "pyskl" and "utd-mhad" a text file with one class name a line. Raises
    `UsageError` for an unknown name, a root that does not exist or holds no samples, two files of one sample, and
    labels that cannot be read; `CorruptInput` for a broken or unsafe pickle.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown dataset {name!r}; known are {', '.join(DATASETS)}.")
    if name in _ROOT_IS_FILE and not root.is_file():
        raise UsageError(
            f"{root} is not a file; give the annotation pickle with --root, UNIALIGN_DATA or `data:` in unialign.yaml."
        )
    if name not in _ROOT_IS_FILE and not root.is_dir():
        raise UsageError(
            f"{root} is not a folder; give the data root with --root, UNIALIGN_DATA or `data:` in unialign.yaml."
        )
    given: dict[str, object] = {} if name in _ROOT_IS_FILE else {"roots": roots}
    if labels is not None and name not in _WITH_LABELS:
        raise UsageError(f"dataset {name} brings its own labels; leave out {labels}.")
    return DATASETS[name](root, **given, **({} if labels is None else {"labels": labels}))
