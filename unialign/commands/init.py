"""`unialign init`: look at a folder of videos, and write the unialign.yaml that fits it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unialign import console
from unialign.commands.options import AsJson, Command, DatasetName, Labels, Overwrite, Quiet, Verbose, setting
from unialign.errors import UsageError
from unialign.words import counted

if TYPE_CHECKING:
    from unialign.pipeline.proposal import Proposal

FILE = Path("unialign.yaml")


def add_commands(app: typer.Typer) -> None:
    """Put the command into the application."""
    app.command("init", cls=Command, epilog="Example: unialign init clips --weights yolo11n-pose.pt")(init)


def init(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder of the dataset, such as one folder of videos per class, or its file."
        ),
    ],
    dataset: DatasetName = None,
    labels: Labels = None,
    weights: Annotated[Path | None, setting("extract.poses.weights")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")] = FILE,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Look at a dataset and at this machine, and write settings that fit both.

    Says what was found: classes, splits, lengths and sizes of clips, people in them where poses exist, and what may
    spoil a result. Measures for at most 20 seconds how fast this machine decodes and computes. `unialign run` comes
    next.
    """
    from unialign.cache.atomic import write_text
    from unialign.cache.paths import expanded_path

    path = expanded_path(out)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; give another name with --out, or --overwrite.")
    from unialign.pipeline.proposal import propose

    with console.progress_bar("look at clips", hidden=as_json) as bar:
        found = propose(
            expanded_path(data),
            dataset=dataset,
            labels=expanded_path(labels) if labels else None,
            weights=expanded_path(weights) if weights else None,
            progress=bar,
        )
    write_text(path, found.text)
    if as_json:
        console.show_json({**found.result(), "file": str(path)})
        return
    if not console.is_quiet():
        _show(found)
    lacking = any(line.off and line.key == "extract.poses.weights" for line in found.lines)
    console.output.print(f"{path} written; next: unialign run{' --weights yolo11n-pose.pt' if lacking else ''}")


def _show(found: "Proposal") -> None:
    from unialign.pipeline.proposal import pose_seconds
    from unialign.stages.datasets.facts import dataset_facts, shown_facts

    look, machine = found.look, found.machine
    fields: dict[str, object] = {**shown_facts(dataset_facts(found.dataset))}
    fields.pop("notes", None)
    if look.decoded:
        fields["clips"] = (
            f"{look.frames} frames (the shortest {look.shortest}), {look.long_side} x {look.side} pixels, "
            f"{look.fps:g} fps (median of {look.decoded} looked at)"
        )
    if look.people:
        fields["people"] = ", ".join(f"{number} in {counted(count, 'clip')}" for number, count in look.people.items())
        if not look.people.keys() - {0}:
            fields["people"] = "nobody is seen, so poses will not help"
    fields["machine"] = f"{machine['processor']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}"
    rates = {"decoder": "decoding", "network": "the pose network"}
    told = [f"{name} {machine[key]:,.0f} frames/s" for key, name in rates.items() if machine.get(key)]
    if told:
        fields["speed here"] = ", ".join(told)
    if seconds := pose_seconds(look, machine):
        fields["extraction"] = f"will take about {console.clock(seconds)}, once"
    console.show_fields(fields)
    for problem in look.problems:
        console.output.print(f"note: {problem}.")
