"""How new clips are extracted so that their features are what a model was trained on: from the keys of its stores."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unialign.cache.digests import file_digest
from unialign.errors import MissingCache, StaleCache
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.extraction.extractors import EXTRACTORS
from unialign.pipeline.prediction.trained import Trained
from unialign.pipeline.weights import SUFFIXES
from unialign.types import Json

# Fields of keys that hold digests of files, and the settings that name these files.
FILES = ("weights", "detector")
# Fields whose values may differ: they change the last digits of a feature.
LIBRARIES = ("libraries", "decoder")
WEIGHTS = (*SUFFIXES, ".onnx")


def extractor_of(modality: str, fields: Mapping[str, Json]) -> str:
    """The name of the extractor that made a store: of ours the modality, of plug-ins their own."""
    made_by = str(fields.get("extractor"))
    return made_by if made_by in EXTRACTORS.plugins() else modality


def settings_as_trained(trained: Trained, config: Config, given: Iterable[Path], encoder: Path | None) -> Config:
    """The configuration whose extractors make what a model has read.

    config: what says where weights lie. given: further files of weights. encoder: the file of the skeleton encoder that
    came with the model. Raises `MissingCache` for weights that no file has.
    """
    files = _Files([*given, *([encoder] if encoder else [])], config)
    values: dict[str, Any] = {}
    for modality, fields in trained.keys.items():
        name = extractor_of(modality, fields)
        section = name.replace("-", "_")
        known = EXTRACTORS[name].settings.model_fields
        inner = (fields.get("parameters"), fields.get("reading"))
        flat: dict[str, Any] = {**fields}
        for part in inner:
            flat |= part if isinstance(part, Mapping) else {}
        prefix = f"extract.{section}" if name in EXTRACTORS.own else f"extract.plugins.{section}"
        for field in known:
            value = flat.get(field)
            if field in FILES:
                values[f"{prefix}.{field}"] = files.find(str(value), modality, trained) if value else None
            elif value is not None and field not in (EXTRACTORS[name].made_from, "encoder"):
                values[f"{prefix}.{field}"] = value
        if modality == "poses":
            values[f"{prefix}.source"] = "video" if sees_frames(fields) else "skeleton"
        if modality == "pose-features":
            values[f"{prefix}.encoder"] = "network" if fields.get("weights") else "motion"
            values[f"{prefix}.poses"] = None
        if modality == "tokens":
            # A CLIP tower has its network in the key; a video backbone is the extractor itself.
            values[f"{prefix}.model"] = fields.get("network") or fields.get("extractor")
            values[f"{prefix}.frames"] = None
    return with_values(config, values)


def sees_frames(fields: Mapping[str, Json]) -> bool:
    """Whether what has this key was made from videos: only then is there a decoder in it."""
    return "decoder" in fields


class _Files:
    """Files of weights by their digest."""

    def __init__(self, given: Iterable[Path], config: Config) -> None:
        extract = config.extract
        named = [extract.poses.weights, extract.poses.detector, extract.pose_features.weights, extract.tokens.weights]
        self._paths = [*given, *(path for path in named if path is not None)]
        self._folders = [Path(), *([config.weights] if config.weights else [])]

    def find(self, digest: str, modality: str, trained: Trained) -> Path:
        """The file with this SHA-256. Raises `MissingCache` if there is none."""
        wanted = digest.removeprefix("sha256:")
        for path in self._candidates():
            if file_digest(path).removeprefix("sha256:") == wanted:
                return path.resolve()
        raise MissingCache(
            f"{trained.where} was trained on {modality} that weights with the SHA-256 {wanted[:12]} computed, and no "
            "such file is named, in the working folder, or in the folder `weights` of the configuration; give it with "
            "--weights."
        )

    def _candidates(self) -> Iterator[Path]:
        seen: set[Path] = set()
        folders = (path for folder in self._folders if folder.is_dir() for path in sorted(folder.iterdir()))
        several = (self._paths, (path for path in folders if path.name.lower().endswith(WEIGHTS)))
        for paths in several:
            for path in paths:
                if path.is_file() and path.resolve() not in seen:
                    seen.add(path.resolve())
                    yield path


def check_as_trained(modality: str, made: Mapping[str, Json], trained: Trained) -> str:
    """Compare the key of an extractor with that of the store that a model read; returns a note on other libraries.

    The inputs of derived modalities are compared by themselves. Raises `StaleCache` for another difference.
    """
    wanted = trained.keys[modality]
    inputs = {EXTRACTORS[extractor_of(modality, wanted)].made_from}
    names = dict.fromkeys([*wanted, *made])
    other = [name for name in names if name not in inputs and wanted.get(name) != made.get(name)]
    settings = [name for name in other if name not in LIBRARIES]
    if settings:
        told = "; ".join(f"{name} {_short(made.get(name))} instead of {_short(wanted.get(name))}" for name in settings)
        raise StaleCache(
            f"{modality} of new clips would not be what {trained.where} was trained on: {told}. Use the version "
            "and the settings that extracted them, or train anew."
        )
    return (
        f"{modality}: {' and '.join(other)} are not those of the training; the last digits may differ" if other else ""
    )


def _short(value: Json) -> str:
    text = str(value).removeprefix("sha256:")
    return text if len(text) < 60 else f"{text[:57]}..."
