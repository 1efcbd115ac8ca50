"""`unialign train | ablate | demo`: stage two."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unialign import console
from unialign.commands.options import (
    AsJson,
    Cache,
    ConfigFile,
    DatasetName,
    Labels,
    Overrides,
    Protocol,
    Root,
    Runs,
    Use,
    chosen_stores,
    resolve,
)

if TYPE_CHECKING:
    from unialign.pipeline.ablation.grid import Trial
    from unialign.pipeline.ablation.sweep import Done
    from unialign.pipeline.ablation.trials import TrialOutcome
    from unialign.pipeline.training.train import Show
    from unialign.stages.training.loop import Progress

Epochs = Annotated[int | None, typer.Option("--epochs", help="Epochs (`train.settings.epochs`).")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed (`train.settings.seed`).")]


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into the application."""
    app.command("train", epilog="Example: unialign train --cached --dataset ntu60 --protocol xsub")(train)
    app.command("ablate", epilog="Example: unialign ablate modalities")(ablate)
    app.command("demo", epilog="Example: unialign demo --folder demo")(demo)


def train(
    cached: Annotated[
        bool, typer.Option("--cached/--online", help="Read the cache, or extract during training (for comparison).")
    ] = True,
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    runs: Runs = None,
    labels: Labels = None,
    protocol: Protocol = None,
    model: Annotated[
        str | None, typer.Option(help="unialign, art, alt, dvta, or stgcn++ (a skeleton encoder).")
    ] = None,
    use: Use = None,
    backbone_weights: Annotated[
        Path | None,
        typer.Option("--backbone-weights", help="Weights file of the video backbone (alt: of a CLIP), or hub."),
    ] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Train on cached modalities; interrupted runs resume, and a finished run of the same settings is reused."""
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        runs=runs,
        labels=labels,
        protocol=protocol,
        train__model=model,
        train__stores=chosen_stores(use),
        train__backbone_weights=backbone_weights,
        train__settings__epochs=epochs,
        train__settings__seed=seed,
    )
    # What takes long to load comes after what was asked for has been found to make sense.
    from unialign.pipeline.datasets import the_dataset

    found = the_dataset(resolved)
    from unialign.pipeline.training.from_config import train_from_config

    with training_bar(resolved.train.model, hidden=as_json or os.environ.get("RANK", "0") != "0") as show:
        result = train_from_config(resolved, found, online=not cached, show=show, tell=_say)
    if os.environ.get("RANK", "0") != "0":
        # Under torchrun every process comes here with the same result; one says it.
        return
    if as_json:
        console.show_json({**result.result(), **result.metrics})
        return
    from unialign.stages.training.metrics import shown

    fields: dict[str, object] = {"run": result.folder, "protocol": result.protocol}
    fields |= shown(result.metrics)
    fields |= _best_fields(result.best)
    if result.zero_shot:
        fields["zero-shot"] = ", ".join(
            f"{name.replace('_', ' ')} {_short(value)}" for name, value in result.zero_shot.items()
        )
    if result.exported:
        fields["encoder"] = result.exported
    fields["samples extracted"] = result.extracted
    fields["seconds"] = f"{result.seconds:.1f}{' (reused: this run was finished before)' if result.reused else ''}"
    console.show_fields(fields)


def _say(sentence: str) -> None:
    console.messages.print(sentence, highlight=False, markup=False)


def _short(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _best_fields(best: Mapping[str, Any]) -> dict[str, object]:
    """The epoch that val chose, with its top-1 on val and on test."""
    if not best:
        return {}
    tops = [f"{part} top1 {best[part]['top1']:.4f}" for part in ("val", "test") if best.get(part)]
    return {"best epoch": f"{best['epoch']} (chosen on val): {', '.join(tops)}"}


def ablate(
    grid: Annotated[
        str,
        typer.Argument(help="A YAML file of rows or axes, or the name of a ready grid (an unknown name lists them)."),
    ],
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    runs: Runs = None,
    labels: Labels = None,
    protocol: Protocol = None,
    use: Use = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Trainings side by side; default: what cores and memory allow.")
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Train every row of a grid for every seed on the same caches, and make one table. Finished runs are reused."""
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        runs=runs,
        labels=labels,
        protocol=protocol,
        train__stores=chosen_stores(use),
    )
    from unialign.pipeline.ablation.grid import read_grid, trials

    made, failed = read_grid(grid), None
    from unialign.pipeline.ablation.results import FailedTrials
    from unialign.pipeline.ablation.sweep import sweep
    from unialign.pipeline.ablation.tables import closing, columns, table

    try:
        with trial_bar(len(trials(made)), hidden=as_json) as (show, report):
            found, folder = sweep(made, resolved, jobs=jobs, show=show, report=report)
    except FailedTrials as error:
        if not error.ablation.results:
            raise
        failed, found, folder = error, error.ablation, error.folder
    if as_json:
        problem = {"error": str(failed), "exit_code": failed.exit_code} if failed else {}
        console.show_json({**found.result(), "folder": str(folder), **problem})
    else:
        console.show_table(f"{found.name}: accuracy in per cent", columns(found), table(found))
        console.output.print(closing(found))
        console.output.print(f"tables and pictures: {folder}")
    if failed:
        console.messages.print(f"error: {failed}", style="red")
        raise typer.Exit(failed.exit_code)


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where everything of the demo goes.")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Render a small collection, extract every modality, train UniAlign and run the modality ablation, offline."""
    from unialign.cache.paths import expanded_path
    from unialign.pipeline.ablation.tables import closing, columns, table
    from unialign.pipeline.demo import run_demo

    def say(text: str) -> None:
        if not as_json:
            console.messages.print(text)

    with console.progress_bar("demo", hidden=as_json) as progress:
        found = run_demo(expanded_path(folder).resolve(), say=say, progress=progress)
    if as_json:
        console.show_json(found.result())
        return
    console.show_table("modality ablation: accuracy in per cent", columns(found.ablation), table(found.ablation))
    console.output.print(closing(found.ablation))
    for line in found.words():
        console.output.print(line)


@contextmanager
def trial_bar(total: int, *, hidden: bool) -> Iterator[tuple["Callable[[Trial, Progress], None]", "Done"]]:
    """A bar over the trainings of a sweep, with what the one that was heard of last is at."""
    with console.progress_bar("ablation", hidden=hidden) as update:
        so_far = [0]

        def show(trial: "Trial", at: "Progress") -> None:
            text = f"ablation: {trial.row}, seed {trial.seed}, epoch {at.epoch + 1}/{at.epochs}, loss {at.loss:.3f}"
            update(so_far[0], total, text)

        def report(outcome: "TrialOutcome", done: int, total: int) -> None:
            so_far[0] = done
            update(done, total, f"ablation: {outcome.trial.row}, seed {outcome.trial.seed}")

        yield show, report


@contextmanager
def training_bar(title: str, *, hidden: bool) -> Iterator["Show"]:
    """A bar over the batches of a run, with loss, rate and the share of time spent waiting for data."""
    with console.progress_bar(title, hidden=hidden) as update:
        yield lambda at: update(
            at.epoch * at.batches + at.batch + 1,
            at.epochs * at.batches,
            f"{title}: epoch {at.epoch + 1}/{at.epochs}, loss {at.loss:.3f}, {at.samples_per_second:.0f} clips/s, "
            f"waiting for data {at.wait:.0%}",
        )
