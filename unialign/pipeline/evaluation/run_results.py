"""The finished runs of folders as rows: the same recipe over its seeds, with all that qualifies a figure.

A row is a recipe on some data: everything that decides a run's result except the seed. Its marks are the recipe's
digest, the share of the split that was measured, the digest of the split, the seeds, and the best simple classifier
that was measured on the same split.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unialign.cache.keys import digest, flatten
from unialign.errors import CacheProblem, DamagedStore
from unialign.pipeline.evaluation.published import published_for
from unialign.pipeline.training.run_data import TEXT, Row, read_data, split_digest
from unialign.pipeline.training.run_folder import (
    read_baselines,
    read_config,
    read_elsewhere,
    read_keys,
    read_result,
    run_folders,
)
from unialign.stages.datasets.catalog import DATASETS
from unialign.stages.training.settings import NOT_IDENTITY
from unialign.types import Json
from unialign.words import counted

# Digits of a recipe's or a split's digest in a table.
DIGITS = 8
# Of the numbers that zero-shot systems report besides metrics, those that are accuracies.
ZERO_SHOT = ("seen", "unseen", "harmonic", "area")


@dataclass(frozen=True)
class FinishedRun:
    """One finished run.

    trained_on: datasets of the run and of those that it started from, if the figures are of another one, see
    `evaluate_elsewhere`. recipe: digest of everything that decides the result except the seed and the samples. split:
    digest of ids, classes and parts of its samples; "" for runs that predate this record. data: the same with what the
    features were made from, "" if the seed chooses the samples, so that its runs can share a row. used, missing:
    samples by part. baselines: the simple classifiers that were measured beside it. choices: all that the recipe is the
    digest of, by dotted name, and the first digits of `data`.
    """

    folder: Path
    key: str
    dataset: str
    protocol: str
    shots: int
    model: str
    name: str
    seed: int
    settings: Mapping[str, Any]
    recipe: str
    split: str
    data: str
    metrics: Mapping[str, float]
    used: Mapping[str, int]
    missing: Mapping[str, int]
    baselines: tuple[Mapping[str, Any], ...] = ()
    trained_on: tuple[str, ...] = ()
    choices: Mapping[str, Json] = field(default_factory=dict)


def collect_results(
    roots: Sequence[Path], progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Json]:
    """All finished runs in these folders, one row per recipe and split, and the papers' figures on their datasets.

    The object that `--json` prints: "rows", see `_row`; "published", see `published.Published`; "unfinished": folders
    of runs that have not ended; "unreadable": [{"run", "error"}]; "repeated": folders of runs that an earlier folder
    already holds, which are counted once.
    """
    folders = [folder for root in roots for folder in run_folders(root)]
    found: dict[str, list[FinishedRun]] = {}
    unfinished: list[Json] = []
    unreadable: list[Json] = []
    repeated: list[Json] = []
    for done, folder in enumerate(folders):
        progress(done, len(folders))
        if not (folder / "result.json").is_file():
            unfinished.append(str(folder))
            continue
        try:
            run = read_run(folder)
            results = [run, *_elsewhere(run)]
        except CacheProblem as error:
            unreadable.append({"run": str(folder), "error": str(error)})
            continue
        if found.setdefault(run.key, results) is not results:
            repeated.append(str(folder))
    groups: dict[tuple[str, str, int, str, tuple[str, ...], str, str, str], list[FinishedRun]] = defaultdict(list)
    runs = [run for results in found.values() for run in results]
    for run in runs:
        # Other clips are another task; only few-shot runs have samples that the seed chooses.
        split = "" if run.shots else run.split
        groups[run.dataset, run.protocol, run.shots, run.model, run.trained_on, split, run.recipe, run.data].append(run)
    tasks = {key[:-2] for key in groups}
    differing = {task: _differing([groups[key] for key in groups if key[:-2] == task]) for task in tasks}
    best = _best_baselines(runs)
    published: list[Json] = [row.result() for row in published_for(run.dataset for run in runs)]
    return {
        "roots": [str(root) for root in roots],
        "rows": [_row(groups[key], best, differing[key[:-2]]) for key in sorted(groups)],
        "published": published,
        "unfinished": unfinished,
        "unreadable": unreadable,
        "repeated": repeated,
    }


def read_run(folder: Path) -> FinishedRun:
    """What a finished run folder says. Raises `MissingCache` and `DamagedStore` for one that cannot be read."""
    config, keys, result = read_config(folder), read_keys(folder), read_result(folder)
    sides, seed = result["samples"], config["settings"].get("seed", 0)
    try:
        recipe = recipe_digest(config, keys["stores"])
        choices = dict(flatten(_choices(config, keys["stores"])))
    except (TypeError, ValueError) as error:
        raise DamagedStore(
            f"{folder / 'config.yaml'} cannot be used ({error}); it is not the file of a run."
        ) from error
    split, data = split_of(folder, keys.get("data") or "")
    if config.get("shots") or any(name.rpartition(".")[2] == "held_out" and value for name, value in choices.items()):
        data = ""
    return FinishedRun(
        folder=folder,
        key=result["key"],
        dataset=result["dataset"],
        protocol=result["protocol"],
        shots=config.get("shots", 0),
        model=result["model"],
        name=str(config.get("name", "")),
        seed=seed if isinstance(seed, int) else 0,
        settings=config["settings"],
        recipe=recipe,
        choices={**choices, **({"data": data[:DIGITS]} if data else {})},
        split=split,
        data=data,
        metrics={**result["metrics"], **_zero_shot(result.get("zero_shot", {}))},
        used={part: _count(side, "used") for part, side in sides.items()},
        missing={part: _count(side, "missing") for part, side in sides.items()},
        baselines=tuple(read_baselines(folder)),
    )


def _elsewhere(run: FinishedRun) -> list[FinishedRun]:
    """What `unialign evaluate --dataset` has measured of a run on other datasets."""
    return [
        replace(
            run,
            dataset=row["dataset"],
            protocol=row["protocol"],
            shots=0,
            split=row["split"],
            data=f"{run.data} {row['split']}",
            metrics=row["metrics"],
            used={"test": row["used"]},
            missing={"test": row["missing"]},
            baselines=(),
            trained_on=tuple(row["trained_on"]),
        )
        for row in read_elsewhere(run.folder)
    ]


def recipe_digest(config: Mapping[str, Any], stores: Mapping[str, Mapping[str, Any]]) -> str:
    """64 hex digits: the settings that decide a result and the stores that were read, without seed and row name."""
    found = _choices(config, stores)
    rest = {name: value for name, value in found.items() if name not in ("settings", "stores")}
    return digest({"config": rest, "settings": found["settings"], "stores": found["stores"]})


def _choices(config: Mapping[str, Any], stores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Configuration, settings and keys of the stores of a run, without what does not decide its result."""
    settings = {name: value for name, value in config["settings"].items() if name not in (*NOT_IDENTITY, "seed")}
    rest = {name: value for name, value in config.items() if name not in ("settings", "name", "stores")}
    return rest | {"settings": settings, "stores": {name: each["key"] for name, each in stores.items()}}


