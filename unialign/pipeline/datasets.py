"""The dataset that a configuration names; light to import, so that what is missing is said before torch is loaded."""

import logging
from pathlib import Path

from unialign.errors import UsageError
from unialign.pipeline.collection import collection_at, own_collection
from unialign.pipeline.config import Config
from unialign.pipeline.manifest import load_manifest
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.catalog import DATASETS, load_dataset
from unialign.stages.datasets.remote_tree import make_tree, remote_url, tree_of, with_pointers
from unialign.stages.remote_files import FOLDER

LOGGER = logging.getLogger(__name__)


def rooted_dataset(config: Config) -> Dataset:
    """The configured dataset, read from the data root, with its own collection of the cache.

    Raises `UsageError` when dataset or root is not configured.
    """
    name = _name(config)
    if config.data is None:
        raise UsageError("no data root is configured; give --root, UNIALIGN_DATA or `data:` in unialign.yaml.")
    if url := remote_url(config.data):
        return _loaded_from(url, name, config)
    return _loaded(name, config.data, config)


def the_dataset(config: Config) -> Dataset:
    """The configured dataset, from the data root or, where that is not there or remote, from its list in the cache.

    Raises `UsageError` when no dataset is configured, `MissingCache` when neither root nor list is there.
    """
    name = _name(config)
    if config.data is not None and config.data.exists():
        return _loaded(name, config.data, config)
    cache = config.cache.resolve()
    LOGGER.info("reads the list of %s in %s, since there is no data root", name, cache)
    url = remote_url(config.data) if config.data else ""
    root = tree_of(url, cache / FOLDER) if url else config.data.resolve() if config.data else None
    return load_manifest(cache, name, collection_at(root, name, cache) if root else None)


def _loaded(name: str, data: Path, config: Config) -> Dataset:
    LOGGER.info("reads %s in %s", name, data.resolve())
    found = load_dataset(name, data.resolve(), config.labels, [folder.resolve() for folder in config.roots])
    return own_collection(found, config.cache.resolve())


def _loaded_from(url: str, name: str, config: Config) -> Dataset:
    """The dataset at a URL: its names are listed, its videos are fetched when they are read."""
    cache = config.cache.resolve()
    spool = (config.extract.spool or cache / FOLDER / "spool").resolve()
    LOGGER.info("lists %s", url)
    tree = make_tree(url, cache / FOLDER, spool, int(config.extract.spool_gb * 1e9))
    return with_pointers(_loaded(name, tree, config), tree)


def _name(config: Config) -> str:
    if config.dataset is None:
        raise UsageError(
            f"no dataset is configured; give --dataset ({', '.join(DATASETS)}, or package.module:function) "
            "or `dataset:` in unialign.yaml."
        )
    return config.dataset
