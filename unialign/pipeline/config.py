"""The configuration: flags, then `key=value` overrides, then the environment, then `unialign.yaml`, then defaults.

Sections are frozen pydantic models; an unknown key is an error that lists the known ones.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from unialign.cache.paths import expanded_path
from unialign.errors import UsageError
from unialign.pipeline.user_paths import UserPath, UserText
from unialign.pipeline.yaml_values import read_yaml
from unialign.types import Json

FILE, OTHER_FILE = "unialign.yaml", "unialign.yml"
ENVIRONMENT = {"data": "UNIALIGN_DATA", "cache": "UNIALIGN_CACHE"}


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Python counts true as 1; as `num_frames: true` it is a mistake."""
        if isinstance(value, bool) and cls.model_fields[str(field.field_name)].annotation in (int, float):
            raise ValueError(f"should be a number, not {str(value).lower()}")
        return value


class PosesSection(Section):
    """`extract poses`. source: "video" (a pose network) or "skeleton" (ready-made files, or a pyskl pickle)."""

    source: Literal["video", "skeleton"] = "video"
    weights: UserPath | None = None
    pickle: UserPath | None = None
    confidence: float = Field(0.25, ge=0, le=1)
    num_people: int = Field(2, ge=1)
    image_size: int = Field(640, ge=32, multiple_of=32)
    max_frames: int = Field(1024, ge=16, multiple_of=16)


class PoseFeaturesSection(Section):
    """`extract pose-features`. weights: Shift-GCN weights, or a checkpoint of `train --model stgcn++`."""

    weights: UserPath | None = None
    poses: UserText | None = None
    num_offsets: int = Field(4, ge=1)
    flips: bool = True


class TextSection(Section):
    """`extract text`. templates: the name of a built-in set or a file with one template a line.

    entities: a file of ALT's entities (`unialign corpus` makes one), which get rows too."""

    encoder: Literal["minilm", "openclip", "sentence"] = "minilm"
    model: str | None = None
    weights: UserPath | None = None
    templates: UserText = "action"
    descriptions: UserPath | None = None
    entities: UserPath | None = None
    long_text: Literal["error", "windows"] = "error"


class FramesSection(Section):
    """`extract frames`: pictures kept for the video backbone."""

    short_side: int = Field(128, ge=16)
    num_frames: int = Field(32, ge=1)
    encoding: Literal["jpeg", "rgb24"] = "jpeg"
    quality: int = Field(90, ge=1, le=100)


class TokensSection(Section):
    """`extract tokens`: a CLIP image tower on cached frames. The fields: `stages.extraction.tokens.Tokens`."""

    model: str = "ViT-B-16-quickgelu:openai"
    weights: UserPath | None = None
    frames: UserText | None = None
    num_frames: int = Field(8, ge=1)
    num_offsets: int = Field(1, ge=1)
    flips: bool = False
    image_size: int = Field(0, ge=0)
    layer: int = -2
    merged_pairs: int = Field(8, ge=0)
    proportional_attention: bool = True
    projection: Literal["clip", "none"] = "clip"


class ExtractSection(Section):
    """How stage one runs. threads: of the networks in each worker (0: the cores over the local workers, at most 4).

    timeout: seconds that a sample may give no sign of life, beside one for each megabyte of its file. memory: GB that
    each worker may take (0: what is free, shared among local workers).
    shard_samples: of a new store (0: by modality). codec: of a new store; uncompressed is right on local disks, since
    float16 features shrink by only 5-10 %; compression is meant for remote stores."""

    cluster: str = ""
    threads: int = Field(0, ge=0)
    timeout: float = Field(600, gt=0)
    memory: float = Field(0, ge=0)
    shard_samples: int = Field(0, ge=0)
    codec: Literal["none", "zstd", "blosc"] = "none"
    device: str = "auto"
    poses: PosesSection = PosesSection()
    pose_features: PoseFeaturesSection = PoseFeaturesSection()
    text: TextSection = TextSection()
    frames: FramesSection = FramesSection()
    tokens: TokensSection = TokensSection()


