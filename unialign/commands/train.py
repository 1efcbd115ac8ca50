"""`unialign train | ablate | demo`: stage two."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unialign import console
from unialign.commands.evaluate import in_one_line
from unialign.commands.groups import General, SplitData, configured, given, grouped
from unialign.commands.options import FLAGS, AsJson, Command, Quiet, Use, Verbose, chosen_stores, overlap, setting
from unialign.commands.progress import say_problems, training_bar, trial_bar
from unialign.errors import UnialignError, UsageError
from unialign.types import Json
from unialign.words import counted

if TYPE_CHECKING:
    from unialign.pipeline.ablation.grid import Grid
    from unialign.pipeline.config import Config
    from unialign.pipeline.evaluation.baselines import Row
    from unialign.pipeline.training.train import RunResult
    from unialign.stages.datasets.base import Dataset

Model = Annotated[str | None, setting("train.model")]
Epochs = Annotated[int | None, setting("train.settings.epochs")]
Seed = Annotated[int | None, setting("train.settings.seed")]
Name = Annotated[str | None, setting("train.name")]

# How the heads of a system are combined, see `RunResult.heads`.
OF_HEADS = {"mean": "their mean", "weighted": "their weighted product"}
# Below so many of its training clips right, a network that no simple classifier should beat has not learned enough.
FITTED = 0.9


@dataclass(frozen=True)
class System:
    """What is trained, and from what."""

    model: Model = None
    use: Use = None
    backbone_weights: Annotated[Path | None, setting("train.backbone_weights", metavar="FILE")] = None


@dataclass(frozen=True)
class Loop:
    """How it is trained."""

    device: Annotated[str | None, setting("train.settings.device")] = None
    batch_size: Annotated[int | None, setting("train.settings.batch_size")] = None
    lr: Annotated[float | None, setting("train.settings.lr")] = None
    epochs: Epochs = None
    workers: Annotated[int | None, setting("train.settings.read_threads", "--workers")] = None


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into the application."""
    app.command("train", cls=Command, epilog="Example: unialign train --cached --dataset ntu60 --protocol xsub")(
        grouped(train)
    )
    app.command("ablate", cls=Command, epilog="Example: unialign ablate modalities --dataset ntu60 --epochs 20")(
        grouped(ablate)
    )
    app.command("demo", cls=Command, epilog="Example: unialign demo --folder demo")(demo)


def train(
    *,
    cached: Annotated[
        bool,
        typer.Option(
            "--cached/--online",
            help="Read features from the cache, or extract them during training, for comparison.",
        ),
    ] = True,
    data: SplitData,
    system: System,
    loop: Loop,
    seed: Seed = None,
    name: Name = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Delete the run of the same settings and data, if there is one, and train again."
        ),
    ] = False,
    general: General,
) -> None:
    """Train a system on cached modalities.

    An interrupted run resumes, and a finished run of the same settings and data is reused; `--overwrite` trains anew.
    """
    resolved = configured(general, data, system, loop, train__settings__seed=seed, train__name=name)
    # What takes long to load is loaded after the request has been checked.
    from unialign.pipeline.datasets import the_dataset

    found = the_dataset(resolved)
    say_problems(found, resolved.protocol)
    from unialign.pipeline.training.from_config import train_from_config

    with training_bar(resolved.train.model, hidden=general.as_json or os.environ.get("RANK", "0") != "0") as show:
        result = train_from_config(
            resolved, found, online=not cached, show=show, tell=_tell(general.verbose), overwrite=overwrite
        )
    if os.environ.get("RANK", "0") != "0":
        # Under torchrun every process gets here with the same result; one reports it.
        return
    beside = baseline_beside(resolved, found, result) if cached and not result.reused else None
    if general.as_json:
        console.show_json(training_object(result, beside))
    else:
        show_training(result, beside)


def training_object(result: "RunResult", beside: "Row | None") -> dict[str, Json]:
    """The object of a training run that `--json` prints."""
    return {**result.result(), **result.metrics, "baseline": beside.result() if beside else None}


