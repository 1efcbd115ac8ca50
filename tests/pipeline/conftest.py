"""What several tests of the pipeline begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.made_stores import made_dataset, made_stores
from tests.pipeline.made_systems import known_clip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of weights of the tiny CLIP, which OpenCLIP knows by name as long as the module runs."""
    with known_clip(tmp_path_factory.mktemp("clip")) as path:
        yield path


@pytest.fixture(scope="module")
def made_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of every modality of `made_dataset`, one for each module, which may add to it."""
    cache = tmp_path_factory.mktemp("cache")
    made_stores(cache, made_dataset())
    return cache
