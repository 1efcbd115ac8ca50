"""The `ablation.json` of a finished sweep, read back."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from unialign.cache.bounded import parse_json, read_plain
from unialign.cache.schema import reason
from unialign.errors import DamagedStore, MissingCache
from unialign.pipeline.ablation.grid import Trial
from unialign.pipeline.ablation.results import Ablation, TrialResult
from unialign.stages.training.metrics import METRICS

NAME = "ablation.json"
LARGEST = 64 << 20
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Row(_Stored):
    """See `results.rows_of`; what is not named here are metrics and their deviations."""

    row: str
    seeds: int
    change: Number | None = None
    change_low: Number | None = None
    change_high: Number | None = None
    change_over: str | None = None
    change_samples: int = 0
    seconds: Number | None = None
    memory: int | None = None
    gpu_memory: int | None = None

    __pydantic_extra__: dict[str, Number | None]


class _Trial(_Stored):
    row: str
    seed: int
    run: str
    top1: Number
    seconds: Number
    keys: dict[str, dict[str, Any]]
    reused: bool
    memory: int | None = None
    gpu_memory: int | None = None


class _Baseline(_Stored):
    """See `evaluation.baselines.Row`."""

    baseline: str
    features: str
    top1: Annotated[float, Field(ge=0, le=1)]
    seconds: Number
    chosen: str = ""


class _File(_Stored):
    name: str
    rows: list[_Row]
    trials: list[_Trial]
    extracted: int
    baselines: list[_Baseline] = []


def read_ablation(folder: Path) -> Ablation:
    """The results of the sweep whose tables are in a folder.

    A run that was moved is looked for in the folder of runs that the sweep's folder is in. Raises `MissingCache` for a
    folder without results and `DamagedStore` for results that cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        raise MissingCache(f"{folder} has no {NAME}; `unialign ablate` makes one.")
    try:
        found = _File.model_validate(parse_json(read_plain(path, LARGEST)))
    except (OSError, ValueError) as error:
        raise DamagedStore(f"{path} cannot be used ({reason(error)}); run `unialign ablate` again.") from error
    results = tuple(_result(each, folder.parents[1]) for each in found.trials)
    return Ablation(
        name=found.name,
        results=results,
        table=tuple(row.model_dump() for row in found.rows),
        extracted=found.extracted,
        baselines=tuple(row.model_dump() for row in found.baselines),
    )


def _result(trial: _Trial, runs: Path) -> TrialResult:
    place = Path(trial.run)
    return TrialResult(
        trial=Trial(trial.row, trial.seed, ()),
        run=str(place if place.is_dir() else runs / place.name),
        metrics={
            name: float(value)
            for name, value in trial.model_dump().items()
            if name in METRICS and isinstance(value, int | float)
        },
        seconds=trial.seconds,
        keys=trial.keys,
        reused=trial.reused,
        memory=trial.memory,
        gpu_memory=trial.gpu_memory,
    )
