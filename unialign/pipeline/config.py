"""The configuration: flags, then `key=value` overrides, then the environment, then `unialign.yaml`, then defaults.

Sections are frozen pydantic models; an unknown key is an error that lists the known ones.
"""

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, create_model, model_validator

from unialign.cache.paths import expanded_path
from unialign.errors import UsageError
from unialign.pipeline.systems.registry import SYSTEMS, sections_of
from unialign.pipeline.user_paths import UserPath, UserText
from unialign.pipeline.yaml_values import read_yaml
from unialign.plugins import offered
from unialign.settings import SettingRow, Settings, explained, setting_rows
from unialign.stages.training.settings import TrainSettings
from unialign.types import Json

LOGGER = logging.getLogger(__name__)
FILE, OTHER_FILE = "unialign.yaml", "unialign.yml"
RECIPES = Path(__file__).resolve().parents[1] / "papers"
ENVIRONMENT = {"data": "UNIALIGN_DATA", "cache": "UNIALIGN_CACHE"}
# What a recipe of the package leaves to unialign.yaml: where things are. The first three are those of one dataset.
OF_DATASET = ("data", "labels", "roots")
PLACES = (*OF_DATASET, "cache", "runs", "weights")


class PosesSection(Settings):
    """`extract poses`."""

    source: Literal["video", "skeleton"] = Field(
        "video", description="Source of the keypoints: a pose network on the videos, or skeleton files."
    )
    weights: UserPath | None = Field(
        None,
        description="Weights of the pose network: an Ultralytics checkpoint (.pt), or an ONNX file (.onnx) of RTMO or "
        "RTMPose.",
    )
    detector: UserPath | None = Field(
        None, description="An ONNX file that finds people's boxes, such as RTMDet, for weights of RTMPose."
    )
    pickle: UserPath | None = Field(
        None,
        description="A pyskl pickle to read, with the source skeleton; without it, the dataset's own skeleton files.",
    )
    layout: str | None = Field(
        None,
        description="What the joints are: a layout's name, or a YAML file with joints (names) and edges (pairs of "
        "numbers). For a pose network with other joints than coco-17; a name for a pickle whose number of joints "
        "leaves it open.",
    )
    confidence: float = Field(0.25, ge=0, le=1, description="Minimum detection confidence.")
    num_people: int = Field(2, ge=1, description="People kept per clip.")
    body_rule: Literal["motion", "energy", "first"] = Field(
        "motion",
        description="Which bodies of an NTU skeleton file are kept: those that move most (CTR-GCN, PYSKL), spread most "
        "(2s-AGCN, mmaction2), or come first (ST-GCN, SMIE).",
    )
    image_size: int = Field(
        640, ge=32, multiple_of=32, description="Side length of the pose network's input in pixels."
    )
    max_frames: int = Field(
        1024, ge=16, multiple_of=16, description="Clips with more frames are quarantined as too-long."
    )
    backend: Literal["torch", "torch-compile", "onnxruntime", "openvino", "tensorrt"] = Field(
        "torch", description="What computes the pose network; all but torch make stores of their own."
    )
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="Precision of the pose network; fp16 is meant for GPUs."
    )
    rectangular: bool = Field(
        False, description="Show the pose network frames without the gray that makes them square: fewer pixels."
    )


class PoseFeaturesSection(Settings):
    """`extract pose-features`."""

    encoder: Literal["auto", "network", "motion"] = Field(
        "auto",
        description="network: the skeleton network of `weights`; motion: no network, but where each joint is and how "
        "far it moves, for classes that no network was trained on; auto: motion without `weights`.",
    )
    weights: UserPath | None = Field(
        None,
        description="Weights of the skeleton network: encoder.pt of a run of `train --model skeleton`, Shift-GCN's, "
        "PYSKL's, or EfficientGCN's.",
    )
    poses: UserText | None = Field(None, description="Store of poses to read, if there are several.")
    num_offsets: int = Field(4, ge=1, description="Temporal offsets per clip, each a view.")
    flips: bool = Field(True, description="Also store a mirrored view per offset.")
    clip_len: int = Field(0, ge=0, le=4096, description="Frames per clip; 0: as the network was trained.")
    stream: Literal["", "joint", "bone", "joint-motion", "bone-motion", "limb"] = Field(
        "", description="What weights of PYSKL read; empty: as their file's name says."
    )
    layout: str = Field("", description="Joint layout of weights of PYSKL; empty: by their number of joints.")
    recipe: str = Field("", description="How clips for weights of PYSKL are made; empty: as they were trained.")


