"""Trackers of experiments get the numbers of a run, and never end it; the real libraries keep them offline."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unialign.errors import UsageError
from unialign.stages.training import trackers
from unialign.stages.training.logs import RunLog
from unialign.stages.training.settings import TrainSettings, settings_from
from unialign.stages.training.trackers import TrackedRun, TrackerRow, Trackers, flat


class Recording:
    """A tracker that keeps what it gets."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self.got: list[Any] = []

    def values(self, values: Mapping[str, float], step: int) -> None:
        self.got.append((dict(values), step))

    def image(self, name: str, png: bytes, step: int) -> None:
        self.got.append((name, step))

    def close(self, summary: Mapping[str, float]) -> None:
        self.got.append(dict(summary))


class Failing(Recording):
    """A tracker whose server is gone after the first step."""

    def values(self, values: Mapping[str, float], step: int) -> None:
        if step > 1:
            raise ConnectionError("no route to host")
        super().values(values, step)


def absent(run: TrackedRun) -> Recording:
    import a_library_that_is_absent  # type: ignore[import-not-found]  # noqa: F401

    raise AssertionError


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """The trackers that were opened; `recording`, `failing` and `absent` are known."""
    found: list[Recording] = []

    def opening(kind: type[Recording]) -> Any:
        def open_it(run: TrackedRun) -> Recording:
            found.append(kind(run))
            return found[-1]

        return open_it

    rows = {"recording": TrackerRow(opening(Recording), "x"), "failing": TrackerRow(opening(Failing), "x")}
    rows["absent"] = TrackerRow(absent, "the-library")
    monkeypatch.setattr(trackers.TRACKERS, "own", {**trackers.TRACKERS.own, **rows})
    return found


def run_in(folder: Path) -> TrackedRun:
    return TrackedRun("project", "run", "a" * 64, folder, {"settings.lr": 0.1, "model": "unialign"})


def test_trackers_get_what_tensorboard_gets_and_one_that_fails_is_left_out(
    opened: list[Recording], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    several = Trackers(["failing", "recording"], run_in(tmp_path))
    log = RunLog(tmp_path, trackers=several)
    log.step(1, {"loss": 2.0, "batch": 0, "gradient_norm": float("nan")})
    log.step(2, {"loss": 1.0, "batch": 1})
    log.epoch([{"epoch": 1, "val_top1": 0.5}], 2)
    log.close()
    several.image("confusion", b"png")
    several.close({"top1": 0.75})
    failing, recording = opened
    epoch = ({"epoch/val_top1": 0.5}, 2)
    assert recording.got == [({"step/loss": 2.0}, 1), ({"step/loss": 1.0}, 2), epoch, ("confusion", 2), {"top1": 0.75}]
    assert failing.got == [({"step/loss": 2.0}, 1)]
    assert "failing gets nothing more of this run: ConnectionError: no route to host" in caplog.text


def test_a_tracker_that_is_unknown_or_not_installed_is_named_before_training(
    opened: list[Recording], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="there is no tracker 'wanbd'; known are wandb, mlflow, trackio"):
        settings_from({"trackers": ["wanbd"]})
    with pytest.raises(
        UsageError, match="names absent, but a_library_that_is_absent is not installed: pip install the-l"
    ):
        Trackers(["absent"], run_in(tmp_path))


def test_trackers_change_no_key_and_no_config_of_a_run_without_them() -> None:
    assert "trackers" not in TrainSettings().recorded()
    assert TrainSettings().identity() == settings_from({"trackers": ["wandb"]}).identity()


def test_settings_become_dotted_names() -> None:
    assert flat({"model": "art", "settings": {"lr": 0.1, "crop": {"a": [1, 2]}}}) == {
        "model": "art",
        "settings.lr": 0.1,
        "settings.crop.a": [1, 2],
    }


REPORT = """
import sys
from pathlib import Path
from unialign.stages.training.trackers import TrackedRun, Trackers
name, folder = sys.argv[1], Path(sys.argv[2])
run = TrackedRun("gestures", "folder-unialign-seed0", "ab" * 32, folder, {"settings.lr": 0.1, "model": "unialign"})
png = (folder / "picture.png").read_bytes()
for first in (1, 3):  # interrupted once
    several = Trackers([name], run)
    for step in (first, first + 1):
        several.values({"step/loss": 1 / step}, step)
    if first == 3:
        several.image("confusion", png)
    several.close({"top1": 0.75} if first == 3 else {})
    assert not several._open
"""


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_the_real_library_keeps_a_resumed_run_offline(name: str, tmp_path: Path) -> None:
    if find_spec(name) is None:
        pytest.skip(f"needs {name}, an extra")
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(out, "PNG")
    (tmp_path / "picture.png").write_bytes(out.getvalue())
    places = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
    places["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", REPORT, name, str(tmp_path)],
        env={**os.environ, **places, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "gets nothing more" not in done.stderr
    kept = {"wandb": "wandb/offline-run-*/*.wandb", "mlflow": "mlflow.db", "trackio": "trackio/*.db"}[name]
    content = b"".join(path.read_bytes() for path in tmp_path.glob(kept))
    assert b"step/loss" in content
    assert b"settings.lr" in content
    if name == "mlflow":
        # One run, which went on.
        import sqlite3

        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            ((runs, status),) = database.execute("select count(*), max(status) from runs").fetchall()
            steps = [
                row[0] for row in database.execute("select step from metrics where key = 'step/loss' order by step")
            ]
        assert (runs, status, steps) == (1, "FINISHED", [1, 2, 3, 4])