def show_training(result: "RunResult", beside: "Row | None", more: Mapping[str, object] = MappingProxyType({})) -> None:
    """What came out of a training run, for people: what it answers, then where it lies.

    beside: the best simple classifier. more: fields that follow.
    """
    from unialign.stages.training.metrics import shown

    fields: dict[str, object] = {"model": f"{result.model} on {result.dataset}, {result.protocol}{_clips(result)}"}
    fields |= shown(result.metrics)
    if "top1" in result.metrics:
        fields["top-1"] = _with_interval(result)
        choices = len(result.per_class.get("accuracy", {}))
        fields |= {"chance": f"{1 / choices:.1%} ({choices:,} classes)"} if choices else {}
    fields |= _baseline_fields(result, beside)
    fields |= _best_fields(result.best)
    if result.heads:
        of = (f"{OF_HEADS.get(name, name)} {found['test']:.1%}" for name, found in result.heads.items())
        fields["top-1 of each head"] = ", ".join(of)
    if result.zero_shot:
        fields["zero-shot"] = zero_shot_told(result.zero_shot)
    if result.extracted:
        fields["extracted meanwhile"] = counted(result.extracted, "sample")
    reused = " (reused: it was finished before)" if result.reused else ""
    fields |= {"trained in": f"{console.clock(result.seconds)}{reused}", "run": console.short_path(result.folder)}
    if result.exported:
        fields["encoder"] = console.short_path(result.exported)
    fields |= more
    reused = " (reused)" if result.reused else ""
    console.show_result(f"{result.folder}: {in_one_line(result.metrics)}{reused}", fields)


def _clips(result: "RunResult") -> str:
    """How many clips it learned from and was tested on."""
    used = {part: side.get("used", 0) for part, side in result.samples.items()}
    return "".join(f", {count:,} {part}" for part, count in used.items() if count)


def _with_interval(result: "RunResult") -> str:
    from unialign.pipeline.evaluation.intervals import wilson_interval

    top1, tested = result.metrics["top1"], result.samples.get("test", {}).get("used", 0)
    low, high = wilson_interval(top1 * tested, tested)
    return f"{top1:.1%} (95% interval {low:.0%} to {high:.0%})"


def _baseline_fields(result: "RunResult", beside: "Row | None") -> dict[str, object]:
    """The best simple classifier beside the network, and what may help where it is not beaten."""
    if beside is None:
        return {}
    told = f"{beside.baseline} on {beside.features} {beside.top1:.1%}"
    if beside.top1 < result.metrics["top1"]:
        return {"simple baseline": told}
    found: dict[str, object] = {"simple baseline": f"{told}, not beaten (all of them: `unialign baseline`)"}
    if result.train_top1 is not None and result.train_top1 < FITTED:
        right = f"only {result.train_top1:.1%} of the training clips were right in the last epoch"
        found["training"] = f"{right}: longer training may help (--epochs)"
    return found


def baseline_beside(config: "Config", dataset: "Dataset", result: "RunResult") -> "Row | None":
    """The best simple classifier on what the run read; None if the run has no top-1 or that would take long."""
    from unialign.pipeline.config import with_values
    from unialign.pipeline.evaluation.baselines import quick_baselines, record_baselines

    if "top1" not in result.metrics:
        return None
    try:
        read = {name: Path(str(key["store"])).name.removesuffix(".zarr") for name, key in result.keys.items()}
        # The stores that it read, of which the cache may hold several by now; those behind URLs are named by these.
        config = with_values(config, {"train.stores": {**read, **config.train.stores}})
        rows = quick_baselines(config, dataset, result.keys)
        record_baselines(result.folder, rows)
    except UnialignError as error:
        # The run is finished all the same.
        console.say(f"no baseline beside it: {error}")
        return None
    return max(rows, key=lambda row: row.top1, default=None)


def _tell(verbose: bool) -> Callable[[str], None]:
    """What is to be known of the data is a message; with --verbose the training logs it too."""
    return (lambda sentence: None) if verbose else console.say


def zero_shot_told(found: Mapping[str, Any]) -> str:
    """The accuracies of a zero-shot report, what was chosen among or by which rule, and what it may not claim."""
    shares = [f"{name} {found[name]:.1%}" for name in ("seen", "unseen", "harmonic") if name in found]
    said = [f"{found['test']} test among {found['candidates']:,} classes"] if "test" in found else []
    said += [*shares, *([f"epoch {found['epoch']}, chosen as {found['rule']}"] if "rule" in found else [])]
    if found.get("held_out"):
        said.append(
            f"tested on {counted(len(found['held_out']), 'held-out training class', 'held-out training classes')}"
        )
    if not found.get("clean", True):
        said.append("not clean: the rule has looked at the tested classes")
    if "rule" in found and found.get("encoder_clean") is None:
        said.append("what the encoder was trained on is not known")
    return ", ".join(said)


def _best_fields(best: Mapping[str, Any]) -> dict[str, object]:
    """The epoch that val chose, with its top-1 on val and on test."""
    if not best:
        return {}
    tops = [f"{part} top-1 {best[part]['top1']:.1%}" for part in ("val", "test") if best.get(part)]
    return {"best epoch": f"{best['epoch']} (chosen on val): {', '.join(tops)}"}


