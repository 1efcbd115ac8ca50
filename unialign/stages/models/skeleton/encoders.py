"""Skeleton encoders by name. Each maps keypoints (N, M, T, V, C) and a mask (N, M) to tokens, feature and logits."""

from unialign.stages.models.skeleton.shift_gcn import ShiftGCN
from unialign.stages.models.skeleton.stgcnpp import STGCNPlusPlus
from unialign.stages.models.skeleton.streams import SkeletonStreams

ENCODERS: dict[str, type[STGCNPlusPlus] | type[ShiftGCN] | type[SkeletonStreams]] = {
    "skeleton": SkeletonStreams,
    "stgcn++": STGCNPlusPlus,
    "shift-gcn": ShiftGCN,
}
