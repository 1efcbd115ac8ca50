"""The specification of one array of a store, per sample."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from unialign.types import Json


@dataclass(frozen=True)
class ArraySpec:
    """The shape of one sample in one array of a store.

    shape: the maximum shape of one sample, for example (1024, 2, 17, 3); the store prepends the sample axis.
    dims: the names of those axes, for example ("frame", "person", "joint", "coordinate").
    ragged: the length of the first axis differs per sample; it is kept in the record under the name of the axis.
    chunk: entries of the first axis per inner chunk (0: all of them). A ragged sample stores only the chunks that
        contain data.
    attributes: what a reader of the array should know: units, joint order, coordinate names.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    ragged: bool = False
    chunk: int = 0
    attributes: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.dims):
            raise ValueError(f"array {self.name}: {len(self.shape)} axes but {len(self.dims)} names")
        if self.ragged and not self.shape:
            raise ValueError(f"array {self.name}: a scalar cannot be ragged")

    @property
    def inner(self) -> tuple[int, ...]:
        """Shape of one inner chunk, without the sample axis."""
        if not self.shape:
            return ()
        return (min(self.chunk or self.shape[0], self.shape[0]), *self.shape[1:])

    @property
    def chunks_per_sample(self) -> int:
        """Number of inner chunks of a sample of the maximum shape."""
        return -(-self.shape[0] // self.inner[0]) if self.shape else 1

    @property
    def fill(self) -> float:
        """What missing entries read as in any Zarr tool: NaN for floats, 0 for integers."""
        return float("nan") if np.dtype(self.dtype).kind == "f" else 0
