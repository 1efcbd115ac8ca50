"""What several tests of the pipeline begin with."""

from pathlib import Path

import pytest

from tests.made_stores import made_dataset, made_stores


@pytest.fixture(scope="module")
def made_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of every modality of `made_dataset`, one for each module, which may add to it."""
    cache = tmp_path_factory.mktemp("cache")
    made_stores(cache, made_dataset())
    return cache