class TextSection(Settings):
    """`extract text`."""

    encoder: str = Field(
        "minilm",
        description="Text encoder: minilm (built in), openclip, sentence (sentence-transformers), or one of a plug-in.",
    )
    model: str | None = Field(None, description="Network of the encoder, such as ViT-B-16-quickgelu:openai.")
    weights: UserPath | None = Field(None, description="Local weights file (openclip) or model folder (sentence).")
    templates: UserText = Field(
        "action",
        description="Prompt templates: plain, action, clip-kinetics, actionclip, or a file with one template per line.",
    )
    descriptions: UserPath | None = Field(
        None, description="File with one longer text per class, in the order of the labels."
    )
    entities: UserPath | None = Field(
        None, description="File of ALT's entities, one row each; `unialign corpus` writes one."
    )
    long_text: Literal["error", "windows"] = Field(
        "error", description="Texts longer than the encoder's input: reject them, or embed windows and average."
    )


class FramesSection(Settings):
    """`extract frames`: images kept for the video backbone."""

    short_side: int = Field(256, ge=16, description="Length of the images' shorter side in pixels.")
    num_frames: int = Field(32, ge=1, description="Evenly spaced frames per clip.")
    encoding: Literal["jpeg", "rgb24"] = Field("jpeg", description="How images are stored.")
    quality: int = Field(90, ge=1, le=100, description="JPEG quality.")


class TokensSection(Settings):
    """`extract tokens`: a CLIP image tower or a video backbone on cached frames. See `stages.extraction.tokens`."""

    model: str = Field(
        "ViT-B-16-quickgelu:openai",
        description="OpenCLIP network and its weights, or a video backbone of `unialign models`.",
    )
    weights: UserPath | None = Field(None, description="Local file of the network's weights.")
    frames: UserText | None = Field(None, description="Store of frames to read, if there are several.")
    num_frames: int = Field(8, ge=1, description="Frames per clip, from which models have their time steps.")
    num_offsets: int = Field(1, ge=1, description="Temporal offsets per clip, each a view.")
    flips: bool = Field(False, description="Also store a mirrored view per offset.")
    image_size: int = Field(0, ge=0, description="Side length of the tower's input in pixels; 0: the network's own.")
    grid: int = Field(
        0, ge=0, le=32, description="Patches kept per side and time step of a video backbone, averaged; 0: their mean."
    )
    layer: int = Field(-2, description="Block whose output is stored; -1 is the last.")
    merged_pairs: int = Field(8, ge=0, description="Pairs of similar tokens merged per block.")
    proportional_attention: bool = Field(True, description="Weight merged tokens by the patches they stand for.")
    projection: Literal["clip", "none"] = Field(
        "clip", description="CLIP's projection, or none, for train.alt.projection=linear."
    )


