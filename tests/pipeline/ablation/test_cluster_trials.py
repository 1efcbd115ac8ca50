"""A sweep over GPUs and over a Dask cluster: the same numbers as here, whoever dies on the way."""

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.ablation.test_trials import TEXT, VIDEO, alive, cache, config, processes, rows
from unialign.errors import UsageError
from unialign.pipeline.ablation import trials
from unialign.pipeline.ablation.grid import Grid, Trial
from unialign.pipeline.ablation.sweep import sweep
from unialign.pipeline.ablation.trials import Task
from unialign.pipeline.config import Config, with_values
from unialign.stages.training.loop import Progress

__all__ = ["cache", "config"]
pytestmark = pytest.mark.usefixtures("fork_server")


def noted(connection: Connection, task: Task, gpu: str | None = None) -> None:
    """A trial that leaves a file with its GPU, and stays long enough for the other one to begin."""
    Path(task.config.runs, f"begun-{task.trial.row}-{gpu}").touch()
    deadline = time.monotonic() + 30
    while len(list(task.config.runs.glob("begun-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    trials.work(connection, task, gpu)
    Path(task.config.runs, f"{task.trial.row}-{os.environ['CUDA_VISIBLE_DEVICES']}").touch()


def test_each_gpu_has_a_trial_at_a_time(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7f")
    monkeypatch.setattr(trials, "work", noted)
    config.runs.mkdir()
    grid = Grid(name="g", rows=rows(video=VIDEO, text=TEXT))
    found, _ = sweep(grid, config, cluster="local-cuda")
    assert len(found.results) == 2
    assert {path.name for path in config.runs.glob("*-*") if path.is_file() and "begun" not in path.name} == {
        "video-3",
        "text-GPU-7f",
    }


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"cluster": "local-cuda"}, "no GPU is visible here"),
        ({"cluster": "local:2", "jobs": 3}, "--jobs does not go with --cluster"),
        ({"cluster": "moon"}, "neither local:N, local-cuda:N, slurm:N nor a scheduler's address"),
        ({"cluster": "tcp://127.0.0.1:1"}, "no Dask scheduler answers"),
    ],
)
def test_a_cluster_that_is_none_is_one_clear_error(
    config: Config, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("distributed.client.Client.__init__", refuse) if "tcp" in chosen["cluster"] else None
    with pytest.raises(UsageError, match=message):
        sweep(Grid(name="g", rows=rows(video=VIDEO)), config, **chosen)  # type: ignore[arg-type]
    assert not config.runs.exists()


def refuse(*_: object, **__: object) -> None:
    raise OSError("timed out")


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a Dask cluster of one worker at a time, which a nanny starts again."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_trial_whose_worker_is_killed_is_done_again_with_the_same_numbers(
    config: Config, tmp_path: Path, scheduler: str
) -> None:
    settings = {"train.settings.epochs": 12, "train.settings.checkpoint_every": 1, "train.settings.eval_every": 12}
    grid = Grid(name="g", rows=rows(video=VIDEO | settings))
    whole, _ = sweep(grid, with_values(config, {"runs": tmp_path / "whole"}))
    killed: list[int] = []

    def show(trial: Trial, progress: Progress) -> None:
        if not killed:
            # Reports are a second apart, in which this training can end.
            deadline = time.monotonic() + 60
            while not list(config.runs.rglob("checkpoints/*.pt")) and time.monotonic() < deadline:
                time.sleep(0.01)
            (process,) = processes(config.runs)
            # The trial's process was started by the worker's.
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGKILL)
            killed.append(process)

    found, _ = sweep(grid, config, cluster=scheduler, show=show)
    assert killed
    assert not alive(killed[0])
    (first,), (second,) = whole.results, found.results
    assert first.metrics == second.metrics
    with np.load(Path(first.run, "predictions.npz")) as ours, np.load(Path(second.run, "predictions.npz")) as theirs:
        assert ours["probabilities"].tobytes() == theirs["probabilities"].tobytes()
