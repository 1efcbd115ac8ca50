"""`unialign evaluate | why`: a run's checkpoint measured again, here or on another dataset; why two runs differ."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unialign import console
from unialign.cache.access import explained, is_refused
from unialign.commands.options import (
    AsJson,
    Cache,
    Command,
    ConfigFile,
    Labels,
    Quiet,
    Root,
    Runs,
    Use,
    Verbose,
    chosen_stores,
    resolve,
)
from unialign.errors import UsageError

if TYPE_CHECKING:
    from unialign.pipeline.config import Config
    from unialign.stages.datasets.base import Dataset


A_RUN = "A run: its folder, or the beginning of its name or key in --runs."


def add_commands(app: typer.Typer) -> None:
    """Put the command into the application."""
    app.command("evaluate", cls=Command, epilog="Example: unialign evaluate runs/ntu60-art-seed0-0123456789ab")(
        evaluate
    )
    app.command("why", cls=Command, epilog="Example: unialign why ntu60-art-seed0 ntu60-art-seed1")(why)


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=A_RUN)],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="Dataset to test on instead (alt only): classes are recognized by their texts.",
        ),
    ] = None,
    root: Root = None,
    cache: Cache = None,
    runs: Runs = None,
    labels: Labels = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", metavar="NAME", help="Split of that other dataset. Default: its first.")
    ] = None,
    use: Use = None,
    best: Annotated[
        bool, typer.Option("--best", help="Evaluate the best epoch's checkpoint instead of the last.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Evaluate a checkpoint again and draw the results.

    Reads the stores that the run names, and writes images to `pictures` in the run's folder.
    """
    before = resolve(config, None, runs=runs)
    from unialign.pipeline.datasets import the_dataset
    from unialign.pipeline.training.run_folder import find_run, read_config

    run = find_run(before.runs.resolve(), run)
    trained_on = read_config(run)["dataset"]
    stores = chosen_stores(use)
    resolved = resolve(
        config, None, data=root, cache=cache, labels=labels, dataset=dataset or trained_on, train__stores=stores
    )
    of_run = the_dataset(resolved)
    if resolved.dataset != trained_on:
        if best:
            raise UsageError("--best is of the run's own dataset; elsewhere its last checkpoint is evaluated.")
        _elsewhere(run, of_run, resolved, protocol, as_json=as_json)
        return
    if protocol or stores:
        raise UsageError("--protocol and --use go with another --dataset; a run's own split and stores are in it.")
    from unialign.pipeline.evaluation.compare_runs import sentence_of
    from unialign.pipeline.evaluation.evaluate import evaluate_run
    from unialign.pipeline.evaluation.gallery import draw_run

    cache_root, keep = resolved.cache.resolve(), resolved.train.remote_cache
    found = evaluate_run(run, of_run, cache=cache_root, keep=keep, which="best" if best else "last")
    if found.data:
        console.say(f"the data is not that of the run ({sentence_of(found.data)}).")
    pictures = _drawn(lambda: draw_run(run, of_run, cache_root, keep=keep))
    if as_json:
        console.show_json({**found.result(), "pictures": [str(path) for path in pictures]})
        return
    from unialign.stages.training.metrics import shown

    console.show_result(
        f"{run}: {in_one_line(found.metrics)}, {'as' if found.agrees else 'not as'} in result.json",
        {
            "run": found.run,
            "checkpoint": found.checkpoint,
            **shown(found.metrics),
            "as in result.json": "yes" if found.agrees else f"no: {found.stored}",
            "pictures": pictures[0].parent if pictures else "none",
        },
    )
    _show_classes(found.per_class)
    _show_confused(found.confused)


def _drawn(draw: Callable[[], list[Path]]) -> list[Path]:
    """The images; none, with a message, if the run's folder cannot be written."""
    try:
        return draw()
    except OSError as error:
        if not is_refused(error):
            raise
        console.messages.print(f"no pictures: {explained(error)}.")
        return []


def why(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help=A_RUN)],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run that it is compared with.")],
    runs: Runs = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Say why two runs differ.

    Settings, code, stores, data (which samples), libraries and hardware are compared.
    """
    folder = resolve(config, None, runs=runs).runs.resolve()
    from unialign.pipeline.evaluation.compare_runs import compare_runs, rows_of_difference
    from unialign.pipeline.training.run_folder import find_run

    found = compare_runs(find_run(folder, first), find_run(folder, second))
    if as_json:
        console.show_json(found)
        return
    rows = list(rows_of_difference(found))
    if rows:
        console.show_table("differences", ("what", "field", found["first"], found["second"]), rows)
    else:
        console.output.print("The two runs do not differ in anything that is recorded.")


def _elsewhere(run: Path, dataset: "Dataset", config: "Config", protocol: str | None, *, as_json: bool) -> None:
    from unialign.pipeline.evaluation.evaluate_elsewhere import evaluate_elsewhere, needed_elsewhere, record_elsewhere
    from unialign.pipeline.training.from_config import cached_readers

    readers = cached_readers(needed_elsewhere(run), dataset, config, check=True)
    found = evaluate_elsewhere(run, dataset, readers=readers, cache=config.cache.resolve(), protocol=protocol)
    record_elsewhere(run, found)
    if as_json:
        console.show_json(found.result())
        return
    shared = "not known" if found.shared is None else ", ".join(found.shared) or "none"
    from unialign.stages.training.metrics import shown

    console.show_result(
        f"{run} on {found.dataset}, {found.protocol}: {in_one_line(found.metrics)}",
        {
            "run": found.run,
            "trained on": ", ".join(found.trained_on),
            "tested on": f"{found.dataset}, {found.protocol}",
            **shown(found.metrics),
            "classes of both": shared,
        },
    )
    _show_classes(found.per_class)


def in_one_line(metrics: Mapping[str, float]) -> str:
    """The two metrics that a result line has, such as "top-1 87.5%, mean class 85.0%"."""
    from unialign.stages.training.metrics import METRICS

    names = [name for name in ("top1", "mean_class") if name in metrics]
    return ", ".join(f"{METRICS[name].title} {METRICS[name].spoken(metrics[name])}" for name in names) or (
        "no test samples"
    )


def _show_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    if console.is_quiet():
        return
    from unialign.stages.training.metrics import METRICS

    metrics = {name: metric.title for name, metric in METRICS.items() if metric.per_class}
    rows = [
        (
            row["name"],
            row["samples"],
            row["correct"],
            *("-" if row.get(name) is None else METRICS[name].spoken(row[name]) for name in metrics),
        )
        for row in classes
    ]
    console.show_table("classes", ("class", "samples", "correct", *metrics.values()), rows)


def _show_confused(pairs: Sequence[Mapping[str, Any]]) -> None:
    if console.is_quiet() or not pairs:
        return
    rows = [(pair["true"], pair["predicted"], pair["samples"], f"{pair['share']:.1%}") for pair in pairs]
    console.show_table("taken for another class most often", ("class", "predicted", "samples", "of its class"), rows)
