"""Skeleton encoders by name. Each maps keypoints (N, M, T, V, C) and a mask (N, M) to tokens, feature and logits."""

from torch import nn

from unialign.stages.models.skeleton.agcn import AGCN
from unialign.stages.models.skeleton.ctr_gcn import CTRGCN
from unialign.stages.models.skeleton.efficient_gcn import EfficientGCN
from unialign.stages.models.skeleton.posec3d import PoseConv3D
from unialign.stages.models.skeleton.shift_gcn import ShiftGCN
from unialign.stages.models.skeleton.stgcn import STGCN
from unialign.stages.models.skeleton.stgcnpp import STGCNPlusPlus
from unialign.stages.models.skeleton.streams import SkeletonStreams

ENCODERS: dict[str, type[nn.Module]] = {
    "skeleton": SkeletonStreams,
    "stgcn++": STGCNPlusPlus,
    "shift-gcn": ShiftGCN,
    "st-gcn": STGCN,
    "agcn": AGCN,
    "ctr-gcn": CTRGCN,
    "posec3d": PoseConv3D,
    "efficientgcn": EfficientGCN,
}
