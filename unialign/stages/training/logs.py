"""Logs of a run in progress: lines, a table, and curves."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unialign.cache import atomic
from unialign.cache.bounded import parse_json
from unialign.stages.training.trackers import Trackers

LOGGER = logging.getLogger(__name__)

Row = Mapping[str, float]


class RunLog:
    """The logs of one run folder.

    log.jsonl: one JSON object per line, append-only; a resumed run rewrites the steps since its checkpoint, so the last
        line for a step counts.
    metrics.csv: one row per epoch, rewritten each time from the whole history, so it is correct after any kill.
    tensorboard/: the same numbers as curves; trackers get them too.
    """

    def __init__(self, folder: Path, *, step: int = 0, trackers: Trackers | None = None) -> None:
        """Open the logs; `step` is the first step to be written; older curves are kept up to it.

        trackers: stay open.
        """
        # Not needed to find a finished run.
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self._lines = folder / "log.jsonl"
        # A killed run may have left an incomplete line.
        if self._lines.is_file() and not self._lines.read_bytes().endswith(b"\n"):
            atomic.append_text(self._lines, "\n")
        self._curves = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        self._trackers = trackers

    def event(self, kind: str, **fields: Any) -> None:
        """One line of log.jsonl, and of the program's log."""
        atomic.append_text(self._lines, _line({"event": kind, **fields}))
        LOGGER.info("%s %s", kind, fields)

    def step(self, step: int, fields: Row) -> None:
        """One optimizer step: a line, and the loss and its terms as curves."""
        atomic.append_text(self._lines, _line({"event": "step", "step": step, **fields}))
        self._draw({f"step/{name}": value for name, value in fields.items() if name not in ("epoch", "batch")}, step)

    def epoch(self, history: Sequence[Row], step: int) -> None:
        """The table after an epoch, and its last row as curves."""
        write_table(self.folder / "metrics.csv", history)
        self._draw({f"epoch/{name}": value for name, value in history[-1].items() if name != "epoch"}, step)
        self._curves.flush()

    def _draw(self, values: Row, step: int) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for name, value in finite.items():
            self._curves.add_scalar(name, value, step)
        if self._trackers is not None:
            self._trackers.values(finite, step)

    def close(self) -> None:
        """Flush what is still in memory."""
        self._curves.close()


def _line(fields: Mapping[str, Any]) -> str:
    # JSON has no infinity: the gradient norm of a step with an fp16 overflow is null.
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """The rows as CSV, a column for each name in order of first appearance, empty if a row lacks it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names)]
    lines += [",".join(repr(row[name]) if name in row else "" for name in names) for row in rows]
    atomic.write_text(path, "\n".join(lines) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a log.jsonl; a line cut off by a kill is left out."""
    objects = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("{") and line.endswith("}"):
            try:
                objects.append(parse_json(line))
            except ValueError:
                LOGGER.debug("%s holds a cut line", path)
    return objects