def ablate(
    *,
    grid: Annotated[
        str,
        typer.Argument(
            metavar="GRID",
            help="A YAML file of rows or axes, or the name of a grid that comes with the package; an unknown name "
            "lists them.",
        ),
    ],
    data: SplitData,
    use: Use = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Training runs in parallel. Default: as many as cores and memory allow."),
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(
            "--cluster",
            metavar="CLUSTER",
            help="Where they are trained: local-cuda (one on each GPU; local-cuda:N shares the GPUs among N), slurm:N, "
            "a Dask scheduler's address, or local:N, the same as --jobs N.",
        ),
    ] = "",
    loop: Loop,
    seed: Annotated[
        list[int] | None,
        typer.Option("--seed", metavar="INT", help="Seed to train, instead of the grid's (repeatable)."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Name of the ablation and of the folder of its tables, instead of the grid's.",
            metavar="TEXT",
        ),
    ] = None,
    general: General,
) -> None:
    """Train every row of a grid for every seed, and compare the rows in one table.

    All rows read the same caches, nothing is extracted, and finished runs are reused.
    """
    resolved = configured(general, data, loop, train__stores=chosen_stores(use))
    from unialign.pipeline.ablation.grid import read_grid, trials

    made, failed = read_grid(grid), None
    named = {override.partition("=")[0]: override.partition("=")[0] for override in general.overrides or ()}
    _check_grid(made, {FLAGS[key]: key for key in given(loop)} | named)
    if seed:
        made = made.with_seeds(seed)
    if name is not None:
        made = made.with_name(name)
    from unialign.pipeline.ablation.results import FailedTrials
    from unialign.pipeline.ablation.sweep import sweep
    from unialign.pipeline.ablation.tables import closing, columns, table

    try:
        with trial_bar(len(trials(made)), hidden=general.as_json) as (show, report):
            found, folder = sweep(
                made, resolved, jobs=jobs, cluster=cluster, show=show, announce=console.say, report=report
            )
    except FailedTrials as error:
        if not error.ablation.results:
            raise
        failed, found, folder = error, error.ablation, error.folder
    if general.as_json:
        problem = {"error": str(failed), "exit_code": failed.exit_code} if failed else {}
        console.show_json({**found.result(), "folder": str(folder), **problem})
    elif console.is_quiet():
        reused = sum(result.reused for result in found.results)
        console.output.print(f"{folder}: {len(found.results)} training runs, {reused} of them reused")
    else:
        console.show_table(f"{found.name}: accuracy in percent", columns(found), table(found))
        console.output.print(closing(found))
        console.output.print(f"tables and images: {folder}")
    if failed:
        console.messages.print(f"error: {failed}", style="red")
        raise typer.Exit(failed.exit_code)


def _check_grid(grid: "Grid", given: Mapping[str, str]) -> None:
    """Raise `UsageError` for a value that is given on the command line and set by the grid, whose value would count.

    given: flags and names of overrides, with the keys that they set.
    """
    of_seeds = {key: seed for seed in grid.seeds for key in grid.values_of(seed)}
    for row in grid.all_rows():
        for key in {**grid.set, **row.set, **of_seeds, "train.settings.seed": row}:
            for name, other in given.items():
                if overlap(key, other.replace("-", "_")):
                    where = f" in its row {row.name!r}" if key in row.set else ""
                    way = "give --seed" if key == "train.settings.seed" else "change it there"
                    raise UsageError(f"{name} has no effect: the grid sets {key} itself{where}; {way}.")


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Folder for everything that the demo makes.")] = Path("demo"),
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run both stages and an ablation on a small rendered collection, offline.

    Renders clips, extracts every modality, trains UniAlign and runs the modality ablation, in a few minutes.
    """
    from unialign.cache.paths import expanded_path
    from unialign.pipeline.ablation.tables import closing, columns, table
    from unialign.pipeline.demo import run_demo

    def say(text: str) -> None:
        if not as_json:
            console.say(text)

    with console.progress_bar("demo", hidden=as_json) as progress:
        found = run_demo(expanded_path(folder).resolve(), say=say, progress=progress)
    if as_json:
        console.show_json(found.result())
        return
    if console.is_quiet():
        console.output.print(f"{folder}: done in {found.seconds:.0f} seconds")
        return
    console.show_table("modality ablation: accuracy in percent", columns(found.ablation), table(found.ablation))
    console.output.print(closing(found.ablation))
    for line in found.words():
        console.output.print(line)
