"""Signals in text files, `<class>_<number>.txt`: one number per line."""

from collections.abc import Sequence
from pathlib import Path

import unialign as ua


def halves(samples: Sequence[ua.Sample]) -> ua.Split:
    """Every third sample is for testing."""
    ids = [sample.id for sample in samples]
    return ua.Split(tuple(name for number, name in enumerate(ids) if number % 3), tuple(ids[::3]))


def load(root: Path) -> ua.Dataset:
    """All signals below the root."""
    files = sorted(root.glob("*_*.txt"))
    classes = tuple(sorted({path.stem.rpartition("_")[0] for path in files}))
    samples = tuple(
        ua.Sample(path.stem, classes.index(path.stem.rpartition("_")[0]), {"signal": path}) for path in files
    )
    return ua.Dataset("lab-signals", "lab-signals", root, classes, samples, {"halves": halves})


ROW = ua.DatasetRow(load, "signals of the lab")