class ExtractSection(Settings):
    """Settings of stage one. Stores are uncompressed by default: float16 features shrink by only 5-10 %."""

    cluster: str = Field(
        "",
        description="Several processes: local:N or local-cuda:N for N workers on the cores or GPUs of this machine, "
        "slurm:N for up to N jobs, or the address of a Dask scheduler; empty: this process.",
    )
    workers_per_gpu: int = Field(
        1,
        ge=1,
        le=64,
        description="Workers that share a GPU, with the cluster local-cuda; small networks leave it idle.",
    )
    threads: int = Field(
        0,
        ge=0,
        description="Threads of the networks in each worker; 0: the cores divided by the local workers, at most 4.",
    )
    timeout: float = Field(
        600,
        gt=0,
        description="Seconds without progress after which a sample is quarantined, plus one per MB of its file.",
    )
    memory: float = Field(
        0, ge=0, description="GB of memory per worker; 0: nine tenths of what is free, or what Dask gives it."
    )
    shard_samples: int = Field(
        0,
        ge=0,
        description="Samples per shard of a new store; 0: poses 16, frames, tokens 32, pose-features 128, text 1024.",
    )
    codec: Literal["none", "zstd", "blosc"] = Field(
        "none", description="Compression of a new store; zstd and blosc are meant for remote stores."
    )
    device: str = Field(
        "auto", description="Device: auto (a GPU if there is one), cpu, cuda, or one of several GPUs as cuda:1."
    )
    decoder: Literal["pyav", "torchcodec", "torchcodec-cuda"] = Field(
        "pyav",
        description="What decodes videos for poses and frames; torchcodec-cuda: NVIDIA's decoder. Others than pyav "
        "round colors differently and see less damage (docs/videos.md); part of the key.",
    )
    spool: UserPath | None = Field(
        None,
        description="Folder on a local disk for videos of a data root that is a URL, while they are read; null: in the "
        "cache.",
    )
    spool_gb: float = Field(20, gt=0, description="GB of that folder.")
    poses: PosesSection = PosesSection()
    pose_features: PoseFeaturesSection = PoseFeaturesSection()
    text: TextSection = TextSection()
    frames: FramesSection = FramesSection()
    tokens: TokensSection = TokensSection()
    plugins: dict[str, dict[str, Any]] = Field(
        {}, description="Settings of extractors that plug-ins bring, by name; extract.<name> is the same."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_plugins(cls, values: Any) -> Any:
        """Move a plug-in's `extract.my_extractor` into `plugins`; its content is validated when the extractor runs."""
        if not isinstance(values, Mapping):
            return values
        others = {name: value for name, value in values.items() if name not in cls.model_fields}
        names = {name.replace("-", "_") for name in offered("unialign.extractors")} if others else set()
        given = {name: others[name] for name in others if name in names and isinstance(others[name], Mapping)}
        if not given:
            return values
        before = values.get("plugins", {})
        merged = {**before, **{name: {**before.get(name, {}), **value} for name, value in given.items()}}
        return {name: value for name, value in values.items() if name not in given} | {"plugins": merged}


class TrainSection(Settings):
    """Stage two. Besides the fields below, it has one section per system, such as `train.alt` for ALT, see
    `systems.registry`; a plug-in has one if the configuration mentions it.
    """

    model_config = ConfigDict(extra="allow")

    model: str = Field("unialign", description=f"System: {', '.join(SYSTEMS.own)}, or one of a plug-in.")
    stores: dict[str, UserText] = Field({}, description="Name or URL of the store of a modality.")
    remote_cache: float = Field(20, ge=0, description="GB of local disk for blocks of remote stores.")
    templates: tuple[str, ...] = Field((), description="Templates of the text store; empty: all that every class has.")
    entities: UserPath | None = Field(
        None, description="File that names ALT's corpus; null takes all entities of the text store."
    )
    min_coverage: float = Field(
        0.95, ge=0, le=1, description="Smallest share of train and test that the caches must hold."
    )
    backbone_weights: UserPath | None = Field(
        None, description="Weights that the video backbone (alt: the CLIP) starts from; hub fetches published ones."
    )
    shots: int = Field(0, ge=0, description="Training samples of each class, chosen by the seed; 0: all.")
    val_share: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="Share of the training samples set aside by the seed to choose the best epoch on, where a split "
        "has no val part; 0: none.",
    )
    start: UserPath | None = Field(None, description="Folder of a finished run whose weights training starts from.")
    encoder_epochs: int = Field(
        0,
        ge=0,
        description="Epochs of the skeleton encoder that `unialign run` trains for pose features; 0: as many as its "
        "recipe takes for so many clips.",
    )
    name: str = Field(
        "", description="Part of a new run folder's name, between model and seed; an ablation sets it to the row."
    )
    settings: TrainSettings = Field(TrainSettings(), description="Optimizer, schedule, loading, evaluation.")

    @classmethod
    def more_sections(cls) -> Mapping[str, type[Settings]]:
        """The settings of the package's own systems."""
        return sections_of({})

    @classmethod
    def section(cls, name: str) -> type[Settings] | None:
        """Also finds the section of a plug-in."""
        return super().section(name) or sections_of({name: {}}).get(name)

    @model_validator(mode="before")
    @classmethod
    def _with_systems(cls, values: Any) -> Any:
        """Validate the sections of systems here, since they come from the table of systems rather than from fields."""
        if not isinstance(values, Mapping):
            return values
        own = {name: value for name, value in values.items() if name in cls.model_fields}
        others = {name: value for name, value in values.items() if name not in cls.model_fields}
        fields: dict[str, Any] = {name: (kind, kind()) for name, kind in sections_of(values).items()}
        made: type[Settings] = create_model("Systems", __base__=Settings, **fields)
        return own | dict(made.model_validate(others))


