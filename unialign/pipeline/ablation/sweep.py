"""Running a grid of training runs from a configuration, in parallel, with tables and a plot. It never extracts."""

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from unialign.cache.index import load_table
from unialign.cache.inventory import iterate_stores
from unialign.cache.store import open_store
from unialign.errors import CacheProblem, MissingCache, UnialignError, UsageError
from unialign.pipeline.ablation.charted import charted_baselines, charted_rows
from unialign.pipeline.ablation.grid import Grid, Trial, trials
from unialign.pipeline.ablation.results import Ablation, FailedTrial, FailedTrials, TrialResult, rows_of
from unialign.pipeline.ablation.tables import write_tables
from unialign.pipeline.ablation.trials import TrialOutcome, train_trials
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.evaluation.baselines import Row, best_by_features, quick_rows, record_baselines
from unialign.pipeline.evaluation.pictures import Pictures, write_pictures
from unialign.pipeline.evaluation.plots import draw_ablation
from unialign.pipeline.extraction.clusters import kind_of, shared_gpus
from unialign.pipeline.stores import choose_store
from unialign.pipeline.training.from_config import needed_stores
from unialign.stages.datasets.base import Dataset
from unialign.stages.device import resolve_device
from unialign.stages.training.loop import Progress
from unialign.stages.training.processes import SETTING
from unialign.types import Json

LOGGER = logging.getLogger(__name__)
Done = Callable[[TrialOutcome, int, int], None]
Train = Callable[[Sequence[Trial], Callable[[TrialOutcome], None]], None]


def sweep(
    grid: Grid,
    config: Config,
    *,
    jobs: int | None = None,
    cluster: str = "",
    show: Callable[[Trial, Progress], None] = lambda trial, progress: None,
    announce: Callable[[str], None] = LOGGER.info,
    report: Done = lambda outcome, done, total: None,
) -> tuple[Ablation, Path]:
    """Train every trial of a grid on the configured caches; returns the ablation and the folder of its tables.

    Finished runs are reused and interrupted ones resume from their checkpoints, so the same command resumes a sweep.
    jobs: training runs in parallel, each in a separate process; None: as many as cores and memory allow, see `trials`.
        The number does not change any result. cluster: where they are trained instead, as `--cluster` names it:
        "local:N" is N at once here, "local-cuda" one on each GPU of this machine, "slurm:N" and addresses are Dask
        clusters. show: progress within a training run. announce: is told where a cluster can be watched. report: called
        after each trial with (its result or why it failed, trials done, trials).
    Raises `UsageError` for a row whose values are not a valid configuration and `MissingCache` for one whose stores are
    not there, before any training; `FailedTrials` if training runs failed, after all others have ended and their tables
    are written.
    """
    folder = config.runs.resolve() / "ablations" / grid.name
    check_stores(grid, config)
    train = _trainer(grid, config, jobs=jobs, cluster=cluster, show=show, announce=announce)
    try:
        ablation = run_ablation(
            grid,
            train,
            cache=config.cache.resolve(),
            folder=folder,
            report=report,
            baselines=partial(baselines_of, config),
        )
    except BaseException as error:
        error.add_note("finished training runs are kept; those in progress resume from their last checkpoints.")
        raise
    if ablation.results:
        write_pictures(folder / "ablation", plot_of(ablation))
    if ablation.failed:
        raise FailedTrials(ablation, folder)
    return ablation, folder


def _trainer(
    grid: Grid,
    config: Config,
    *,
    jobs: int | None,
    cluster: str,
    show: Callable[[Trial, Progress], None],
    announce: Callable[[str], None],
) -> Train:
    """What trains the trials where `cluster` says. Raises `UsageError` for what it does not mean."""
    kind, number = kind_of(cluster) if cluster else ("local", 0)
    if cluster and jobs:
        raise UsageError(
            f"--jobs does not go with --cluster {cluster}, whose number says how many are trained at once."
        )
    if kind in ("", "slurm"):
        from unialign.pipeline.ablation.cluster_trials import train_on_cluster

        return lambda todo, done: train_on_cluster(
            config, todo, cluster=cluster, done=done, show=show, announce=announce
        )
    gpus = shared_gpus(number) if kind == "local-cuda" else []
    # A device that is not there is said before any training; which GPU a trial gets is not known yet.
    on_gpu = "cuda" in {_device(config, trial) for trial in trials(grid)}
    train = partial(train_trials, config, jobs=jobs or number or None, on_gpu=on_gpu, gpus=gpus, show=show)
    return lambda todo, done: train(todo, done=done)


