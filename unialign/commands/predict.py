"""`unialign predict`: label new clips with a trained model."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unialign import console
from unialign.commands.extraction import watching
from unialign.commands.options import AsJson, Cache, Command, ConfigFile, Overwrite, Quiet, Runs, Verbose, resolve
from unialign.errors import UsageError

if TYPE_CHECKING:
    from unialign.pipeline.config import Config
    from unialign.pipeline.prediction.model import Model, Prediction

SHOWN = 5


def add_commands(app: typer.Typer) -> None:
    """Put the command into the application."""
    app.command("predict", cls=Command, epilog="Example: unialign predict clip.mp4 --out labeled.mp4")(predict)


def predict(
    clips: Annotated[
        list[Path],
        typer.Argument(
            metavar="VIDEO...",
            help="Videos, or folders of them, which are searched whole; skeleton files for a model that was trained on "
            "such.",
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="A run (its folder, or the beginning of its name or key in --runs), or a file of `unialign export`. "
            "Default: the run that was finished last.",
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Weights that the run's features were extracted with, such as those of its pose network, where the "
            "configuration does not name them (repeatable).",
        ),
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="Take the best epoch's checkpoint instead of the last.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="An mp4 to write: the clip with poses, labels, and the weights of modalities and frames; a folder for "
            "several clips.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    cache: Cache = None,
    runs: Runs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Label new clips with a trained model.

    Clips are extracted as those that the model was trained on, with the settings and weights in the keys of its stores,
    which is checked. Prints the five likeliest classes of each, or with --json one line per clip as it is done. Clips
    that cannot be used get their status, and exit code 3.
    """
    resolved = resolve(config, None, cache=cache, runs=runs)
    given = [_there(each) for each in clips]
    model = _model(run, resolved, weights or [], best=best)
    endings = model.clips.suffixes
    files = list(_clips(given, endings))
    if not files:
        wanted = "videos" if model.clips.videos else f"skeleton files ({', '.join(endings)})"
        raise UsageError(f"{clips[0]} holds no {wanted}, which {model.trained.where} reads.")
    if out is not None and not model.clips.videos:
        raise UsageError(f"--out draws on videos, and {model.trained.where} reads skeleton files; leave it out.")
    places = _outputs(files, out, overwrite=overwrite)
    from unialign.pipeline.prediction.picture import write_annotated

    lost = 0
    with console.progress_bars(hidden=as_json) as begin:
        for found in model.stream(files, watch=lambda title: watching(title, begin(f"extract {title}"), {})):
            lost += found.status != "ok"
            if found.status == "ok" and found.path in places:
                write_annotated(found, places[found.path])
            _show(found, as_json=as_json)
    for note in model.notes:
        console.say(f"note: {note}.")
    if lost:
        raise typer.Exit(3)


def _model(run: Path | None, config: "Config", weights: list[Path], *, best: bool) -> "Model":
    from unialign.cache.paths import expanded_path
    from unialign.pipeline.prediction.load import load

    return load(
        expanded_path(run) if run else None, config, weights=[expanded_path(each) for each in weights], best=best
    )


def _there(given: Path) -> Path:
    """The path, expanded. Raises `UsageError` for what is not there."""
    from unialign.cache.paths import expanded_path

    path = expanded_path(given)
    if not path.exists():
        raise UsageError(f"{path}: no such file; give a video, or a folder with some.")
    return path


def _clips(given: list[Path], endings: tuple[str, ...]) -> Iterator[Path]:
    """The files themselves, and those in folders that end so, in order."""
    from unialign.stages.datasets.scan import walk_files

    for path in given:
        if path.is_dir():
            found = (Path(entry.path) for entry in walk_files(path))
            yield from sorted(each for each in found if each.suffix.lower() in endings)
        else:
            yield path


def _outputs(files: list[Path], out: Path | None, *, overwrite: bool) -> dict[Path, Path]:
    """The mp4 to write for each clip. Raises `UsageError` for one that exists, and for one file for several clips."""
    if out is None:
        return {}
    if out.suffix.lower() == ".mp4":
        if len(files) > 1:
            raise UsageError(f"--out {out} is one file for {len(files)} clips; give a folder.")
        places = {files[0]: out}
    else:
        places = {path: out / f"{path.stem}.mp4" for path in files}
        if len(set(places.values())) < len(files):
            raise UsageError(f"several of the clips have the same name, so they cannot be written to {out} together.")
    existing = next((place for place in places.values() if place.exists()), None)
    if existing and not overwrite:
        raise UsageError(f"{existing} exists; give another name with --out, or --overwrite.")
    return places


def _show(found: "Prediction", *, as_json: bool) -> None:
    if as_json:
        console.show_json(found.result())
    elif found.status != "ok":
        why = f" ({found.why})" if found.why else ""
        console.output.print(f"{found.path}: {found.status}{why}")
    elif console.is_quiet():
        console.output.print(f"{found.path}: {found.label} {found.probabilities[found.label]:.4f}")
    else:
        console.output.print(f"{found.path}")
        for name, probability in found.top(SHOWN):
            console.output.print(f"  {probability:6.1%}  {name}")
        if found.importance:
            told = ", ".join(f"{name} {weight:.2f}" for name, weight in found.importance.items())
            console.output.print(f"          weights: {told}")
