"""The stores behind a page: those that a run read and, for pictures alone, others of the same collection."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unialign.cache.inventory import iterate_stores
from unialign.cache.reader import Recorded, StoreReader
from unialign.errors import UnialignError
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.evaluation.evaluate import open_stores
from unialign.pipeline.evaluation.gallery import poses_behind
from unialign.pipeline.pages.strips import Sources


def run_stores(keys: Mapping[str, Any], cache: Path, keep: float) -> tuple[dict[str, Recorded], list[str]]:
    """Readers of the stores of a run that can be opened, by modality, and a sentence for each that cannot."""
    found: dict[str, Recorded] = {}
    notes = []
    for modality, store in keys["stores"].items():
        try:
            reader = open_stores({modality: store}, cache, keep)[modality]
        except UnialignError as error:
            notes.append(f"{modality}: {error}")
            continue
        if isinstance(reader, Recorded):
            found[modality] = reader
    return found, notes


def picture_sources(
    readers: Mapping[str, Recorded], cache: Path, collection: str, videos: Mapping[str, Path] = MappingProxyType({})
) -> Sources:
    """Where frames and poses are shown from: the stores that were read, the poses that pose features were made from,
    else the only store of the collection. videos: see `Sources`.
    """
    poses = readers.get("poses")
    if poses is None:
        try:
            poses = poses_behind(readers.get("pose-features"), cache)
        except UnialignError:
            poses = None
    return Sources(
        frames=readers.get("frames") or only_store(cache, collection, "frames"),
        poses=poses or only_store(cache, collection, "poses"),
        videos=videos,
    )


def videos_of(name: str, config: Config) -> dict[str, Path]:
    """The videos of a dataset by sample id, of those that are whole files here; {} without its data root."""
    try:
        dataset = the_dataset(with_values(config, {"dataset": name}))
    except (UnialignError, OSError):
        return {}
    whole = (sample for sample in dataset.samples if "video" in sample.files and sample.span is None)
    return {sample.id: sample.files["video"] for sample in whole}


def only_store(cache: Path, collection: str, modality: str) -> Recorded | None:
    """The store of a modality, if the collection has one that can be opened and no other."""
    opened = stores_of(cache, collection, modality)
    return opened[0] if len(opened) == 1 else None


def stores_of(cache: Path, collection: str, modality: str) -> Sequence[StoreReader]:
    """The stores of a modality that can be opened and hold something, sorted by name."""
    found = []
    for path in iterate_stores(cache):
        if path.parts[-3:-1] != (collection, modality):
            continue
        try:
            reader = StoreReader(path)
        except UnialignError:
            continue
        if len(reader):
            found.append(reader)
    return found


def collection_of(keys: Mapping[str, Any]) -> str:
    """The collection that a run read from; "" for one that read remote stores alone."""
    places = [str(store["store"]) for store in keys["stores"].values() if store.get("store")]
    return next((place.split("/")[0] for place in places if "://" not in place), "")
