"""`unialign results`: every finished run beside the papers' figures on its dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unialign import console
from unialign.commands.options import AsJson, Command, ConfigFile, Quiet, resolve
from unialign.words import counted

COLUMNS = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class", "harmonic": "harmonic"}
NOTHING = "-"
SHOWN = 3  # settings in which a row differs
TOLD_OTHERWISE = ("settings.epochs", "settings.optimizer", "settings.lr", "settings.batch_size", "stores.")


def add_commands(app: typer.Typer) -> None:
    """Put the command into the application."""
    app.command("results", cls=Command, epilog="Example: unialign results runs more/runs")(results)


def results(
    roots: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUNS", help="Folders of runs. Default: `runs` of the configuration."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """List all finished runs beside published figures.

    Runs that differ only in their seed share a row: mean and standard deviation. Each row is marked with its recipe,
    the share of the split that was measured, the digest of the split, its seeds, and the best simple classifier that
    was measured on the same split.
    """
    from unialign.cache.paths import expanded_path
    from unialign.errors import MissingCache

    folders = [expanded_path(root).resolve() for root in roots or (resolve(config, None).runs,)]
    for folder in folders:
        if not folder.is_dir():
            raise MissingCache(f"{folder} is not a folder of runs; `unialign train` makes them, in --runs.")
    from unialign.pipeline.evaluation.run_results import collect_results

    with console.progress_bar("results", hidden=as_json) as progress:
        found = collect_results(folders, progress)
    if as_json:
        console.show_json(found)
        return
    if console.is_quiet():
        console.output.print(
            f"{counted(sum(len(row['runs']) for row in found['rows']), 'finished run')}, "
            f"{counted(len(found['rows']), 'recipe')}"
        )
        return
    for dataset in sorted({row["dataset"] for row in found["rows"]}):
        _show_dataset(dataset, *([row for row in found[kind] if row["dataset"] == dataset] for kind in KINDS))
    for sentence in _notes(found):
        console.output.print(sentence)


KINDS = ("rows", "published")


def _show_dataset(dataset: str, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> None:
    shown = [name for name in COLUMNS if any(name in row["metrics"] for row in (*ours, *theirs))]
    lines = [(_task(row), 0, _own_cells(row, shown)) for row in ours]
    lines += [(_task(row), 1, _published_cells(row, shown)) for row in theirs]
    columns = (
        "split",
        "method",
        *(COLUMNS[name] for name in shown),
        "measured",
        "seeds",
        "split digest",
        "recipe or source",
        "best baseline",
    )
    rows = [cells for _, _, cells in sorted(lines, key=lambda line: line[:2])]
    console.show_table(f"{dataset}: accuracy in percent", columns, rows)


def _task(row: Mapping[str, Any]) -> str:
    shots = f", {row['shots']} shots" if row["shots"] else ""
    before = f", trained on {' and '.join(row['trained_on'])}" if row.get("trained_on") else ""
    return f"{row['protocol']}{shots}{before}"


def _own_cells(row: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    from unialign.pipeline.evaluation.run_results import DIGITS, spoken_recipe

    share, size = row["coverage"].get("test", 1.0), row["published_share"].get("test")
    measured = f"{100 * share:.1f} %" + ("" if size is None else f" ({100 * size:.1f} % of published)")
    splits, baseline = row["splits"], row["baseline"]
    return [
        _task(row),
        f"{row['model']} (ours)",
        *(_number(row["metrics"].get(name), row["deviations"].get(name)) for name in shown),
        measured,
        ", ".join(map(str, row["seeds"])),
        f"{len(splits)} splits" if len(splits) > 1 else splits[0][:DIGITS] or NOTHING,
        f"{spoken_recipe(row['settings'], row['name'])}{_differences(row['differs'])} ({row['recipe'][:DIGITS]})",
        f"{baseline['name']} {100 * baseline['top1']:.1f}" if baseline else NOTHING,
    ]


def _differences(differs: Mapping[str, Any]) -> str:
    """What tells a row from the others of its task, beside what every row shows: choices of the model come first."""
    names = sorted(differs, key=lambda name: (name.startswith("settings."), name))
    told = [_told(name.rpartition(".")[2], differs[name]) for name in names if not name.startswith(TOLD_OTHERWISE)]
    more = [f"{len(told) - SHOWN} more"] if len(told) > SHOWN else []
    return "".join(f", {each}" for each in [*told[:SHOWN], *more])


def _told(name: str, value: Any) -> str:
    if isinstance(value, list):
        value = " + ".join(map(str, value)) if 0 < len(value) <= SHOWN else len(value)
    return f"{name} {value}"


def _published_cells(row: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    metrics, note = row["metrics"], f"; {row['note']}" if row["note"] else ""
    return [
        _task(row),
        row["method"],
        *(_number(metrics.get(name), metrics.get(f"{name}_std")) for name in shown),
        NOTHING,
        NOTHING,
        NOTHING,
        f"{row['evidence']}: {row['source']}{note}",
        NOTHING,
    ]


def _number(value: float | None, deviation: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{100 * value:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def _notes(found: Mapping[str, Any]) -> list[str]:
    """What is not in the tables, and why."""
    notes = [f"cannot be used: {each['error']}" for each in found["unreadable"]]
    if found["unfinished"]:
        notes.append(f"not finished: {counted(len(found['unfinished']), 'run')}, such as {found['unfinished'][0]}.")
    if found["repeated"]:
        notes.append(
            f"counted once: {counted(len(found['repeated']), 'run')} of an earlier folder, such as "
            f"{found['repeated'][0]}."
        )
    if not found["rows"]:
        notes.append(f"no finished run in {', '.join(found['roots'])}; `unialign train` makes them.")
    return notes
