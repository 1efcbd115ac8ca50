"""`unialign baseline`: what simple classifiers reach on cached features."""

from typing import Annotated

import typer

from unialign import console
from unialign.commands.groups import Data, given, grouped
from unialign.commands.options import (
    AsJson,
    Command,
    ConfigFile,
    Overrides,
    Protocol,
    Use,
    chosen_stores,
    load,
)
from unialign.commands.progress import say_problems


def add_commands(app: typer.Typer) -> None:
    """Put the command into the application."""
    app.command("baseline", cls=Command, epilog="Example: unialign baseline --dataset utd-mhad --features poses")(
        grouped(baseline)
    )


def baseline(
    *,
    features: Annotated[
        str,
        typer.Option(
            "--features",
            help="Features to classify: poses, pose-features, tokens, frames, or a store by the beginning of its name.",
        ),
    ] = "poses",
    data: Data,
    protocol: Protocol = None,
    use: Use = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Measure simple classifiers on cached features.

    Majority, nearest neighbors, ridge, logistic regression and SVMs, with settings chosen on val. Protocols that test
    unseen classes get ridge regression to the texts of the classes instead.
    """
    flags = given(data, protocol=protocol, train__stores=chosen_stores(use))
    resolved = load(config, overrides, flags)
    from unialign.pipeline.datasets import the_dataset

    found = the_dataset(resolved)
    say_problems(found, resolved.protocol)
    from unialign.pipeline.evaluation.baselines import baselines_from_config

    with console.progress_bar("baseline", hidden=as_json) as progress:
        result = baselines_from_config(resolved, found, features, progress=progress)
    if as_json:
        console.show_json(result.result())
        return
    rows = [
        (row.baseline, f"{100 * row.top1:.1f}", f"{100 * row.mean_class:.1f}", row.chosen or "-", f"{row.seconds:.1f}")
        for row in result.rows
    ]
    title = f"{result.dataset}, {result.protocol}, {result.rows[0].features}: accuracy in percent"
    console.show_table(title, ("baseline", "top-1", "mean class", "settings", "seconds"), rows)
    samples = ", ".join(f"{count} {name}" for name, count in result.samples.items() if count)
    console.output.print(f"Samples: {samples}. Settings chosen on {result.chosen_on}. Read from: {result.store}.")
    for sentence in result.skipped:
        console.output.print(f"left out: {sentence}")