def _differing(groups: Sequence[Sequence[FinishedRun]]) -> set[str]:
    """The choices that are not the same in all rows of a task."""
    choices = [runs[0].choices for runs in groups]
    names = {name for each in choices for name in each}
    return {name for name in names if any(each.get(name) != choices[0].get(name) for each in choices)}


def split_of(folder: Path, data: str) -> tuple[str, str]:
    """Two times 64 hex digits of the samples of a run; "" if not recorded.

    The first of their ids, class names and whether they are tested, the second of what their features were made from
    too. Data that were changed under the same names differ in the second alone.
    data: digest of the run's table. Samples that a run sets aside for validation are counted as training samples: the
    seed chooses them. Missing samples are part of a split. Raises `DamagedStore` for a table that was changed.
    """
    rows = read_data(folder, data)
    if rows is None:
        return "", ""
    samples = [row for row in rows if row.part != TEXT]
    plain = split_digest((row.part == "test", row.id, row.label) for row in samples)
    return plain, split_digest((row.part == "test", row.id, f"{row.label}\t{_made_from(row)}") for row in samples)


def _made_from(row: Row) -> str:
    """The digests of a sample's sources; features of one video have one, whatever the modality."""
    return " ".join(sorted({source for source in row.sources.values() if source and ":" not in source}))


