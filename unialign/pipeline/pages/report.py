"""`unialign report`: one page about a run or an ablation, see `write_report`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache.reader import Recorded
from unialign.errors import MissingCache, UnialignError
from unialign.pipeline.ablation.charted import baseline_row, charted_baselines, charted_rows
from unialign.pipeline.ablation.stored import NAME, read_ablation
from unialign.pipeline.ablation.tables import columns, table
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.evaluation.class_groups import boxes, confusion_groups
from unialign.pipeline.evaluation.evaluate import prepare_again
from unialign.pipeline.evaluation.gallery import outputs_of
from unialign.pipeline.pages.answers import Answers, answers_content, kept, read_answers, side_by_side
from unialign.pipeline.pages.chosen import confused_clips, pairs_content, worth_showing
from unialign.pipeline.pages.claims import cards, claims, verdict
from unialign.pipeline.pages.coverage import coverage_content
from unialign.pipeline.pages.maps import map_content
from unialign.pipeline.pages.page import Page, write_page
from unialign.pipeline.pages.provenance import run_parts, store_parts
from unialign.pipeline.pages.sources import collection_of, picture_sources, run_stores, videos_of
from unialign.pipeline.pages.speed import speed_content
from unialign.pipeline.pages.strips import Progress, layout_content, strips_of
from unialign.pipeline.pages.texts import texts_content
from unialign.pipeline.training.run_data import read_data
from unialign.pipeline.training.run_folder import find_run, newest_run, read_baselines, read_predictions
from unialign.pipeline.training.train import run_config
from unialign.stages.training.metrics import METRICS, confusion_matrix
from unialign.types import Json
from unialign.words import counted

LOGGER = logging.getLogger(__name__)
FILE = "report.html"
# Classes in a list of answers.
BEST = 4


@dataclass(frozen=True)
class Subject:
    """What a page is about. runs: of all rows and seeds; rows, baselines: see `ablation.charted`."""

    title: str
    folder: Path
    runs: tuple[Answers, ...]
    rows: tuple[dict[str, Any], ...]
    baselines: tuple[dict[str, Any], ...]
    table: dict[str, Json]
    over: str
    seconds: Mapping[Path, float | None]


def write_report(
    config: Config,
    what: Path | None = None,
    *,
    out: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Page:
    """Write one self-contained HTML page about a finished run or ablation; returns where.

    what: a folder of a run or an ablation, or the beginning of a run's name or key, or the name of a grid; None: the
    newest in `config.runs`. out: the file; by default report.html in that folder. progress: (done, total, text).
    The same file for the same run, stores and machine. Stores that are gone leave out what needs them.
    Raises `MissingCache` where there is no such finished run, `DamagedStore` for one that cannot be read.
    """
    runs = config.runs.resolve()
    folder = newest(runs) if what is None else find_subject(runs, what)
    found = _ablation(folder) if (folder / NAME).is_file() else _single(folder)
    content = report_content(found, config, progress)
    return write_page(out or folder / FILE, content, folder.name)


def newest(runs: Path) -> Path:
    """The run or ablation in the folder `runs` that was finished last. Raises `MissingCache` without any."""
    ablations = sorted(runs.glob(f"ablations/*/{NAME}"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    if not ablations:
        return newest_run(runs)
    run = newest_run(runs)
    # The last run of an ablation ends before its tables are written.
    later = ablations[-1].stat().st_mtime_ns >= (run / "result.json").stat().st_mtime_ns
    return ablations[-1].parent if later else run


def find_subject(runs: Path, what: Path) -> Path:
    """The folder of the run or ablation that is meant. Raises what `find_run` raises."""
    if len(what.parts) == 1 and (runs / "ablations" / what / NAME).is_file() and not what.is_dir():
        return runs / "ablations" / what
    return find_run(runs, what)


def _ablation(folder: Path) -> Subject:
    found = read_ablation(folder)
    names = [str(row["row"]) for row in found.rows()]
    several = len({result.trial.seed for result in found.results}) > 1
    answers, seconds = [], {}
    for result in found.results:
        label = f"{result.trial.row}, seed {result.trial.seed}" if several else result.trial.row
        answers.append(read_answers(Path(result.run), names.index(result.trial.row), label))
        seconds[answers[-1].folder] = result.seconds
    if not answers:
        raise MissingCache(f"{folder} has no finished run; the same `unialign ablate` makes them.")
    over = sorted({str(row["change_over"]) for row in found.rows() if row.get("change_over")})
    return Subject(
        title=f"{found.name}: {counted(len(names), 'row')} on {answers[0].result['dataset']}",
        folder=folder,
        runs=tuple(side_by_side(answers)),
        rows=tuple(charted_rows(found.rows(), found)),
        baselines=tuple(charted_baselines(found)),
        table={"head": list(columns(found)), "rows": [list(cells) for cells in table(found)]},
        over=" or ".join(over),
        seconds=seconds,
    )


def _single(folder: Path) -> Subject:
    run = read_answers(folder, 0, "this run")
    metrics, facts = run.result["metrics"], run.facts()
    row = {"name": str(run.config.get("name") or run.result["model"]), "mean": facts["top1"], "deviation": None}
    complete = metrics.get("coverage") in (None, 1.0)
    shown = [name for name in METRICS if name in metrics and not (METRICS[name].if_missing and complete)]
    return Subject(
        title=f"{row['name']} on {run.result['dataset']}",
        folder=folder,
        runs=(run,),
        rows=({**row, "change": None, "low": None, "high": None, "seeds": [facts]},),
        baselines=tuple(baseline_row(row, len(run.labels)) for row in read_baselines(folder)),
        table={
            "head": ["run", *(METRICS[name].title for name in shown)],
            "rows": [[folder.name, *(METRICS[name].text(metrics[name]) for name in shown)]],
        },
        over="",
        seconds={folder: float(run.result["seconds"])},
    )


def report_content(found: Subject, config: Config, progress: Progress) -> dict[str, Json]:
    """Everything that a page shows, as `web/sections.js` reads it."""
    runs, note = kept(found.runs)
    main = _shown_run(runs)
    run, cache = runs[main], config.cache.resolve()
    classes, ids = run.classes, run.ids
    readers, lost = run_stores(run.keys, cache, config.train.remote_cache)
    for sentence in lost:
        LOGGER.info("not on the page: %s", sentence)
    videos = videos_of(str(run.result["dataset"]), config)
    sources = picture_sources(readers, cache, collection_of(run.keys), videos)
    usable = np.array([sources.holds(name) for name in ids])
    pairs = confused_clips(run.labels, run.guesses, run.sure, usable)
    order = [place for place in worth_showing(run.labels, run.guesses, run.sure, pairs) if usable[place]]
    shown = strips_of(sources, ids, order, progress)
    _add_outputs(shown, run, readers, config, progress)
    same = [confusion_matrix(each.guesses, each.labels, len(classes)) for each in runs if each.row == run.row]
    groups = confusion_groups(np.sum(same, axis=0))
    return {
        "title": found.title,
        "subtitle": f"{run.result['dataset']}, protocol {run.result['protocol']}: {counted(len(ids), 'test clip')} of "
        f"{counted(len(classes), 'class', 'classes')}; {counted(len(found.runs), 'run')}"
        f"{'' if len(found.runs) == 1 else f'. Clips are shown with the answers of “{run.label}”.'}",
        "verdict": verdict(found.rows, found.baselines),
        "cards": cards(found.rows, runs, found.baselines),
        "claims": claims(found.rows, runs, found.baselines, found.over),
        "rows": list(found.rows),
        "baselines": list(found.baselines),
        "table": found.table,
        "over": found.over,
        "runs": [each.facts() for each in runs],
        "main": main,
        "classes": list(classes),
        "order": [label for labels in groups for label in labels],
        "boxes": [list(box) for box in boxes(groups)],
        "clips": answers_content(runs),
        "pairs": pairs_content(pairs, {int(clip["clip"]): place for place, clip in enumerate(shown)}),
        "shown": shown,
        "chosen": _chosen(shown, order, note, lost),
        "layout": layout_content(sources.layout if any(clip["people"] for clip in shown) else None),
        "map": map_content(readers, ids, lambda done, total: progress(done, total, "map of features")),
        "texts": texts_content(readers["text"], classes) if "text" in readers else None,
        "coverage": _coverage(run, readers),
        "speed": speed_content(runs, [found.seconds.get(each.folder) for each in runs]),
        "provenance": [*run_parts(run, runs), *store_parts(readers, run.keys["stores"])],
    }


def _shown_run(runs: Sequence[Answers]) -> int:
    """The run whose clips are shown: of those that read most modalities the last row's, with its first seed."""
    most = max(len(run.keys["stores"]) for run in runs)
    row = max(run.row for run in runs if len(run.keys["stores"]) == most)
    return next(place for place, run in enumerate(runs) if run.row == row and len(run.keys["stores"]) == most)


