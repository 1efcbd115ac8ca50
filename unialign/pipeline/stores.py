"""Which store of a modality a command reads."""

from collections.abc import Mapping
from pathlib import Path

from unialign.cache.errors import MissingCache, UsageError
from unialign.cache.inventory import find_store, iterate_stores
from unialign.cache.reader import StoreReader
from unialign.cache.records import list_records


def choose_store(cache: Path, collection: str, modality: str, chosen: Mapping[str, str], dataset: str) -> Path:
    """The store of a modality: the one named in `chosen`, or else the only one that holds anything.

    chosen: modality to (the beginning of) a store's name, from `train.stores` or `--use`.
    Raises `MissingCache` naming the command that makes it, `UsageError` when several stores could be meant.
    """
    if modality in chosen:
        return find_store(cache, chosen[modality])
    stores = [
        path for path in iterate_stores(cache) if path.parts[-3:-1] == (collection, modality) and list_records(path)
    ]
    if not stores:
        raise MissingCache(
            f"no {modality} of {collection} in {cache}; "
            f"make them with `unialign extract {modality} --dataset {dataset}`."
        )
    if len(stores) > 1:
        names = ", ".join(path.stem for path in stores)
        raise UsageError(
            f"{len(stores)} stores hold {modality} of {collection} ({names}); choose with --use {modality}=NAME."
        )
    return stores[0]


def stale_samples(reader: StoreReader, sources: Mapping[str, str]) -> list[str]:
    """Ids whose features were made from other bytes than those that lie there now.

    sources: current digest by id, "" or absent where the source is not there (caches outlive videos).
    """
    return sorted(name for name, source in reader.sources().items() if sources.get(name) and sources[name] != source)
