"""The results of an ablation: what each training run reports, the rows of the table, and paired differences."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unialign.errors import UnialignError
from unialign.pipeline.ablation.bootstrap import mean_interval
from unialign.pipeline.ablation.grid import Trial
from unialign.pipeline.training.run_folder import read_predictions
from unialign.types import Json

SHOWN = 3


@dataclass(frozen=True)
class TrialResult:
    """What one training run reports: its run folder, its metrics (see `metrics.METRICS`), the stores that it read.

    seconds: of the call that finished it. memory, gpu_memory: peak in bytes, of the process that finished it (see
        `memory.peak_memory`); None if it was not measured. reused: it was finished before this sweep.
    """

    trial: Trial
    run: str
    metrics: Mapping[str, float]
    seconds: float
    keys: Mapping[str, Json]
    reused: bool
    memory: int | None = None
    gpu_memory: int | None = None

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints for it."""
        return {
            "row": self.trial.row,
            "seed": self.trial.seed,
            "run": self.run,
            **self.metrics,
            "seconds": self.seconds,
            "memory": self.memory,
            "gpu_memory": self.gpu_memory,
            "keys": dict(self.keys),
            "reused": self.reused,
        }


@dataclass(frozen=True)
class FailedTrial:
    """A training run that did not finish. error: one sentence. exit_code: the exit code of `unialign train` for it.

    locked: another process was training the same run.
    """

    trial: Trial
    error: str
    exit_code: int = 1
    locked: bool = False

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints for it."""
        return {"row": self.trial.row, "seed": self.trial.seed, "error": self.error, "exit_code": self.exit_code}


@dataclass(frozen=True)
class Ablation:
    """A finished sweep. results and failed: in the order of the grid.

    table: see `rows_of`. extracted: samples that records gained while it ran; must be 0.
    baselines: the best simple classifier on each modality that was read, see `evaluation.baselines.quick_baselines`.
    """

    name: str
    results: tuple[TrialResult, ...]
    table: tuple[Mapping[str, Json], ...]
    extracted: int
    failed: tuple[FailedTrial, ...] = ()
    baselines: tuple[Mapping[str, Json], ...] = ()

    def rows(self) -> list[dict[str, Json]]:
        """One row per entry of the grid: mean and standard deviation over seeds, change against the first row."""
        return [dict(row) for row in self.table]

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return {
            "name": self.name,
            "rows": list(self.rows()),
            "trials": [found.result() for found in self.results],
            "failed": [found.result() for found in self.failed],
            "extracted": self.extracted,
            "baselines": [dict(row) for row in self.baselines],
        }


class FailedTrials(UnialignError):
    """Training runs of a sweep failed; all others are finished and kept, and the tables contain those.

    ablation: the results. folder: the folder of its tables. exit_code: that of the failures, 1 if they differ.
    """

    def __init__(self, ablation: Ablation, folder: Path) -> None:
        total = len(ablation.results) + len(ablation.failed)
        super().__init__(
            f"{len(ablation.failed)} of {total} training runs failed: {_causes(ablation.failed)}; "
            f"{'the others are done and kept, ' if ablation.results else ''}the same command retries these."
        )
        self.ablation, self.folder = ablation, folder
        codes = {found.exit_code for found in ablation.failed}
        self.exit_code = codes.pop() if len(codes) == 1 else 1


def _causes(failed: Sequence[FailedTrial]) -> str:
    """Which rows and seeds failed, and why; each reason once."""
    reasons: dict[str, dict[str, list[int]]] = {}
    for found in failed:
        reasons.setdefault(found.error, {}).setdefault(found.trial.row, []).append(found.trial.seed)
    causes = [
        f"{', '.join(f'{row} (seed {_listed(seeds)})' for row, seeds in rows.items())}: {error.rstrip('.')}"
        for error, rows in reasons.items()
    ]
    more = [f"and {len(causes) - SHOWN} more reasons, in ablation.json"] if len(causes) > SHOWN else []
    return "; ".join([*causes[:SHOWN], *more])


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


@dataclass(frozen=True)
class Change:
    """A row's difference in top-1 from the first row.

    mean: over the seeds that both have and, where both keep predictions, over the test samples that all their runs
    have. low, high: its interval. over: what was drawn for it: "seeds and samples", "samples" (one seed) or "seeds" (no
    predictions); None, without an interval, where there is nothing to draw from. samples: how many samples were paired.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    over: str | None = None
    samples: int = 0


