"""Chooses the store of a modality that a command reads."""

import logging
from collections.abc import Mapping
from pathlib import Path

from unialign.cache.inventory import find_store, iterate_stores
from unialign.cache.mirrors import url_of
from unialign.cache.reader import Recorded, StoreReader
from unialign.cache.records import list_records
from unialign.cache.remote.mirror import mirrored, reader_at
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.config import Config
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.remote_tree import remote_url

LOGGER = logging.getLogger(__name__)


def choose_store(cache: Path, dataset: Dataset, modality: str, chosen: Mapping[str, str]) -> Path:
    """The store of a modality: the one named in `chosen`, or else the only non-empty one.

    Of several the only one that is up to date: what was extracted before clips were added, renamed or replaced stays in
    the cache beside what is extracted now. chosen: modality to store name (or a prefix of it), from `train.stores` or
    `--use`.
    Raises `MissingCache` naming the command that creates it, `UsageError` if several stores match.
    """
    collection = dataset.collection
    if modality in chosen:
        return find_store(cache, chosen[modality], (collection, modality))
    stores = [
        path for path in iterate_stores(cache) if path.parts[-3:-1] == (collection, modality) and list_records(path)
    ]
    if not stores:
        raise MissingCache(
            f"no {modality} of {collection} in {cache}; "
            f"make them with `unialign extract {modality} --dataset {dataset.name}`."
        )
    if len(stores) > 1:
        current = [path for path in stores if _is_current(reader_at(path), dataset, cache)]
        if len(current) == 1:
            LOGGER.info("%s of %s: of %d stores, %s is up to date", modality, collection, len(stores), current[0].stem)
            return current[0]
        names = ", ".join(path.stem for path in stores)
        raise UsageError(
            f"{len(stores)} stores hold {modality} of {collection} ({names}); choose with --use {modality}=NAME."
        )
    return stores[0]


def _is_current(reader: Recorded, dataset: Dataset, cache: Path) -> bool:
    """Whether a store knows every clip of a dataset, made from what the store below it holds now."""
    if (reader.table.find([sample.id for sample in dataset.samples]) < 0).any():
        return False
    for modality, name in reader.store.key.fields.items():
        below = cache / dataset.collection / modality / f"{name}.zarr" if isinstance(name, str) else None
        if below is not None and below.is_dir() and stale_samples(reader, reader_at(below).sources()):
            return False
    return True


def open_chosen(
    cache: Path, dataset: Dataset, modality: str, chosen: Mapping[str, str], *, keep: float
) -> StoreReader | RemoteReader:
    """A reader for the store of a modality: the one at the URL in `chosen`, or else that of `choose_store`.

    In a cache in object storage, that one is at a URL too.
    keep: GB of local disk below the cache root for caching blocks of all remote stores; 0: no caching.
    Raises what `choose_store` and `RemoteReader` raise, and `UsageError` for a remote store of another collection or
    modality.
    """
    where = chosen.get(modality, "")
    if "://" not in where:
        path = choose_store(cache, dataset, modality, chosen)
        where = url_of(path)
    if not where:
        local = StoreReader(path)
        LOGGER.info("reads %s of %d samples from %s", modality, len(local.ids), local.path)
        return local
    reader = open_remote(where, cache, keep)
    LOGGER.info("reads %s of %d samples from %s", modality, len(reader.ids), reader.url)
    found = (reader.store.collection, reader.store.modality)
    if found != (dataset.collection, modality):
        raise UsageError(
            f"{reader.url} holds {found[1]} of {found[0]}, not {modality} of {dataset.collection}; "
            f"correct train.stores.{modality}."
        )
    return reader


def with_cache_here(config: Config) -> Config:
    """The configuration with the local side of a cache that is given as a URL, brought up to date.

    Raises what `mirrored` raises.
    """
    url = remote_url(config.cache)
    return config.model_copy(update={"cache": mirrored(url)}) if url else config


def open_remote(url: str, cache: Path, keep: float) -> RemoteReader:
    """A reader for a remote store; see `open_chosen` for `keep`. Raises what `RemoteReader` raises."""
    return RemoteReader(url, cache / ".remote" if keep else None, int(keep * 10**9))


def stale_samples(reader: Recorded, sources: Mapping[str, str]) -> list[str]:
    """Ids of samples whose source has changed since their features were extracted.

    sources: current digest by id, "" or absent if the source is missing (caches outlive videos).
    """
    return sorted(name for name, source in reader.sources().items() if sources.get(name) and sources[name] != source)
