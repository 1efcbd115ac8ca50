"""A sweep over one cache: trains every trial of a grid that is not done yet, and makes one table. It never extracts."""

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unialign.cache.arrays import Json
from unialign.cache.atomic import write_text
from unialign.cache.index import load_table
from unialign.cache.inventory import iterate_stores
from unialign.pipeline.grid import Grid, Trial, trials

COLUMNS = ("row", "seeds", "top-1", "± top-1", "mean class", "± mean class", "change", "seconds")


@dataclass(frozen=True)
class TrialResult:
    """What one training reports: its run folder, its metrics, the stores that it read."""

    trial: Trial
    run: str
    top1: float
    mean_class: float
    seconds: float
    keys: Mapping[str, Json]
    reused: bool


@dataclass(frozen=True)
class Ablation:
    """A finished sweep. extracted: samples that records gained while it ran; 0, or something is wrong."""

    name: str
    results: tuple[TrialResult, ...]
    extracted: int

    def rows(self) -> list[dict[str, Json]]:
        """One row per entry of the grid: mean and standard deviation over seeds, change against the first row."""
        grouped: dict[str, list[TrialResult]] = {}
        for result in self.results:
            grouped.setdefault(result.trial.row, []).append(result)
        baseline = next(iter(grouped.values()))
        return [_row(name, found, baseline) for name, found in grouped.items()]

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return {
            "name": self.name,
            "rows": list(self.rows()),
            "trials": [
                {
                    "row": found.trial.row,
                    "seed": found.trial.seed,
                    "run": found.run,
                    "top1": found.top1,
                    "mean_class": found.mean_class,
                    "seconds": found.seconds,
                    "keys": dict(found.keys),
                    "reused": found.reused,
                }
                for found in self.results
            ],
            "extracted": self.extracted,
        }


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _row(name: str, found: Sequence[TrialResult], baseline: Sequence[TrialResult]) -> dict[str, Json]:
    by_seed = {result.trial.seed: result.top1 for result in baseline}
    changes = [result.top1 - by_seed[result.trial.seed] for result in found if result.trial.seed in by_seed]
    top1, mean_class = [result.top1 for result in found], [result.mean_class for result in found]
    return {
        "row": name,
        "seeds": len(found),
        "top1": statistics.mean(top1),
        "top1_std": _spread(top1),
        "mean_class": statistics.mean(mean_class),
        "mean_class_std": _spread(mean_class),
        "change": statistics.mean(changes) if changes else None,
        "seconds": statistics.mean(result.seconds for result in found),
    }


def count_stored(cache: Path) -> int:
    """Samples that all records of a cache hold; an extraction adds to it."""
    return sum(int(load_table(path).shards.samples.sum()) for path in iterate_stores(cache))


def run_ablation(
    grid: Grid,
    train: Callable[[Sequence[Trial]], Iterable[TrialResult]],
    *,
    cache: Path,
    folder: Path,
    report: Callable[[TrialResult, int, int], None] = lambda result, done, total: None,
) -> Ablation:
    """Train all trials and write the table into a folder.

    train: gives the results of trials in their order; for a finished run of the same configuration what it holds.
    report: called after each trial with (result, trials done, trials). Interrupted, finished runs are kept and the same
    command goes on from there.
    """
    before = count_stored(cache)
    todo = trials(grid)
    results = []
    for number, result in enumerate(train(todo)):
        results.append(result)
        report(result, number + 1, len(todo))
    ablation = Ablation(grid.name, tuple(results), count_stored(cache) - before)
    write_tables(ablation, folder)
    return ablation


def write_tables(ablation: Ablation, folder: Path) -> None:
    """`ablation.md`, `ablation.csv`, `ablation.json` in a folder."""
    rows = table(ablation)
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    write_text(folder / "ablation.md", "\n".join([*lines, "", closing(ablation), ""]))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(ablation.rows()[0]))
    writer.writeheader()
    writer.writerows(ablation.rows())
    write_text(folder / "ablation.csv", text.getvalue())
    write_text(folder / "ablation.json", json.dumps(ablation.result(), indent=2) + "\n")


def table(ablation: Ablation) -> list[tuple[str, ...]]:
    """The rows as text, accuracies in per cent with one decimal."""
    return [
        (
            str(row["row"]),
            str(row["seeds"]),
            f"{100 * row['top1']:.1f}",
            f"{100 * row['top1_std']:.1f}",
            f"{100 * row['mean_class']:.1f}",
            f"{100 * row['mean_class_std']:.1f}",
            "-" if row["change"] is None else f"{100 * row['change']:+.1f}",
            f"{row['seconds']:.0f}",
        )
        for row in ablation.rows()
    ]


def closing(ablation: Ablation) -> str:
    """The sentence under the table: how many samples the sweep extracted, and from which stores it read."""
    stores = sorted({str(name) for result in ablation.results for name in _stores(result.keys)})
    return f"Samples extracted during the sweep: {ablation.extracted}. Read from: {', '.join(stores) or 'no store'}."


def _stores(keys: Mapping[str, Any]) -> list[str]:
    return [f"{modality} {str(found['key'])[:12]}" for modality, found in keys.items() if isinstance(found, Mapping)]
