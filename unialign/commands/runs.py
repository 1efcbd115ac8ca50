"""`unialign runs ...`: the training runs of a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unialign import console
from unialign.cache.keys import ABSENT
from unialign.commands.options import AsJson, Cache, Command, ConfigFile, Group, Quiet, Runs, resolve
from unialign.errors import UsageError
from unialign.words import counted

if TYPE_CHECKING:
    from unialign.pipeline.runs import RunLine

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="List, show, compare and remove training runs.",
    epilog="Example: unialign runs ls",
)

Name = Annotated[Path, typer.Argument(metavar="RUN", help="A run: its folder, or the beginning of its name or key.")]
NOTHING = "-"
WIDEST = 40


@app.command("ls", cls=Command, epilog="Example: unialign runs ls --runs runs")
def list_all(runs: Runs = None, as_json: AsJson = False, quiet: Quiet = False, config: ConfigFile = None) -> None:
    """List all runs, the newest first.

    Top-1 of the test part comes with its 95 % interval for other clips of the same kind (Wilson).
    """
    from unialign.pipeline.runs import list_runs

    root = resolve(config, None, runs=runs).runs.resolve()
    found = list_runs(root)
    if as_json:
        console.show_json({"runs": str(root), "found": [line.result() for line in found]})
        return
    if console.is_quiet():
        for line in found:
            console.output.print(line.run)
        return
    columns = ("run", "system", "dataset", "split", "top-1", "95 % interval", "epochs", "ended", "size")
    console.show_table(str(root), columns, [_cells(line) for line in found])
    for line in found:
        if line.problem:
            console.output.print(f"{line.run} cannot be read: {line.problem}")


def _cells(line: "RunLine") -> tuple[str, ...]:
    top1, interval = NOTHING, NOTHING
    if line.top1 is not None and line.low is not None and line.high is not None:
        top1, interval = f"{line.top1:.1%}", f"{line.low:.0%} to {line.high:.0%} of {line.tested:,}"
    epochs = str(line.epoch) if line.finished else f"{line.epoch} of {line.epochs}, not finished"
    if line.problem:
        epochs = NOTHING
    model = f"{line.model} ({line.name})" if line.name else line.model
    size = console.human_bytes(line.size)
    return line.run, model, line.dataset, line.protocol, top1, interval, epochs, line.date, size


@app.command("show", cls=Command, epilog="Example: unialign runs show folder-unialign-seed0")
def show(run: Name, runs: Runs = None, cache: Cache = None, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Describe one run: results, samples, stores, machine, and what rests on it."""
    from unialign.pipeline.runs import describe_run
    from unialign.pipeline.training.run_folder import find_run

    resolved = resolve(config, None, runs=runs, cache=cache)
    root = resolved.runs.resolve()
    found = describe_run(find_run(root, run), root, resolved.cache.resolve())
    if as_json:
        console.show_json(found)
        return
    from unialign.stages.training.metrics import shown

    samples = {part: side.get("used", 0) for part, side in found["samples"].items()}
    machine = found["machine"]
    fields: dict[str, object] = {
        "run": found["run"],
        "system": found["model"],
        "dataset": f"{found['dataset']}, {found['protocol']}",
        "classes": len(found["classes"]) or NOTHING,
        "samples": ", ".join(f"{count:,} {part}" for part, count in samples.items() if count),
        "epochs": found["epoch"] if found["finished"] else f"{found['epoch']} of {found['epochs']}, not finished",
        **shown(found["metrics"]),
    }
    if found["low"] is not None:
        fields["95 % interval of top-1"] = f"{found['low']:.1%} to {found['high']:.1%}"
    if found["best"]:
        fields["best epoch"] = found["best"]["epoch"]
    fields |= {f"store {name}": store.get("store") or NOTHING for name, store in found["stores"].items()}
    fields["machine"] = f"{machine.get('processor', NOTHING)}, {machine.get('device', NOTHING)}"
    fields["ended" if found["finished"] else "begun"] = f"{found['date']} UTC"
    fields["size"] = console.human_bytes(found["size"])
    fields["needed by"] = "\n".join(found["rests"]) or "nothing"
    console.show_fields(fields)


