"""What extractors and training read cached samples from: a store, or anything with the same interface."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class SampleReader(Protocol):
    """The samples of one modality by id: `cache.reader.StoreReader`, a remote store, or extraction during training."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the samples that have features, sorted."""

    def read_one(self, sample: str, /) -> dict[str, np.ndarray]:
        """The arrays of one sample by name, without the sample axis."""

    def source(self, sample: str, /) -> str:
        """Digest of what a sample was made from, "sha256:<hex>"."""

    def array_attributes(self, name: str, /) -> Mapping[str, Any]:
        """Units, joint order, encoding and similar attributes of one array."""
