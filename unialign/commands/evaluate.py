"""`unialign evaluate | why`: a run's checkpoint measured again, here or on another dataset; why two runs differ."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unialign import console
from unialign.cache.access import explained, is_refused
from unialign.commands.options import AsJson, Cache, ConfigFile, Labels, Root, Runs, Use, chosen_stores, resolve
from unialign.errors import UsageError

if TYPE_CHECKING:
    from unialign.pipeline.config import Config
    from unialign.stages.datasets.base import Dataset


RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run: its folder, or the beginning of its name or key.")
]


def add_commands(app: typer.Typer) -> None:
    """Put the command into the application."""
    app.command("evaluate", epilog="Example: unialign evaluate runs/ntu60-unialign-0123456789ab")(evaluate)
    app.command("why", epilog="Example: unialign why runs/ntu60-art-0123456789ab runs/ntu60-art-456789abcdef")(why)


def evaluate(
    run: RunFolder,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Another dataset than the run's, whose classes alt recognises by their texts."),
    ] = None,
    root: Root = None,
    cache: Cache = None,
    runs: Runs = None,
    labels: Labels = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="Split of that other dataset.")] = None,
    use: Use = None,
    best: Annotated[bool, typer.Option("--best", help="The best checkpoint instead of the last.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Evaluate a run's checkpoint again, from the stores that it names, and draw it into its folder `pictures`."""
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
        console.messages.print(f"the data is not that of the run ({sentence_of(found.data)}).")
    pictures = _drawn(lambda: draw_run(run, of_run, cache_root, keep=keep))
    if as_json:
        console.show_json({**found.result(), "pictures": [str(path) for path in pictures]})
        return
    from unialign.stages.training.metrics import shown

    console.show_fields(
        {
            "run": found.run,
            "checkpoint": found.checkpoint,
            **shown(found.metrics),
            "as recorded": "yes" if found.agrees else f"no: {found.stored}",
            "pictures": pictures[0].parent if pictures else "none",
        }
    )
    _show_classes(found.per_class)


def _drawn(draw: Callable[[], list[Path]]) -> list[Path]:
    """The pictures; none, and a message, where the run's folder cannot be written."""
    try:
        return draw()
    except OSError as error:
        if not is_refused(error):
            raise
        console.messages.print(f"no pictures: {explained(error)}.")
        return []


def why(
    first: RunFolder,
    second: RunFolder,
    runs: Runs = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Why two runs differ: settings, code, stores, data (which samples), libraries, hardware."""
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
    from unialign.pipeline.evaluation.evaluate_elsewhere import evaluate_elsewhere, needed_elsewhere
    from unialign.pipeline.training.from_config import cached_readers

    readers = cached_readers(needed_elsewhere(run), dataset, config, check=True)
    found = evaluate_elsewhere(run, dataset, readers=readers, cache=config.cache.resolve(), protocol=protocol)
    if as_json:
        console.show_json(found.result())
        return
    shared = "not known" if found.shared is None else ", ".join(found.shared) or "none"
    from unialign.stages.training.metrics import shown

    console.show_fields(
        {
            "run": found.run,
            "trained on": ", ".join(found.trained_on),
            "tested on": f"{found.dataset}, {found.protocol}",
            **shown(found.metrics),
            "classes of both": shared,
        }
    )
    _show_classes(found.per_class)


def _show_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    from unialign.stages.training.metrics import METRICS

    metrics = {name: metric.title for name, metric in METRICS.items() if metric.per_class}
    rows = [
        (
            row["name"],
            row["samples"],
            row["correct"],
            *("-" if row.get(name) is None else f"{row[name]:.3f}" for name in metrics),
        )
        for row in classes
    ]
    console.show_table("classes", ("class", "samples", "correct", *metrics.values()), rows)