@app.command(
    "compare", cls=Command, epilog="Example: unialign runs compare folder-unialign-seed0 folder-unialign-seed1"
)
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run: its folder, or the beginning of its name.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run that it is compared with.")],
    runs: Runs = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Compare two runs: settings that differ, and each class's change.

    On the clips that both tested, paired: the change of top-1 with its 95 % interval. `unialign why` says what else
    differs (data, code, libraries, hardware).
    """
    from unialign.pipeline.runs import compare_classes
    from unialign.pipeline.training.run_folder import find_run

    root = resolve(config, None, runs=runs).runs.resolve()
    found = compare_classes(find_run(root, first), find_run(root, second))
    if as_json:
        console.show_json(found)
        return
    several_systems = any(row["field"] == "model" for row in found["settings"])
    of_both = [row for row in found["settings"] if not several_systems or ABSENT not in (row["first"], row["second"])]
    rows = [(str(row["field"]), _brief(row["first"]), _brief(row["second"])) for row in of_both]
    names = (found["first"], found["second"])
    console.show_table("settings that differ", ("setting", *names), rows or [("none", NOTHING, NOTHING)])
    if left_out := len(found["settings"]) - len(of_both):
        console.output.print(
            f"{counted(left_out, 'setting')} that only one of the systems has: `unialign why` lists them."
        )
    console.show_table(
        f"right answers on {found['tested']:,} clips that both tested",
        ("class", "clips", *names, "change"),
        [
            (row["name"], row["samples"], f"{row['first']:.1%}", f"{row['second']:.1%}", f"{100 * row['change']:+.1f}")
            for row in found["classes"]
        ],
    )
    console.output.print(_verdict(found))


def _brief(value: object) -> str:
    """A value in a cell: of a long one, its beginning."""
    text = str(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def _verdict(found: Mapping[str, Any]) -> str:
    first, second = found["top1"]
    return (
        f"top-1 {first:.1%} and {second:.1%}: {100 * found['change']:+.1f} points (95 % interval "
        f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}); {found['only_second']} clips only the second has "
        f"right, {found['only_first']} only the first."
    )


@app.command("rm", cls=Command, epilog="Example: unialign runs rm folder-unialign-seed0 --yes")
def remove(
    names: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Runs: their folders, or the beginnings of their names or keys."),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs: Runs = None,
    cache: Cache = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Delete runs.

    Asks first, unless --yes is given. Refuses a run that others rest on: that started from its weights, that read pose
    features of its encoder, or an ablation that lists it.
    """
    from unialign.pipeline.runs import remove_run, run_line
    from unialign.pipeline.training.run_folder import find_run, read_config

    resolved = resolve(config, None, runs=runs, cache=cache)
    root = resolved.runs.resolve()
    folders = [find_run(root, name) for name in names]
    for folder in folders:
        read_config(folder)  # nothing but runs is deleted
    if not yes:
        if as_json or not console.messages.is_terminal:
            raise UsageError("runs rm asks before it deletes, and there is no terminal to ask on; give --yes.")
        sizes = sum(run_line(folder).size for folder in folders)
        typer.confirm(
            f"delete {', '.join(folder.name for folder in folders)} ({console.human_bytes(sizes)})?", abort=True
        )
    removed = {folder.name: remove_run(folder, root, resolved.cache.resolve()) for folder in folders}
    if as_json:
        console.show_json({"removed": list(removed), "bytes": sum(removed.values())})
    else:
        console.show_result(
            f"{len(removed)} removed", {f"removed {name}": console.human_bytes(size) for name, size in removed.items()}
        )
