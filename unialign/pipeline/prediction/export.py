"""A trained model as one safetensors file, which `unialign.load_model` reads anywhere: no run, no cache, no pickle.

    model.<name>      the weights of the networks
    text.<number>     the text embeddings that they were trained with; metadata has the row of each
    encoder           the bytes of the skeleton encoder that computed the pose features, if we trained it

The metadata field "unialign" is one JSON object: settings, classes, keys of the stores, provenance.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from unialign import __version__
from unialign.cache import atomic
from unialign.cache.bounded import parse_json
from unialign.cache.schema import reason
from unialign.errors import DamagedStore, MissingCache, UsageError
from unialign.pipeline.prediction.trained import Trained
from unialign.pipeline.systems.registry import section_of
from unialign.pipeline.training.run_folder import read_json
from unialign.pipeline.training.train import config_from
from unialign.stages.training.settings import settings_from
from unialign.types import Json

SUFFIX = ".safetensors"
FORMAT = 1
FIELD = "unialign"
MODEL, TEXT, ENCODER = "model.", "text.", "encoder"
Label = Annotated[int, Field(ge=0)]


class _Metadata(BaseModel):
    """The schema of the metadata; later versions may add fields."""

    model_config = ConfigDict(strict=True, extra="ignore")

    format: int
    run: str
    config: dict[str, Any]
    classes: list[str]
    columns: list[str]
    learned: list[Label]
    tested: list[Label]
    keys: dict[str, dict[str, Any]]
    texts: list[str]
    head_weights: dict[str, float]
    metrics: dict[str, float]
    candidates: list[Label] = []
    unseen: list[Label] = []
    provenance: dict[str, Any]


def export_model(trained: Trained, path: Path, run: Path) -> dict[str, Json]:
    """Write a model to a file; returns its metadata. run: the folder of its run, for the provenance.

    Raises `UsageError` for another suffix than .safetensors.
    """
    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: give the file a name that ends in {SUFFIX}.")
    rows = list(trained.texts)
    metadata: dict[str, Json] = {
        "format": FORMAT,
        "run": trained.name,
        "config": dict(trained.config),
        "classes": list(trained.classes),
        "columns": list(trained.columns),
        "learned": list(trained.learned),
        "tested": list(trained.tested),
        "keys": {name: dict(fields) for name, fields in trained.keys.items()},
        "texts": rows,
        "head_weights": dict(trained.head_weights),
        "metrics": dict(trained.metrics),
        "candidates": list(trained.candidates),
        "unseen": list(trained.unseen),
        "provenance": {"unialign": __version__, "environment": read_json(run / "env.json")},
    }
    tensors = {f"{MODEL}{name}": value.detach().cpu().contiguous().clone() for name, value in trained.weights.items()}
    for number, name in enumerate(rows):
        tensors[f"{TEXT}{number}"] = torch.from_numpy(np.ascontiguousarray(trained.texts[name]))
    if trained.encoder is not None:
        tensors[ENCODER] = torch.frombuffer(bytearray(trained.encoder), dtype=torch.uint8)
    atomic.write_file(path, save(tensors, {FIELD: json.dumps(metadata, ensure_ascii=False)}))
    return metadata


def read_exported(path: Path) -> Trained:
    """The model in a file of `export_model`.

    Raises `MissingCache` if there is none, `DamagedStore` for a file that is something else.
    """
    if not path.is_file():
        raise MissingCache(f"{path}: no such file; `unialign export` writes such files.")
    try:
        with safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get(FIELD)
            if stored is None:
                raise DamagedStore(f"{path} has no field {FIELD!r} in its metadata; it is not of `unialign export`.")
            metadata = _checked(path, stored)
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedStore(f"{path} cannot be read ({error}); export it again.") from error
    lost = [name for number, name in enumerate(metadata.texts) if f"{TEXT}{number}" not in tensors]
    if lost:
        raise DamagedStore(f"{path} lacks the text row {lost[0]!r}; export it again.")
    encoder = tensors.get(ENCODER)
    return Trained(
        name=metadata.run,
        where=str(path),
        config=metadata.config,
        classes=tuple(metadata.classes),
        columns=tuple(metadata.columns),
        learned=tuple(metadata.learned),
        tested=tuple(metadata.tested),
        keys=metadata.keys,
        texts={name: tensors[f"{TEXT}{number}"].numpy() for number, name in enumerate(metadata.texts)},
        weights={name.removeprefix(MODEL): value for name, value in tensors.items() if name.startswith(MODEL)},
        head_weights=metadata.head_weights,
        metrics=metadata.metrics,
        candidates=tuple(metadata.candidates),
        unseen=tuple(metadata.unseen),
        encoder=None if encoder is None else encoder.numpy().tobytes(),
    )


def _checked(path: Path, text: str) -> _Metadata:
    """Raise `DamagedStore` for metadata that no version of this program writes, or a later one."""
    try:
        metadata = _Metadata.model_validate(parse_json(text))
        if metadata.format != FORMAT:
            raise DamagedStore(
                f"{path} has the format {metadata.format}; this version reads {FORMAT}: update unialign."
            )
        name = str(metadata.config.get("model"))
        config_from(name, metadata.config[section_of(name)])
        settings_from(metadata.config["settings"])
        labels: list[int] = [*metadata.learned, *metadata.tested, *metadata.candidates, *metadata.unseen]
        if max(labels, default=0) >= len(metadata.classes):
            raise ValueError(f"the label {max(labels)} is none of {len(metadata.classes)} classes")
    except ValidationError as error:
        raise DamagedStore(f"{path} cannot be used ({reason(error)}); it is not of `unialign export`.") from error
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise DamagedStore(f"{path} cannot be used ({error}); it is not of `unialign export`.") from error
    return metadata
