"""A grid of trainings from a configuration, with tables and a picture beside the runs."""

from pathlib import Path

from unialign.cache.atomic import write_file
from unialign.pipeline.ablate import Ablation, TrialResult, run_ablation
from unialign.pipeline.config import Config
from unialign.pipeline.experiment import train_trial
from unialign.pipeline.grid import Grid
from unialign.pipeline.plots import ablation_picture
from unialign.pipeline.train import Show


def sweep(grid: Grid, config: Config, *, show: Show = lambda progress: None) -> tuple[Ablation, Path]:
    """Train every trial of a grid on the configured caches; returns the ablation and the folder of its tables.

    Finished runs are reused, an interrupted run goes on from its checkpoint, so the same command resumes a sweep.
    """
    folder = config.runs.resolve() / "ablations" / grid.name
    done: list[TrialResult] = []
    ablation = run_ablation(
        grid,
        lambda trial: train_trial(config, trial, show),
        cache=config.cache.resolve(),
        folder=folder,
        report=lambda result, *_: done.append(result),
    )
    rows = ablation.rows()
    points = [[100 * result.top1 for result in done if result.trial.row == row["row"]] for row in rows]
    picture = ablation_picture([str(row["row"]) for row in rows], [100 * row["top1"] for row in rows], points)
    write_file(folder / "ablation.png", picture)
    return ablation, folder
