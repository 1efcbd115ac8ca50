"""Schema of the files in a run folder; nothing read from them is used before it has been validated here.

A run may come from somebody else, who can update the digests of what they change. As in `cache.schema`, the models are
strict: strings are not converted to numbers. Unknown fields are kept as they are, since models and later versions add
some.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from unialign.cache.schema import folder_name

Hex = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
Count = Annotated[int, Field(ge=0, lt=2**62)]
Number = Annotated[float, Field(allow_inf_nan=False)]
File = Annotated[str, AfterValidator(folder_name)]


def store_place(place: str) -> str:
    """A store's location: a URL, or collection/modality/name below a cache root. Raises `ValueError` otherwise."""
    if "://" not in place:
        parts = place.split("/")
        if len(parts) != 3:
            raise ValueError(f"{place[:80]!r} is no place of a store in a cache")
        for part in parts:
            folder_name(part)
    return place


class _File(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Start(_File):
    """The run that training started from. trained_on: (dataset, protocol) of it and of its predecessors."""

    run: str = ""
    trained_on: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []


class ConfigFile(_File):
    """config.yaml, except the settings of the model, which `train.run_config` validates."""

    model: str
    dataset: str
    protocol: str
    settings: dict[str, Any]
    templates: list[str] = []
    # Runs that predate prompts list only the names, without texts.
    entities: list[str] | dict[str, str] = []
    shots: Count = 0
    val_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    start: Start = Start()


class StoreRead(_File):
    """A store that a run has read. environment: see `records.count_environments`."""

    key: str
    store: Annotated[str, AfterValidator(store_place)] | None = None
    environment: list[dict[str, Any]] = []


class KeysFile(_File):
    """keys.json."""

    run: str
    stores: dict[str, StoreRead]
    data: Hex | None = None
    classes: list[str] | None = None
    revision: Count | None = None


class EnvironmentFile(_File):
    """env.json."""

    libraries: dict[str, str] = {}


class MemoryFile(_File):
    """memory.json."""

    peak: Count | None = None
    gpu_peak: Count | None = None


class ResultFile(_File):
    """result.json, without its own digest. best: in runs that predate the val part, its metrics are directly in it."""

    key: str
    model: str
    dataset: str
    protocol: str
    epochs: Count
    metrics: dict[str, Number]
    best: dict[str, Number | dict[str, Number]] = {}
    keys: dict[str, dict[str, Any]]
    samples: dict[str, dict[str, Any]]
    extracted: Count
    seconds: Annotated[float, Field(ge=0)]
    exported: File | None = None
    per_class: dict[str, dict[str, Number | None]] = {}
    heads: dict[str, dict[str, Any]] = {}
    zero_shot: dict[str, Any] = {}
    train_top1: Number | None = None
    data: dict[str, Any] = {}
    predictions: Hex | None = None
    files: dict[str, Hex] = {}


class Baseline(_File):
    """A row of baselines.json, see `evaluation.baselines.Row`."""

    baseline: str
    features: str
    top1: Annotated[float, Field(ge=0, le=1)]


class BaselinesFile(_File):
    """baselines.json."""

    rows: list[Baseline]


class MeasuredElsewhere(_File):
    """A row of elsewhere.json, see `evaluation.evaluate_elsewhere`. used, missing: number of test samples."""

    dataset: str
    protocol: str
    trained_on: list[str]
    split: Hex
    metrics: dict[str, Number]
    used: Count
    missing: Count


class ElsewhereFile(_File):
    """elsewhere.json."""

    rows: list[MeasuredElsewhere]


FILES: Mapping[str, type[_File]] = {
    "config.yaml": ConfigFile,
    "keys.json": KeysFile,
    "env.json": EnvironmentFile,
    "memory.json": MemoryFile,
    "result.json": ResultFile,
    "baselines.json": BaselinesFile,
    "elsewhere.json": ElsewhereFile,
}