class Config(Settings):
    """Everything `unialign.yaml` may contain. Paths are relative to the working folder; ~ and $NAME are expanded."""

    data: UserPath | None = Field(
        None, description="Folder of the dataset, or its file (pyskl, skeletons), or the URL of a folder of videos."
    )
    roots: tuple[UserPath, ...] = Field(
        (), description="Folders that links in the data root, and absolute paths in lists, may point into."
    )
    cache: UserPath = Field(Path("cache"), description="Folder of the cache.")
    weights: UserPath | None = Field(None, description="Folder of weight files, which `unialign weights` lists.")
    runs: UserPath = Field(Path("runs"), description="Folder of the runs.")
    dataset: str | None = Field(
        None,
        description="Dataset: ntu60, ntu120, gym99, gym288, diving48, k400, k600, k700, ssv2, ucf101, hmdb51, "
        "penn-action, jhmdb, pku-mmd, pku-mmd-2, utd-mhad, folder, skeletons, skeleton-files, kinetics-skeleton, "
        "ctr-gcn, pyskl, demo, one of a plug-in, or "
        "package.module:function for one of your own.",
    )
    protocol: str | None = Field(
        None, description="Split, such as xsub; subject=anna,ben tests these two; null: the dataset's first."
    )
    labels: UserPath | None = Field(
        None,
        description="CSV of path,label for folder and skeleton-files; class names, one per line, for pyskl, utd-mhad.",
    )
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
    Raises `UsageError` naming the field for an unknown key, a value of the wrong type, or an unset variable.
    """
    environment = os.environ if environment is None else environment
    path = config_file(file, environment)
    values = _read_file(path) if file or os.path.lexists(path) else {}
    if is_recipe(path):
        values = {**own_places(values.get("dataset"), environment), **values}
    LOGGER.info("configuration: %s", path.resolve() if values else "no file, defaults")
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
            raise UsageError(
                f"{override!r}: {text!r} is not valid YAML; quote strings with special characters."
            ) from error
    for name, value in flags.items():
        if value is not None:
            # As a string, so that ~ is expanded: shells do not expand it after the = of `--cache=~/x`.
            _set(values, name, str(value) if isinstance(value, Path) else value)
    return _validated(values, path, environment)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some dotted keys changed. Raises `UsageError` as `load_config` does."""
    # Keep unset values unset: systems replace them with their own defaults.
    changed = config.model_dump(mode="python", exclude_unset=True)
    for name, value in values.items():
        # A copy: a later name may set something within a value.
        _set(changed, name, copy.deepcopy(value))
    return _validated(changed, Path(FILE), os.environ)


def _validated(values: Mapping[str, Any], path: Path, environment: Mapping[str, str]) -> Config:
    try:
        config = Config.model_validate(values, context=environment)
    except ValidationError as error:
        raise UsageError(f"configuration ({path.name}, environment and flags): {explained(error, Config)}") from error
    for name, folder in (("cache", config.cache), ("runs", config.runs)):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{name}: {folder} is a file; give a folder, which may be a new one.")
    return config


def config_file(named: Path | None, environment: Mapping[str, str] | None = None) -> Path:
    """The file to read: the named one, or else unialign.yaml or unialign.yml in the working folder.

    named: a path, or the name of a recipe of the package, see `recipes`. Raises `UsageError` if the folder has both.
    """
    if named is not None:
        path = expanded_path(named, os.environ if environment is None else environment)
        return path if path.is_file() or str(named) not in recipes() else RECIPES / f"{named}.yaml"
    first, second = Path(FILE), Path(OTHER_FILE)
    if not os.path.lexists(second):
        return first
    if os.path.lexists(first):
        raise UsageError(f"{first} and {second} both lie in {Path.cwd()}; keep one of them.")
    return second


def recipes() -> tuple[str, ...]:
    """Names of the configurations that come with the package: one per paper and dataset."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def is_recipe(path: Path) -> bool:
    """Whether a configuration is one of the package's own."""
    return path.resolve().parent == RECIPES.resolve()


def own_places(dataset: object, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the file of the working folder says of where data, cache and runs are, which a recipe does not know.

    dataset: of the recipe; the data of another one are left out.
    """
    path = config_file(None, environment)
    values = _read_file(path) if path.is_file() else {}
    same = values.get("dataset", dataset) == dataset
    return {name: value for name, value in values.items() if name in PLACES and (same or name not in OF_DATASET)}


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = f"; recipes that come with unialign are {', '.join(recipes())}" if len(path.parts) == 1 else ""
        raise UsageError(f"the configuration file {path} does not exist, or is not a file{known}.")
    try:
        values = read_yaml(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}); save it in that encoding.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold `key: value` lines, such as `cache: cache`.")
    return values


def _set(values: dict[str, Any], name: str, value: object) -> None:
    *folders, leaf = name.split(".")
    folders = [folder.replace("-", "_") for folder in folders]
    # Keys of `train.stores` are modality names, which have hyphens; all other keys are fields.
    leaf = leaf if folders == ["train", "stores"] else leaf.replace("-", "_")
    for folder in folders:
        values = values.setdefault(folder, {})
        if not isinstance(values, dict):
            raise UsageError(f"{name}: {folder} is a value, not a section.")
    values[leaf] = value


def configuration_rows() -> tuple[SettingRow, ...]:
    """Every key of unialign.yaml except those of plug-ins, in order, with type, default, range and meaning."""
    return tuple(setting_rows(Config))
