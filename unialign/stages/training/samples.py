"""The data types of stage two: samples with labels, requests for a batch, and batches."""

from dataclasses import dataclass
from typing import Any

Batch = dict[str, Any]
Pick = tuple[int, int]


@dataclass(frozen=True)
class Labelled:
    """Which samples there are, in order of id, and their class indices."""

    ids: tuple[str, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise ValueError(f"{len(self.ids)} ids, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.ids)
