"""`unialign weights`: which weight files are here, what they hold, and whether they load."""

from pathlib import Path
from typing import Annotated

import typer

from unialign import console
from unialign.commands.options import AsJson, Command, ConfigFile, Overrides, resolve
from unialign.errors import UsageError

LOADS = {True: "yes", False: "no", None: "not tried"}


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into the application."""
    app.command("weights", cls=Command, epilog="Example: unialign weights --folder ~/weights")(weights)


def weights(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder of weight files. Default: `weights` of unialign.yaml.")
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """List the weight files of a folder.

    Each with the network that it holds, the options that take it, and whether it loads. Nothing is downloaded.
    """
    resolved = resolve(config, overrides, weights=folder)
    if resolved.weights is None:
        raise UsageError("which folder? Give --folder, or `weights: FOLDER` in unialign.yaml.")
    from unialign.pipeline.weights import found_weights

    with console.progress_bar("reading", hidden=as_json) as update:
        found = found_weights(resolved.weights, update)
    if as_json:
        console.show_json({"folder": str(resolved.weights), "files": [each.result() for each in found]})
        return
    rows = [
        (
            each.path,
            console.human_bytes(each.size),
            each.digest[:12],
            f"{each.what} ({each.known})" if each.known else each.what,
            LOADS[each.loads],
            "; ".join(each.uses),
            each.note,
        )
        for each in found
    ]
    columns = ("file", "size", "SHA-256", "what it is", "loads", "for", "how, or why not")
    console.show_table(f"weights in {resolved.weights}", columns, rows)
