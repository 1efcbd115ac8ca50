"""An ablation grid: a YAML file of rows (or axes), each a set of configuration values, times seeds.

    name: modalities
    set: {train.settings.epochs: 20}          # for every row
    seeds: [0, 1, 2]
    rows:
      - {name: video only, set: {train.unialign.modalities: [video]}}
      - {name: video + text, set: {train.unialign.modalities: [video, text]}}

Instead of `rows`, `axes` gives lists of values per key; every combination is a row. Seeds may set values too, such as
the features of an encoder trained with the same seed: then the deviation over seeds includes that of the encoder.

    seeds:
      0: {train.stores.pose-features: skeleton-0123456789ab}
      1: {train.stores.pose-features: skeleton-ba9876543210}
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from unialign.errors import UsageError
from unialign.pipeline.yaml_values import read_yaml

READY = Path(__file__).resolve().parents[2] / "grids"
# Of an ablation: its tables are in a folder of this name.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Row(BaseModel):
    """One row of the table: a name and the values that it sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    set: dict[str, Any] = {}


class Grid(BaseModel):
    """The whole file. The first row is the baseline that the others are compared with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME)
    set: dict[str, Any] = {}
    seeds: tuple[int, ...] | dict[int, dict[str, Any]] = (0,)
    rows: tuple[Row, ...] = ()
    axes: dict[str, list[Any]] = {}

    @model_validator(mode="after")
    def _one_kind(self) -> "Grid":
        if bool(self.rows) == bool(self.axes):
            raise ValueError("give either `rows` or `axes`")
        if not self.seeds:
            raise ValueError("`seeds` is empty")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("`seeds` names one twice")
        names = [row.name for row in self.all_rows()]
        if len(set(names)) != len(names):
            raise ValueError("two rows have the same name")
        return self

    def values_of(self, seed: int) -> dict[str, Any]:
        """What a seed sets besides itself."""
        return dict(self.seeds[seed]) if isinstance(self.seeds, dict) else {}

    def with_seeds(self, seeds: Sequence[int]) -> "Grid":
        """The same with other seeds. Raises `UsageError` for one without values if the grid's seeds have some."""
        chosen = tuple(dict.fromkeys(seeds))
        if not isinstance(self.seeds, dict):
            return self.model_copy(update={"seeds": chosen})
        lacking = [seed for seed in chosen if seed not in self.seeds]
        if lacking:
            raise UsageError(f"the grid {self.name} sets values for each seed and has none for {lacking[0]}; add them.")
        return self.model_copy(update={"seeds": {seed: self.seeds[seed] for seed in chosen}})

    def with_name(self, name: str) -> "Grid":
        """The same under another name. Raises `UsageError` for one that could not be a folder's."""
        if not re.fullmatch(NAME, name):
            raise UsageError(
                f"{name!r} cannot be the name of an ablation: it is made of letters, digits, '_', '.' and '-', and "
                "begins with a letter or digit."
            )
        return self.model_copy(update={"name": name})

    def all_rows(self) -> tuple[Row, ...]:
        """The rows in order; with `axes`, every combination, the last axis fastest."""
        if self.rows:
            return self.rows
        return tuple(
            Row(
                name=", ".join(
                    f"{key.rpartition('.')[2]}={shown(value)}" for key, value in zip(self.axes, values, strict=True)
                ),
                set=dict(zip(self.axes, values, strict=True)),
            )
            for values in itertools.product(*self.axes.values())
        )


@dataclass(frozen=True)
class Trial:
    """One training of the sweep: a row with a seed, and all values that it sets."""

    row: str
    seed: int
    values: tuple[tuple[str, Any], ...]


def shown(value: object) -> str:
    """A value as it is shown in a row's name."""
    return "+".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


def ready_grids() -> dict[str, str]:
    """The grids that come with the package: name to what it compares, the comment at the top of its file."""
    found = sorted(READY.glob("*.yaml"))
    return {path.stem: _first_comment(path.read_text(encoding="utf-8")) for path in found}


def grid_path(grid: str | Path) -> Path:
    """The file of a grid, which is given as a path or as the name of one that comes with the package.

    Raises `UsageError` where it is neither.
    """
    path = Path(grid)
    if path.is_file():
        return path
    ready = READY / f"{grid}.yaml"
    # A name has no separators, so nothing outside of the folder can be meant.
    if path.name == str(grid) and ready.is_file():
        return ready
    raise UsageError(
        f"the grid {grid} is neither a file nor one that comes with the package: {', '.join(ready_grids())}."
    )


def _first_comment(text: str) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ").strip() for line in lines)


def read_grid(grid: str | Path) -> Grid:
    """The grid in a file, or the ready one of that name, see `grid_path`.

    Raises `UsageError` naming the file and the field for anything that is not a grid.
    """
    path = grid_path(grid)
    try:
        return Grid.model_validate(read_yaml(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {'; '.join(map(_told, error.errors()))}.") from error


def _told(problem: ErrorDetails) -> str:
    """What is wrong in a grid, in the words of YAML."""
    where = ".".join(str(part) for part in problem["loc"])
    message = {
        "missing": "is missing",
        "extra_forbidden": "is no field of a grid",
        "string_pattern_mismatch": "is made of letters, digits, '_', '.' and '-', and begins with a letter or digit",
    }.get(problem["type"])
    if message is None:
        plain = problem["msg"].removeprefix("Value error, ")
        plain = plain.replace("valid tuple", "list").replace("valid dictionary", "mapping")
        message = f"{plain[0].lower()}{plain[1:]}"
        return f"{where}: {message}" if where else message
    return f"{where!r} {message}"


def trials(grid: Grid) -> tuple[Trial, ...]:
    """All training runs of a grid, by row, then by seed."""
    return tuple(
        Trial(
            row.name, seed, tuple({**grid.set, **row.set, **grid.values_of(seed), "train.settings.seed": seed}.items())
        )
        for row in grid.all_rows()
        for seed in grid.seeds
    )
