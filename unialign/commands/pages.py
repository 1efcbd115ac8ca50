"""`unialign report | browse`: one HTML file about what was trained, or about what is in a cache."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unialign import console
from unialign.commands.options import (
    AsJson,
    Cache,
    Command,
    ConfigFile,
    DatasetName,
    Quiet,
    Root,
    Runs,
    Verbose,
    resolve,
)

if TYPE_CHECKING:
    from unialign.pipeline.pages.page import Page

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The file to write, replacing an older one.")]


def add_commands(app: typer.Typer) -> None:
    """Put the commands into the application."""
    app.command("report", cls=Command, epilog="Example: unialign report modalities --out modalities.html")(report)
    app.command("browse", cls=Command, epilog="Example: unialign browse --dataset ntu60 --out ntu60.html")(browse)


def report(
    what: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run or an ablation: its folder, the beginning of a run's name or key in --runs, or a grid's name. "
            "Default: the newest of them.",
            show_default=False,
        ),
    ] = None,
    root: Root = None,
    cache: Cache = None,
    runs: Runs = None,
    out: Out = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Write a page about a run or an ablation.

    One HTML file that opens with a double click, offline: the rows with their seeds, intervals and simple baselines,
    each class, confusions, test clips that play with skeletons over them, weights of modalities and frames, class
    texts, coverage, speed and provenance. By default report.html in the folder of the run or ablation.
    """
    resolved = resolve(config, None, data=root, cache=cache, runs=runs)
    from unialign.cache.paths import expanded_path
    from unialign.pipeline.pages.report import write_report

    path = None if out is None else expanded_path(out).resolve()
    with console.progress_bar("report", hidden=as_json) as progress:
        page = write_report(resolved, what, out=path, progress=progress)
    _show(page, as_json=as_json)


def browse(
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="[STORE]",
            help="The beginning of a store's name, if a collection has several of its modality. Default: all "
            "modalities of the dataset's collection, or of the only one in the cache.",
            show_default=False,
        ),
    ] = None,
    dataset: DatasetName = None,
    cache: Cache = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The file to write, replacing an older one.")
    ] = Path("browse.html"),
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Write a page about the stores of a cache.

    One HTML file, before any training: samples that play with skeletons over their frames, which are stored and why
    others are not, similarity of class texts, a map of features, keys and licenses.
    """
    resolved = resolve(config, None, dataset=dataset, cache=cache)
    from unialign.cache.paths import expanded_path
    from unialign.pipeline.pages.browse import write_browser

    with console.progress_bar("browse", hidden=as_json) as progress:
        page = write_browser(resolved, store, out=expanded_path(out).resolve(), progress=progress)
    _show(page, as_json=as_json)


def _show(page: "Page", *, as_json: bool) -> None:
    if as_json:
        console.show_json(page.result())
        return
    console.show_result(
        str(page.path),
        {"shows": page.what, "page": console.short_path(page.path), "size": console.human_bytes(page.bytes)},
    )
