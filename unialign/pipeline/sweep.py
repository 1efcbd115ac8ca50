"""A grid of trainings from a configuration, one after the other or side by side, with tables and a picture."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from unialign.cache.atomic import write_file
from unialign.pipeline.ablate import Ablation, TrialResult, run_ablation
from unialign.pipeline.config import Config
from unialign.pipeline.executors import limit_threads
from unialign.pipeline.experiment import train_trial
from unialign.pipeline.grid import Grid, Trial
from unialign.pipeline.plots import ablation_picture
from unialign.pipeline.train import Show


def sweep(
    grid: Grid,
    config: Config,
    *,
    jobs: int = 1,
    show: Show = lambda progress: None,
    report: Callable[[TrialResult, int, int], None] = lambda result, done, total: None,
) -> tuple[Ablation, Path]:
    """Train every trial of a grid on the configured caches; returns the ablation and the folder of its tables.

    Finished runs are reused, an interrupted run goes on from its checkpoint, so the same command resumes a sweep.
    jobs: trainings side by side, each in a process of its own with one thread. show: progress within a training, with
    one job. report: called after each trial with (result, trials done, trials).
    """
    folder = config.runs.resolve() / "ablations" / grid.name
    ablation = run_ablation(
        grid,
        partial(_train_all, config, jobs, show),
        cache=config.cache.resolve(),
        folder=folder,
        report=report,
    )
    rows = ablation.rows()
    points = [[100 * found.top1 for found in ablation.results if found.trial.row == row["row"]] for row in rows]
    picture = ablation_picture([str(row["row"]) for row in rows], [100 * row["top1"] for row in rows], points)
    write_file(folder / "ablation.png", picture)
    return ablation, folder


def _train_all(config: Config, jobs: int, show: Show, trials: Sequence[Trial]) -> Iterator[TrialResult]:
    if jobs == 1:
        for trial in trials:
            yield train_trial(config, trial, show)
        return
    # Spawned, not forked: a fork would inherit the threads of the networks' libraries in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=limit_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(partial(train_trial, config), trials)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
