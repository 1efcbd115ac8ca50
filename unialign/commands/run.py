"""`unialign run`: from videos to a trained, evaluated model in one command."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unialign import console
from unialign.commands.evaluate import in_one_line
from unialign.commands.extraction import (
    Cluster,
    Retry,
    Threads,
    begun,
    result,
    show_classes,
    show_reasons,
    watching,
)
from unialign.commands.groups import General, SplitData, configured, grouped
from unialign.commands.options import Command, setting
from unialign.commands.progress import training_shown
from unialign.commands.train import Epochs, Model, Seed, baseline_beside, show_training, training_object
from unialign.types import Json
from unialign.words import counted

if TYPE_CHECKING:
    from unialign.pipeline.config import Config
    from unialign.pipeline.extraction.extract import Extraction
    from unialign.pipeline.extraction.pace import Pace
    from unialign.pipeline.training.train import RunResult
    from unialign.stages.datasets.base import Dataset

NEXT = "open the page in a browser; label other clips with `unialign predict VIDEO`"


def add_commands(app: typer.Typer) -> None:
    """Put the command into the application."""
    app.command("run", cls=Command, epilog="Example: unialign run --root clips --weights yolo11n-pose.pt")(grouped(run))


def run(
    *,
    data: SplitData,
    weights: Annotated[Path | None, setting("extract.poses.weights")] = None,
    model: Model = None,
    epochs: Epochs = None,
    seed: Seed = None,
    cluster: Cluster = None,
    threads: Threads = None,
    retry: Retry = False,
    general: General,
) -> None:
    """Go from videos to a trained, evaluated model: both stages in one command.

    Extracts what the model reads, trains a skeleton encoder for the pose features, and then the model. Whatever is
    finished is reused, so the same command resumes wherever it was stopped, and after new clips does only what they
    need. `unialign init` writes settings that fit the clips.
    """
    from unialign.pipeline.config import with_values

    resolved = configured(
        general,
        data,
        extract__poses__weights=weights,
        train__model=model,
        train__settings__epochs=epochs,
        train__settings__seed=seed,
        extract__cluster=cluster,
        extract__threads=threads,
    )
    if resolved.dataset is None:
        resolved = with_values(resolved, {"dataset": "folder"})
    found, facts = begun(resolved, as_json=general.as_json)
    steps: list[Json] = []
    with console.progress_bars(hidden=general.as_json) as begin:
        last, quarantined = _run(found, resolved, begin, steps, retry=retry, as_json=general.as_json)
    beside = None if last.reused else baseline_beside(resolved, found, last)
    from unialign.pipeline.pages.report import write_report

    with console.progress_bar("report", hidden=general.as_json) as progress:
        page = write_report(resolved, last.folder, progress=progress)
    if general.as_json:
        more = {"steps": steps, "page": str(page.path), "collection": facts}
        console.show_json({**training_object(last, beside), **more})
    else:
        show_training(last, beside, {"page": console.short_path(page.path), "next": NEXT})
    if quarantined:
        raise typer.Exit(3)


def _run(
    dataset: "Dataset",
    config: "Config",
    begin: Callable[[str], console.Update],
    steps: list[Json],
    *,
    retry: bool,
    as_json: bool,
) -> tuple["RunResult", bool]:
    """The run, and whether clips are quarantined. begin: the next bar. steps: takes the object of each step."""
    from unialign.pipeline.end_to_end import ENCODER_STEP, end_to_end
    from unialign.pipeline.training.train import RunResult

    say = (lambda text: None) if as_json else console.say
    paces: dict[str, Pace] = {}
    quarantined = False
    for name, done in end_to_end(
        dataset,
        config,
        retry=retry,
        watch=lambda title: watching(title, begin(f"extract {title}"), paces),
        announce=console.say,
        show=lambda title: training_shown(title, begin(title), say),
        tell=console.say,
    ):
        if isinstance(done, RunResult):
            steps.append({"step": name, **done.result()})
            if name == ENCODER_STEP:
                say(_trained(name, done))
            last = done
        else:
            pace = next((pace for title, pace in paces.items() if name in title.split(" and ")), None)
            steps.append({"step": name, **result(done, pace)})
            say(_extracted(name, done, pace))
            quarantined = quarantined or bool(done.quarantined)
            if not as_json and not console.is_quiet():
                show_reasons(done.reasons)
                show_classes(done.problems, dataset)
    return last, quarantined


def _extracted(name: str, done: "Extraction", pace: "Pace | None") -> str:
    """Such as "poses: 8 clips in 12 s (14 frames/s)", or "poses: 8 clips, all reused"."""
    unit = "prompt" if name == "text" else "clip"
    if not done.attempted:
        return f"{name}: {counted(done.reused, unit)}, all reused"
    speed = f" ({pace.frames_per_second:,.0f} frames/s)" if pace and pace.frames else ""
    reused = f", {done.reused:,} reused" if done.reused else ""
    lost = "".join(f", {count:,} {status}" for status, count in done.quarantined.items())
    return f"{name}: {counted(done.extracted, unit)} in {console.clock(done.seconds)}{speed}{reused}{lost}"


def _trained(name: str, done: "RunResult") -> str:
    """Such as "skeleton encoder: top-1 87.5%, mean class 85.0%; 300 epochs in 31 s"."""
    epochs = counted(done.epochs, "epoch")
    how = "trained before, reused" if done.reused else f"{epochs} in {console.clock(done.seconds)}"
    return f"{name}: {in_one_line(done.metrics)}; {how}"