def rows_of(names: Sequence[str], results: Sequence[TrialResult]) -> tuple[Mapping[str, Json], ...]:
    """A row for each name, in order; a row without any result has None for all its numbers.

    seeds; top1, top1_std, and so for each metric of the results: mean and standard deviation (n - 1; None for one) over
    seeds;
    change, change_low, change_high, change_over, change_samples: see `Change`, of the first row 0 without an interval;
    seconds: mean; memory, gpu_memory: the largest, in bytes.
    Raises `DamagedStore` for predictions that cannot be read.
    """
    by_row = {name: [result for result in results if result.trial.row == name] for name in names}
    baseline = by_row[names[0]]
    metrics = list(dict.fromkeys(name for result in results for name in result.metrics))
    return tuple(_row(name, found, baseline, metrics, first=name == names[0]) for name, found in by_row.items())


def _row(
    name: str,
    found: Sequence[TrialResult],
    baseline: Sequence[TrialResult],
    metrics: Sequence[str],
    *,
    first: bool,
) -> dict[str, Json]:
    values = {each: [result.metrics[each] for result in found if each in result.metrics] for each in metrics}
    changed = (Change(0.0) if found else None) if first else change(found, baseline)
    return {
        "row": name,
        "seeds": len(found),
        **{
            key: number
            for each, several in values.items()
            for key, number in ((each, _mean(several)), (f"{each}_std", _spread(several)))
        },
        "change": changed and changed.mean,
        "change_low": changed and changed.low,
        "change_high": changed and changed.high,
        "change_over": changed and changed.over,
        "change_samples": changed.samples if changed else 0,
        "seconds": _mean([result.seconds for result in found]),
        "memory": max((result.memory for result in found if result.memory is not None), default=None),
        "gpu_memory": max((result.gpu_memory for result in found if result.gpu_memory is not None), default=None),
    }


def change(found: Sequence[TrialResult], baseline: Sequence[TrialResult]) -> Change | None:
    """The paired difference of two rows in top-1; None when they have no seed in common."""
    others = {result.trial.seed: result for result in baseline}
    pairs = [(result, others[result.trial.seed]) for result in found if result.trial.seed in others]
    if not pairs:
        return None
    table, over = paired_hits(pairs), "seeds and samples"
    if table is None:
        table, over = np.array([[one.metrics["top1"] - other.metrics["top1"]] for one, other in pairs]), "seeds"
    elif len(pairs) == 1:
        over = "samples"
    samples = table.shape[1] if over != "seeds" else 0
    interval = mean_interval(table)
    if table.size == 1:
        return Change(interval.mean, samples=samples)
    return Change(interval.mean, interval.low, interval.high, over, samples)


def paired_hits(pairs: Sequence[tuple[TrialResult, TrialResult]]) -> np.ndarray | None:
    """A table (S, N) of 1 (only the first run of the pair is right), -1 (only the other) and 0, by seed and sample.

    Over the test samples that all runs have, in the order of their ids. None when a run keeps no predictions, or when
    they have no sample in common.
    """
    hits = [(hits_of(Path(one.run)), hits_of(Path(other.run))) for one, other in pairs]
    known = [found for pair in hits for found in pair if found is not None]
    if len(known) < 2 * len(pairs):
        return None
    shared = sorted(set(known[0]).intersection(*known[1:]))
    if not shared:
        return None
    right = np.array([[found[sample] for sample in shared] for found in known], dtype=np.int64)
    return right[0::2] - right[1::2]


def hits_of(run: Path) -> dict[str, bool] | None:
    """By id of a test sample whether a run's last epoch was right; None without predictions."""
    stored = read_predictions(run)
    if stored is None:
        return None
    right = stored["probabilities"].argmax(axis=1) == stored["labels"]
    return dict(zip(stored["ids"].tolist(), right.tolist(), strict=True))


def _mean(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
