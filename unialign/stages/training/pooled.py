"""One vector a sample from cached pose features: what DVTA trains on.

Legend: B samples, V views of the cached grid, P width of the features.
"""

from collections.abc import Sequence

import torch

from unialign.cache.batches.joined import Joined
from unialign.stages.training.cached import CachedArrays
from unialign.stages.training.samples import Batch

FEATURE = "feature"


class PooledFeatures(CachedArrays):
    """`CachedArrays` of the column "feature" (V, P), the mean over tokens, with its mean over some views in its place.

    A batch holds pose_features (B, P), and `indices` and `labels`, (B,) int64. Training and evaluation read the same:
    the published method augments nothing. candidates: the classes to choose from in evaluation, as `candidates` (U,)
    int64 in each batch; in training there are none.
    """

    def __init__(
        self, reader: Joined, labels: Sequence[int], views: Sequence[int], candidates: Sequence[int] = ()
    ) -> None:
        super().__init__(reader, labels, train=False)
        self.views = list(views)
        self.candidates = torch.tensor(list(candidates), dtype=torch.int64)

    def _finished(self, batch: Batch) -> Batch:
        features = batch.pop(FEATURE)
        batch["pose_features"] = features[:, self.views].mean(dim=1)
        if len(self.candidates):
            batch["candidates"] = self.candidates
        return batch
