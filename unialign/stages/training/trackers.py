"""Trackers of experiments that a training run also reports to: `train.settings.trackers`, none by default.

TensorBoard, log.jsonl and metrics.csv are always written (`logs.py`); a tracker gets the same numbers. Where it keeps
or sends them is its own affair and set as its users do: WANDB_MODE=offline, MLFLOW_TRACKING_URI, TRACKIO_DIR.
"""

import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unialign.errors import UsageError
from unialign.plugins import Table, told
from unialign.types import Json

LOGGER = logging.getLogger(__name__)
# What MLflow takes of one request, and of one value.
MOST_PARAMS, LONGEST_PARAM = 100, 500
KEY = "unialign.key"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run. project: its dataset. name: of its folder. key: of the run, 64 hex digits; the
    same when it is resumed. config: dotted names to plain values.
    """

    project: str
    name: str
    key: str
    folder: Path
    config: Mapping[str, Json]


class Tracker(Protocol):
    """Where the numbers of one run go."""

    def values(self, values: Mapping[str, float], step: int, /) -> None:
        """Finite numbers by name, such as "step/loss" and "epoch/val_top1", at an optimizer step."""

    def image(self, name: str, png: bytes, step: int, /) -> None:
        """A picture."""

    def close(self, summary: Mapping[str, float], /) -> None:
        """The run has ended, with these metrics, or was interrupted, without any."""


@dataclass(frozen=True)
class TrackerRow:
    """A tracker by its name in `train.settings.trackers`.

    open: a tracker for a run; for one that was interrupted, the same run goes on. library: what has to be installed.
    """

    open: Callable[[TrackedRun], Tracker]
    library: str


def _opened(png: bytes) -> Any:
    # This module is read with the configuration, before any library is loaded.
    from PIL import Image

    return Image.open(io.BytesIO(png))


class _Wandb:
    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._library = wandb
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.key[:16],
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
        )

    def values(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def image(self, name: str, png: bytes, step: int) -> None:
        self._run.log({name: self._library.Image(_opened(png))}, step=step)

    def close(self, summary: Mapping[str, float]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish()


class _MLflow:
    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        known = self._client.get_experiment_by_name(run.project)
        experiment = known.experiment_id if known else self._client.create_experiment(run.project)
        before = self._client.search_runs([experiment], f"tags.`{KEY}` = '{run.key}'")
        found = before[0] if before else self._client.create_run(experiment, tags={KEY: run.key}, run_name=run.name)
        self._id = found.info.run_id
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in run.config.items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + MOST_PARAMS])

    def values(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def image(self, name: str, png: bytes, step: int) -> None:
        self._client.log_image(self._id, _opened(png), artifact_file=f"{name}.png")

    def close(self, summary: Mapping[str, float]) -> None:
        for name, value in summary.items():
            self._client.log_metric(self._id, f"test/{name}", value)
        self._client.set_terminated(self._id, "FINISHED" if summary else "KILLED")


class _Trackio:
    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._library = trackio
        self._run = trackio.init(
            project=run.project,
            name=run.name,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def values(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def image(self, name: str, png: bytes, step: int) -> None:
        self._run.log({name: self._library.Image(_opened(png))}, step=step)

    def close(self, summary: Mapping[str, float]) -> None:
        if summary:
            self._run.log({f"test/{name}": value for name, value in summary.items()})
        self._run.finish()


TRACKERS: Table[TrackerRow] = Table(
    "unialign.trackers",
    TrackerRow,
    {
        "wandb": TrackerRow(_Wandb, "wandb"),
        "mlflow": TrackerRow(_MLflow, "mlflow"),
        "trackio": TrackerRow(_Trackio, "trackio"),
    },
)


class Trackers:
    """The trackers of a run. One that fails is left out from then on, with a warning: a training run does not depend on
    somebody's server.
    """

    def __init__(self, names: Sequence[str], run: TrackedRun) -> None:
        """Open them. Raises `UsageError` for one whose library is not installed."""
        self._open: dict[str, Tracker] = {}
        self.step = 0
        for name in names:
            row = TRACKERS[name]
            try:
                self._open[name] = row.open(run)
            except ModuleNotFoundError as error:
                raise UsageError(
                    f"train.settings.trackers names {name}, but {error.name} is not installed: "
                    f"pip install {row.library}."
                ) from error
            except Exception as error:  # noqa: BLE001 - libraries of others may raise anything
                self._lost(name, error)

    def values(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`; `step` of this object is then the newest."""
        self.step = step
        self._all(lambda tracker: tracker.values(values, step))

    def image(self, name: str, png: bytes) -> None:
        """A picture at the newest step."""
        self._all(lambda tracker: tracker.image(name, png, self.step))

    def close(self, summary: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._all(lambda tracker: tracker.close(summary))
        self._open = {}

    def _all(self, report: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                report(tracker)
            except Exception as error:  # noqa: BLE001 - as above
                self._lost(name, error)

    def _lost(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        LOGGER.warning("%s gets nothing more of this run: %s", name, told(error))


def check_trackers(names: Sequence[str]) -> None:
    """Raise `ValueError` for a tracker that is not known."""
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise ValueError(f"there is no tracker {unknown[0]!r}; known are {', '.join(TRACKERS)}")


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Json]:
    """Nested settings by dotted name; lists and other values as they are."""
    found: dict[str, Json] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