def run_ablation(
    grid: Grid,
    train: Train,
    *,
    cache: Path,
    folder: Path,
    report: Done = lambda outcome, done, total: None,
    baselines: Callable[[Ablation], Sequence[Mapping[str, Json]]] = lambda ablation: (),
) -> Ablation:
    """Train all trials and write the tables of those that finished, if any, into a folder.

    train: called with the trials, and with the function to call with the outcome of each, in any order. report: see
        `sweep`. After an interrupt, finished runs are kept and the same command continues from there.
    """
    before, todo = count_stored(cache), trials(grid)
    outcomes: dict[tuple[str, int], TrialOutcome] = {}

    def done(outcome: TrialOutcome) -> None:
        outcomes[outcome.trial.row, outcome.trial.seed] = outcome
        report(outcome, len(outcomes), len(todo))

    train(todo, done)
    ordered = [outcomes[trial.row, trial.seed] for trial in todo]
    results = tuple(outcome for outcome in ordered if isinstance(outcome, TrialResult))
    ablation = Ablation(
        name=grid.name,
        results=results,
        table=rows_of([row.name for row in grid.all_rows()], results),
        extracted=count_stored(cache) - before,
        failed=tuple(outcome for outcome in ordered if isinstance(outcome, FailedTrial)),
    )
    if results:
        ablation = replace(ablation, baselines=tuple(baselines(ablation)))
        write_tables(ablation, folder)
    return ablation


def check_stores(grid: Grid, config: Config) -> None:
    """Raise for the first trial whose stores are not in the cache: its turn may come after hours of training runs.

    Raises `MissingCache` and `UsageError`, each with the row's name; stores behind a URL are not asked for.
    """
    datasets: dict[str, Dataset] = {}
    for trial in trials(grid):
        try:
            own = with_values(config, dict(trial.values))
            section = own.train
            source = repr((own.dataset, own.data, own.labels, own.roots, own.cache))
            dataset = datasets.get(source) or datasets.setdefault(source, the_dataset(own))
            for modality in needed_stores(own, dataset):
                if "://" not in section.stores.get(modality, ""):
                    choose_store(own.cache.resolve(), dataset, modality, section.stores)
        except (UsageError, MissingCache) as error:
            raise type(error)(f"row {trial.row!r}: {error}") from error


def baselines_of(config: Config, ablation: Ablation) -> list[Mapping[str, Json]]:
    """The best simple classifier on each modality that some row reads, on dataset and protocol of the first result.

    Where seeds have stores of their own: the best on average over them, with "top1_std", "mean_class_std" (n - 1) and
    "seeds". The first result's folder keeps the rows of its seed. None where the stores do not allow any.
    """
    read = {modality for result in ablation.results for modality in result.keys}
    first = ablation.results[0]
    own: dict[str, Config] = {}
    for result in ablation.results:
        if result.trial.row == first.trial.row:
            asked = with_values(config, dict(result.trial.values))
            own.setdefault(repr(sorted(asked.train.stores.items())), asked)
    try:
        dataset = the_dataset(next(iter(own.values())))
        found = [quick_rows(each, dataset, read) for each in own.values()]
        record_baselines(Path(first.run), best_by_features(found[0]))
        return _best_over_stores(found)
    except UnialignError as error:
        LOGGER.info("no baselines beside the ablation: %s", error)
        return []


def _best_over_stores(found: Sequence[Sequence[Row]]) -> list[Mapping[str, Json]]:
    """The row with the highest mean top-1 for each modality. found: the same classifiers on each choice of stores."""
    best: dict[str, tuple[float, dict[str, Json]]] = {}
    for rows in zip(*found, strict=True):
        numbers = {name: [float(getattr(row, name)) for row in rows] for name in ("top1", "mean_class")}
        mean = statistics.mean(numbers["top1"])
        if rows[0].features in best and mean <= best[rows[0].features][0]:
            continue
        content = rows[0].result()
        if len(rows) > 1:
            content |= {name: statistics.mean(values) for name, values in numbers.items()}
            content |= {f"{name}_std": statistics.stdev(values) for name, values in numbers.items()}
            content |= {"seeds": len(rows), "chosen": ""}
        best[rows[0].features] = mean, content
    return [content for _, content in best.values()]


def count_stored(cache: Path) -> int:
    """Number of samples in all records of a cache; an extraction adds to it. A store that cannot be read counts as
    empty.
    """
    count = 0
    for path in iterate_stores(cache):
        with suppress(CacheProblem):
            count += int(load_table(open_store(path)).shards.samples.sum())
    return count


def plot_of(ablation: Ablation) -> Pictures:
    """The plot of the rows that have results, and of the simple classifiers beside them."""
    rows = [row for row in ablation.rows() if row["seeds"]]
    over = sorted({str(row["change_over"]) for row in rows if row.get("change_over")})
    return draw_ablation(charted_rows(rows, ablation), charted_baselines(ablation), " or ".join(over))


def _device(config: Config, trial: Trial) -> str:
    """The type of device that a trial trains on. Raises `UsageError` with its row's name for invalid values."""
    try:
        return resolve_device(with_values(config, dict(trial.values)).train.settings.device, setting=SETTING).type
    except UsageError as error:
        raise UsageError(f"row {trial.row!r}: {error}") from error
