"""Options that several commands share, and what they resolve to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unialign.errors import UsageError

if TYPE_CHECKING:
    from unialign.pipeline.config import Config

DatasetName = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Dataset: ntu60, ntu120, utd-mhad, penn-action, folder, pyskl, demo, that of a plug-in, or "
        "package.module:function for one of your own (`dataset:`).",
    ),
]
Root = Annotated[Path | None, typer.Option("--root", help="Data root (UNIALIGN_DATA, `data:`).")]
Cache = Annotated[Path | None, typer.Option("--cache", help="Cache root (UNIALIGN_CACHE, `cache:`).")]
Runs = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs (`runs:`).")]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="CSV of path,label (folder); class names, one a line (pyskl, utd-mhad).")
]
Protocol = Annotated[
    str | None,
    typer.Option("--protocol", help="Split, such as xsub, or subject=anna,ben: these are tested (`protocol:`)."),
]
Use = Annotated[list[str] | None, typer.Option("--use", metavar="MODALITY=NAME", help="Which store of a modality.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Instead of unialign.yaml in the working folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object on standard output.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any configuration value: train.settings.epochs=5")
]


def resolve(config: Path | None, overrides: list[str] | None, **flags: Any) -> "Config":
    """The configuration of a command: its flags over overrides over environment over file."""
    from unialign.pipeline.config import load_config

    return load_config({name.replace("__", "."): value for name, value in flags.items()}, overrides or (), file=config)


def chosen_stores(use: list[str] | None) -> dict[str, str] | None:
    """`--use` as modality to name, None without any. Raises `UsageError` for something of another form."""
    if not use:
        return None
    pairs = [choice.partition("=") for choice in use]
    if not all(separator and name and store for name, separator, store in pairs):
        raise UsageError(f"--use {' '.join(use)!r} is not of the form MODALITY=NAME, such as poses=yolo-0123.")
    return {name: store for name, _, store in pairs}
