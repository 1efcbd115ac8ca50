"""The results of a sweep over one cache: its training runs, those that failed, the rows of its table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unialign.errors import UnialignError
from unialign.pipeline.ablation.grid import Trial
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

    table: see `rows.rows_of`. extracted: samples that records gained while it ran; must be 0.
    """

    name: str
    results: tuple[TrialResult, ...]
    table: tuple[Mapping[str, Json], ...]
    extracted: int
    failed: tuple[FailedTrial, ...] = ()

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
        }


class FailedTrials(UnialignError):
    """Training runs of a sweep failed; all others are finished and kept, and the tables contain those.

    ablation: the results. folder: the folder of its tables. exit_code: that of the failures, 1 if they differ.
    """

    def __init__(self, ablation: Ablation, folder: Path) -> None:
        total = len(ablation.results) + len(ablation.failed)
        super().__init__(
            f"{len(ablation.failed)} of {total} trainings failed: {_causes(ablation.failed)}; "
            f"{'the others are done and kept, ' if ablation.results else ''}the same command tries these again."
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