def _add_outputs(
    shown: list[dict[str, Json]], run: Answers, readers: Mapping[str, Recorded], config: Config, progress: Progress
) -> None:
    """Give the shown clips the run's answers, and frame weights and nearest texts where stores and checkpoint are."""
    # The answers are those of the run's test, in which every head had its weight.
    stored = read_predictions(run.folder) or {"ids": np.empty(0)}
    rows = {name: row for row, name in enumerate(stored["ids"].tolist())}
    for clip in shown:
        row = rows.get(run.ids[clip["clip"]])
        top = None if row is None else _best(stored["probabilities"][row])
        clip |= {"top": top, "texts": None, "weights": None}
    if not shown or set(run.keys["stores"]) - set(readers):
        return
    try:
        dataset = the_dataset(with_values(config, {"dataset": run.result["dataset"]}))
        prepared = prepare_again(run_config(run.folder), dataset, readers, 0)
        tested = {name: place for place, name in enumerate(prepared.test_side.samples.ids)}
        clips = [clip for clip in shown if run.ids[clip["clip"]] in tested]
        places = [tested[run.ids[clip["clip"]]] for clip in clips]
        told = lambda done, total: progress(done, total, "what the network attends to")  # noqa: E731
        _, outputs, _ = outputs_of(run.folder, prepared, str(run.keys["run"]), places, told)
    except UnialignError as error:
        LOGGER.info("no weights of frames on the page: %s", error)
        return
    weights, texts = outputs.get("token_importance_video"), outputs.get("align_logits")
    compares = "text" in readers and texts is not None
    for number, clip in enumerate(clips):
        if texts is not None and compares:
            clip["texts"] = _best(_softmax(texts[number]))
        if weights is not None and weights.ndim == 2 and weights.shape[1] > 1:
            clip["weights"] = [round(float(value), 4) for value in weights[number]]


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores.astype(np.float64) - scores.max())
    return np.asarray(powers / powers.sum())


