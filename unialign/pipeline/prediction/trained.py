"""What it takes to label new clips: the weights of a run, and how everything that they read was made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from unialign.cache.digests import file_digest
from unialign.cache.inventory import find_store
from unialign.cache.reader import Recorded
from unialign.cache.store import open_store
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.config import Config
from unialign.pipeline.evaluation.evaluate import open_stores
from unialign.pipeline.extraction.extractors import row_of
from unialign.pipeline.manifest import load_manifest
from unialign.pipeline.training.run_data import read_data
from unialign.pipeline.training.run_folder import read_keys, read_result
from unialign.pipeline.training.train import run_config
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.checkpoints import BEST, LAST, Checkpoints
from unialign.types import Json

TEXT = "text"


@dataclass(frozen=True)
class Trained:
    """A trained model with everything that decides what it says of a new clip.

    name: of its run. where: the run's folder or the exported file, for messages. config: of the run, as in config.yaml.
    classes: all of its dataset, in label order. columns: the classes of its scores, in order. learned, tested: labels
    of the classes that it was trained and tested on. keys: the fields of the key of each store that it read, and of
    those that these were made from, by modality, each after its input; not of texts. texts: embeddings (width,) float32
    of the rows that it read, by id. weights: of the model. head_weights: see `Loaded.head_weights`. metrics: of the run
    on its test samples. candidates, unseen: labels, see `Split`. encoder: content of the file of the skeleton encoder
    that computed the pose features, if it comes with the model.
    """

    name: str
    where: str
    config: Mapping[str, Any]
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    learned: tuple[int, ...]
    tested: tuple[int, ...]
    keys: Mapping[str, Mapping[str, Json]]
    texts: Mapping[str, np.ndarray]
    weights: Mapping[str, Tensor]
    head_weights: Mapping[str, float]
    metrics: Mapping[str, float]
    candidates: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    encoder: bytes | None = None


class TextRows:
    """Rows of a text store in memory; read like a store."""

    def __init__(self, rows: Mapping[str, np.ndarray]) -> None:
        """rows: embedding (width,) float32 by id."""
        self._rows = dict(rows)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the rows, sorted."""
        return tuple(sorted(self._rows))

    def read_one(self, sample: str) -> dict[str, np.ndarray]:
        """The embedding of a row."""
        return {"embedding": self._rows[sample]}

    def source(self, sample: str) -> str:
        """What a row was made from is not kept."""
        return ""

    def array_attributes(self, name: str) -> Mapping[str, Any]:
        """Nothing more is known of the array."""
        return {}


def trained_run(folder: Path, config: Config, *, best: bool = False) -> Trained:
    """The model of a finished run, by its folder and the stores of the cache. best: of its best epoch, not the last.

    Raises `MissingCache` for a run, store or checkpoint that is not there, `DamagedStore` for a damaged one,
    `UsageError` for a run that was trained without a cache.
    """
    result, own, keys = read_result(folder), run_config(folder), read_keys(folder)
    cache = config.cache.resolve()
    if not all(found["store"] for found in keys["stores"].values()):
        raise UsageError(f"{folder} was trained with --online, so it is not known how its features were made.")
    readers = open_stores(keys["stores"], cache, config.train.remote_cache)
    stores = {name: reader for name, reader in readers.items() if isinstance(reader, Recorded)}
    dataset = load_manifest(cache, own["dataset"], next(iter(stores.values())).store.collection)
    split = dataset.split(own["protocol"])
    labels = {name: label for label, name in enumerate(dataset.classes)}
    rows = read_data(folder, keys.get("data") or "") or []
    parts = {
        part: tuple(sorted({labels[row.label] for row in rows if row.part == part and row.label in labels}))
        for part in ("train", "test")
    }
    made_by = _keys(stores, cache)
    loaded = Checkpoints(folder / "checkpoints", keys["run"]).named(BEST if best else LAST)
    return Trained(
        name=folder.name,
        where=str(folder),
        config=own,
        classes=dataset.classes,
        columns=tuple(keys.get("classes") or dataset.classes),
        learned=parts["train"] or tuple(labels.values()),
        tested=parts["test"],
        keys=made_by,
        texts=_texts(readers.get(TEXT), [row.id for row in rows if row.part == TEXT]),
        weights=loaded.weights(),
        head_weights=loaded.head_weights(),
        metrics=dict(result["metrics"]),
        candidates=split.candidates,
        unseen=split.unseen,
        encoder=_encoder(made_by, folder),
    )


def _encoder(keys: Mapping[str, Mapping[str, Json]], folder: Path) -> bytes | None:
    """The file of the skeleton encoder that computed the pose features, if a run beside this one has exported it.

    Published encoders have licenses of their own and stay outside.
    """
    wanted = str(keys.get("pose-features", {}).get("weights") or "")
    for path in sorted(folder.parent.glob("*/encoder.pt")) if wanted else ():
        if file_digest(path).removeprefix("sha256:") == wanted:
            return path.read_bytes()
    return None


def _keys(stores: Mapping[str, Recorded], cache: Path) -> dict[str, Mapping[str, Json]]:
    """The fields of the keys of stores, each after those of the store that it was made from."""
    found: dict[str, Mapping[str, Json]] = {}
    for name, reader in stores.items():
        if name == TEXT:
            continue
        row = row_of(reader.store)
        if row is None:
            raise UsageError(f"{reader.where} was written from Python, so new clips have no such {name}.")
        if row.made_from:
            digest, place = str(reader.store.key.fields[row.made_from]), (reader.store.collection, row.made_from)
            found.setdefault(row.made_from, open_store(find_store(cache, digest, place)).key.fields)
        found[name] = reader.store.key.fields
    return found


def _texts(reader: SampleReader | None, ids: list[str]) -> dict[str, np.ndarray]:
    """The rows that a run read; all of the store if it does not say which."""
    if reader is None:
        return {}
    held = set(reader.ids)
    lost = [name for name in ids if name not in held]
    if lost:
        raise MissingCache(f"the text store has no row {lost[0]!r} any more, which the run read.")
    return {name: reader.read_one(name)["embedding"] for name in ids or reader.ids}
