"""How fast runs trained, and how long they waited for data, from their metrics.csv."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from unialign.cache.bounded import read_plain
from unialign.cache.schema import METADATA_BYTES
from unialign.errors import DamagedStore
from unialign.pipeline.pages.answers import Answers
from unialign.pipeline.training.run_folder import memory_of
from unialign.types import Json

COLUMNS = {"clips": "samples_per_second", "wait": "data_wait", "loss": "loss", "val": "val_top1"}


def epochs_of(folder: Path) -> dict[str, list[float | None]]:
    """The values of each epoch, by the names of `COLUMNS`; empty for a run without metrics.csv.

    Raises `DamagedStore` for a file that cannot be read.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(read_plain(path, METADATA_BYTES).decode())))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DamagedStore(f"{path} cannot be read ({error}); it is not the file of a run.") from error
    return {name: [_number(row.get(column)) for row in rows] for name, column in COLUMNS.items()}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def speed_content(runs: Sequence[Answers], seconds: Sequence[float | None]) -> Json:
    """The `speed` of a page. seconds: how long each run took."""
    curves, rows = [], []
    for run, duration in zip(runs, seconds, strict=True):
        epochs = epochs_of(run.folder)
        curves.append({"row": run.row, "label": run.label, **epochs})
        memory, gpu_memory = memory_of(run.folder)
        rows.append(
            [
                run.label,
                str(len(epochs.get("loss", []))),
                _shown(_mean(epochs.get("clips", [])), "{:.1f}"),
                _shown(_mean(epochs.get("wait", [])), "{:.1%}"),
                _shown(duration, "{:.1f}"),
                _shown(memory and memory / 1e6, "{:.0f}"),
                *([_shown(gpu_memory / 1e6, "{:.0f}")] if gpu_memory else []),
            ]
        )
    head = ["run", "epochs", "clips/s", "data wait", "seconds in all", "memory (MB)"]
    gpu = any(len(row) > len(head) for row in rows)
    if gpu:
        head.append("GPU memory (MB)")
        rows = [row if len(row) == len(head) else [*row, "-"] for row in rows]
    if not any(curve.get("loss") for curve in curves):
        return None
    return {
        "curves": curves,
        "table": {"head": head, "rows": rows},
        "note": "Clips per second count training steps alone; data wait is the share of that time in which the loop "
        "had no batch. Runs of an ablation may have shared the machine, so compare runs with care.",
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