def spoken_recipe(settings: Mapping[str, Any], name: str = "") -> str:
    """The settings that people ask for first, and the name of the ablation's row."""
    epochs = settings.get("epochs")
    facts = [
        counted(epochs, "epoch") if isinstance(epochs, int) else "? epochs",
        f"{settings.get('optimizer', '?')} {settings.get('lr', '?')}",
        f"batch {settings.get('batch_size', '?')}",
    ]
    clips = 2 if settings.get("twice_sample") else settings.get("test_clips", 1)
    views = clips, settings.get("test_crops", 1)
    return ", ".join([*filter(None, [name]), *facts, *([f"{views[0]}x{views[1]} views"] if views != (1, 1) else [])])


def _row(
    runs: Sequence[FinishedRun], best: Mapping[tuple[str, str, str], Mapping[str, Any]], differing: Collection[str]
) -> dict[str, Json]:
    """One recipe over its seeds.

    trained_on: the datasets of a run that was only tested on this one; empty otherwise. differing: names of choices in
    which the rows of this task differ.
    metrics, deviations: mean and standard deviation (n - 1) over the runs; deviations only of several. coverage: share
    of the split's samples that were used, by part, the lowest of the runs. published_share: the same of the dataset's
    published size, where one is known. data: see `FinishedRun`. splits: their digests, one unless the seed chooses
    samples. baseline: the one with the best mean top-1 of those measured on all of the row's splits; None without any.
    """
    first = runs[0]
    runs = sorted(runs, key=lambda run: run.seed)
    metrics = [name for name in first.metrics if all(name in run.metrics for run in runs)]
    values = {name: [run.metrics[name] for run in runs] for name in metrics}
    splits = sorted({run.split for run in runs})
    return {
        "dataset": first.dataset,
        "protocol": first.protocol,
        "shots": first.shots,
        "model": first.model,
        "name": first.name,
        "trained_on": list(first.trained_on),
        "recipe": first.recipe,
        "settings": dict(first.settings),
        "differs": {name: first.choices[name] for name in sorted(differing) if name in first.choices},
        "metrics": {name: statistics.mean(each) for name, each in values.items()},
        "deviations": {name: statistics.stdev(each) for name, each in values.items() if len(each) > 1},
        "seeds": [run.seed for run in runs],
        "samples": dict(first.used),
        "coverage": {part: min(_share(run, part) for run in runs) for part in first.used},
        "published_share": _published_share(first),
        "splits": list(splits),
        "data": first.data,
        "baseline": _baseline(first, splits, best),
        "runs": [str(run.folder) for run in runs],
    }


def _best_baselines(runs: Sequence[FinishedRun]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """By dataset, protocol, and data or split: the simple classifier with the best top-1 beside any run."""
    best: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for run in runs:
        for row in run.baselines:
            for which in {run.data, run.split}:
                place = run.dataset, run.protocol, which
                if place not in best or row["top1"] > best[place]["top1"]:
                    best[place] = row
    return best


def _baseline(
    run: FinishedRun, splits: Sequence[str], best: Mapping[tuple[str, str, str], Mapping[str, Any]]
) -> dict[str, Json] | None:
    # Measured on the same data; otherwise on the same split, as of another modality that lacks some clips.
    own = best.get((run.dataset, run.protocol, run.data)) if run.data else None
    rows = [own or best.get((run.dataset, run.protocol, split)) for split in splits]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return None
    names = sorted({f"{row['baseline']} on {row['features']}" for row in known})
    return {"name": " or ".join(names), "top1": statistics.mean(row["top1"] for row in known)}


def _share(run: FinishedRun, part: str) -> float:
    total = run.used[part] + run.missing[part]
    return run.used[part] / total if total else 1.0


def _published_share(run: FinishedRun) -> dict[str, Json]:
    """Used samples as a share of the published size of train (with what was set aside of it) and test."""
    row = DATASETS.own.get(run.dataset)
    sizes = row.sizes.get(run.protocol, {}) if row else {}
    if not sizes or run.shots or run.trained_on:
        return {}
    # Datasets that publish two parts test on the second one, whatever its name.
    own_val = "val" in sizes and "test" in sizes
    train = run.used.get("train", 0) + (0 if own_val else run.used.get("val", 0))
    found = {"train": train / sizes["train"], "test": run.used.get("test", 0) / sizes.get("test", sizes.get("val", 1))}
    return {part: round(share, 4) for part, share in found.items()}


def _zero_shot(report: Mapping[str, Any]) -> dict[str, float]:
    return {name: report[name] for name in ZERO_SHOT if isinstance(report.get(name), float)}


def _count(side: Mapping[str, Any], name: str) -> int:
    value = side.get(name, 0)
    return value if isinstance(value, int) else 0