class TrainSection(Section):
    """Stage two. stores: name or URL of the store of a modality. remote_cache: GB of disk for blocks of remote ones.

    entities: file that names ALT's corpus; None takes all entities of the text store. shots: training samples of each
    class, chosen by the seed; 0: all. val_share: of the training samples, set aside by the seed to choose the best
    epoch on where a split has no val part; 0: none. start: folder of a finished run whose weights training starts from.
    name: what a new run folder is called between model and seed; an ablation sets it to the row.
    settings: `TrainSettings`; unialign, art, alt, dvta: `UniAlignConfig`, `ARTConfig`, `ALTConfig`, `DVTAConfig`;
    encoder: constructor values of ST-GCN++."""

    model: str = "unialign"
    stores: dict[str, UserText] = {}
    remote_cache: float = Field(20, ge=0)
    templates: tuple[str, ...] = ()
    entities: UserPath | None = None
    min_coverage: float = Field(0.95, ge=0, le=1)
    backbone_weights: UserPath | None = None
    shots: int = Field(0, ge=0)
    val_share: float = Field(0.1, ge=0, le=0.5)
    start: UserPath | None = None
    name: str = ""
    settings: dict[str, Any] = {}
    unialign: dict[str, Any] = {}
    art: dict[str, Any] = {}
    alt: dict[str, Any] = {}
    dvta: dict[str, Any] = {}
    encoder: dict[str, Any] = {}


class Config(Section):
    """Everything that `unialign.yaml` may hold. Paths are relative to the working folder; ~ and $NAME are expanded.

    roots: folders beside the data root that links in it, and absolute paths in lists, may lead into."""

    data: UserPath | None = None
    roots: tuple[UserPath, ...] = ()
    cache: UserPath = Path("cache")
    runs: UserPath = Path("runs")
    dataset: str | None = None
    protocol: str | None = None
    labels: UserPath | None = None
    extract: ExtractSection = ExtractSection()
    train: TrainSection = TrainSection()

    def dump(self) -> dict[str, Json]:
        """The resolved values as plain JSON."""
        return self.model_dump(mode="json")


def load_config(
    flags: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """The resolved configuration.

    flags: dotted names to values; None means "not given". overrides: "train.settings.epochs=5", values as YAML.
    Raises `UsageError` that names the field for an unknown key, a value of the wrong kind, or an unset variable.
    """
    environment = os.environ if environment is None else environment
    path = _file(file, environment)
    values = _read_file(path) if file or os.path.lexists(path) else {}
    for name, variable in ENVIRONMENT.items():
        if environment.get(variable):
            values[name] = environment[variable]
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name:
            raise UsageError(f"{override!r} is not of the form key.sub=value, such as train.settings.epochs=5.")
        try:
            _set(values, name, read_yaml(text))
        except yaml.YAMLError as error:
            raise UsageError(f"{override!r}: {text!r} is no value of YAML; put texts with signs in quotes.") from error
    for name, value in flags.items():
        if value is not None:
            # As text, so that ~ is expanded: no shell does that behind the = of `--cache=~/x`.
            _set(values, name, str(value) if isinstance(value, Path) else value)
    return _validated(values, path, environment)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some dotted values changed. Raises `UsageError` as `load_config` does."""
    changed = config.model_dump(mode="python")
    for name, value in values.items():
        _set(changed, name, value)
    return _validated(changed, Path(FILE), os.environ)


def _validated(values: Mapping[str, Any], path: Path, environment: Mapping[str, str]) -> Config:
    try:
        return Config.model_validate(values, context=environment)
    except ValidationError as error:
        raise UsageError(_describe(error, path)) from error


def _file(named: Path | None, environment: Mapping[str, str]) -> Path:
    """The file to read: the named one, or unialign.yaml or .yml of the working folder, but not both."""
    if named is not None:
        return expanded_path(named, environment)
    first, second = Path(FILE), Path(OTHER_FILE)
    if not os.path.lexists(second):
        return first
    if os.path.lexists(first):
        raise UsageError(f"{first} and {second} both lie in {Path.cwd()}; keep one of them.")
    return second


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"the configuration file {path} does not exist, or is not a file.")
    try:
        values = read_yaml(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold `key: value` lines, such as `cache: cache`.")
    return values


def _set(values: dict[str, Any], name: str, value: object) -> None:
    *folders, leaf = name.split(".")
    folders = [folder.replace("-", "_") for folder in folders]
    # Stores go by the names of modalities, which have hyphens; everything else is a field.
    leaf = leaf if folders == ["train", "stores"] else leaf.replace("-", "_")
    for folder in folders:
        values = values.setdefault(folder, {})
        if not isinstance(values, dict):
            raise UsageError(f"{name}: {folder} is a value, not a section.")
    values[leaf] = value


def _describe(error: ValidationError, path: Path) -> str:
    problems = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            problems.append(f"unknown key {name!r}; known here: {', '.join(_known(problem['loc'][:-1]))}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {message[0].lower()}{message[1:]}")
    return f"configuration ({path.name}, environment and flags): {'; '.join(problems)}."


def _known(location: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)