def _best(shares: np.ndarray) -> list[Json]:
    order = np.argsort(-shares, kind="stable")[:BEST]
    return [[int(label), round(float(shares[label]), 4)] for label in order]


def _chosen(shown: Sequence[Json], order: Sequence[int], note: str, lost: Sequence[str]) -> str:
    said = [note] if note else []
    if shown:
        said.append(
            f"{len(shown)} of {counted(len(order), 'clip')} come with frames or skeletons (▶): those of the most "
            "frequent confusions, then wrong answers around the classes, the surest first, and a right one for every "
            "two."
        )
    if lost:
        said.append(f"Some stores of the run cannot be opened: {' '.join(lost)}")
    return " ".join(said)


def _coverage(run: Answers, readers: Mapping[str, Recorded]) -> Json:
    rows = [row for row in read_data(run.folder, str(run.keys.get("data") or "")) or () if row.part != "text"]
    names = {name: place for place, name in enumerate(run.classes)}
    rows = [row for row in rows if row.label in names]
    parts = {part: sum(row.part == part for row in rows) for part in ("train", "val", "test")}
    spoken = ", ".join(f"{count:,} for {part}" for part, count in parts.items() if count)
    note = f"All {len(rows):,} samples of the run ({spoken}), by what the stores hold of them today."
    return coverage_content(readers, [row.id for row in rows], [names[row.label] for row in rows], len(names), note)
