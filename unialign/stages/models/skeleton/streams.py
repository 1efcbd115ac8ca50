"""Joints, bones and motion of a body as streams of a graph network, joined at its input or at its output.

Legend: N clips, M persons, T frames, V joints, X = 2 or 3 coordinates, K streams, L classes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.skeleton.ctr_gcn import CTRGCN
from unialign.stages.models.skeleton.graph_network import GraphNetwork
from unialign.stages.models.skeleton.stgcnpp import STGCNPlusPlus
from unialign.stages.skeleton_layouts import layout_from
from unialign.types import Json

NETWORKS: Mapping[str, type[STGCNPlusPlus] | type[CTRGCN]] = {"stgcn++": STGCNPlusPlus, "ctr-gcn": CTRGCN}
STREAMS = ("joint", "bone", "motion")


class SkeletonStreams(nn.Module):
    """One network for all streams (fusion "early"), or one for each whose log-probabilities are averaged ("late").

    `forward(keypoints, present, persons)` takes clips of the recipe "body" (`pose_clips.body`), (N, M, T, V, 2 X + 1),
    and the rest as `GraphNetwork` does. It returns tokens, feature and logits like that (those of several networks side
    by side; logits: the mean of their log-probabilities) and stream_logits (networks, N, L).

    Streams: "joint" are the joints with the score, "bone" each joint less the one that it hangs on, "motion" the change
    since the frame before, with the way of the whole body. With motion_dropout a network of several streams does not
    see the motion of some clips in training, so that it cannot learn few clips by heart from how the camera moved.
    """

    parents: Tensor

    def __init__(
        self,
        *,
        layout: str | Mapping[str, Json],
        num_classes: int,
        coordinates: int,
        network: str = "stgcn++",
        streams: Sequence[str] = STREAMS,
        fusion: str = "early",
        width: int = 16,
        blocks: int = 6,
        dropout: float = 0.1,
        head_dropout: float = 0.3,
        motion_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if network not in NETWORKS or not streams or not set(streams) <= set(STREAMS) or fusion not in FUSIONS:
            raise UsageError(
                f"a skeleton encoder of {network}, streams {list(streams)} and fusion {fusion!r}: known are "
                f"{', '.join(NETWORKS)}; {', '.join(STREAMS)}; {', '.join(FUSIONS)}."
            )
        self.coordinates, self.streams, self.fusion = coordinates, tuple(streams), fusion
        self.motion_dropout = motion_dropout if fusion == "early" and len(self.streams) > 1 else 0.0
        sizes = [coordinates + 1 if stream == "joint" else coordinates for stream in streams]
        known = layout_from(layout)
        parents = dict(known.bones)
        joints = range(len(known.joints))
        # A buffer, since a list would be copied to the device in every step.
        self.register_buffer("parents", torch.tensor([parents.get(each, each) for each in joints]), persistent=False)

        def made(channels: int) -> GraphNetwork:
            return NETWORKS[network](
                layout=layout,
                num_classes=num_classes,
                in_channels=channels,
                width=width,
                blocks=blocks,
                dropout=dropout,
                head_dropout=head_dropout,
            )

        networks = [made(size) for size in (sizes if fusion == "late" else [sum(sizes)])]
        self.networks = nn.ModuleList(networks)
        self.width = sum(each.width for each in networks)

    def split(self, keypoints: Tensor) -> list[Tensor]:
        """The input of each network, (N, M, T, V, channels)."""
        count = self.coordinates
        joints, score, way = keypoints[..., :count], keypoints[..., count : count + 1], keypoints[..., count + 1 :]
        places = joints + way
        moved = torch.zeros_like(places)
        moved[:, :, 1:] = places[:, :, 1:] - places[:, :, :-1]
        if self.training and self.motion_dropout:
            moved = moved * (torch.rand(len(moved), 1, 1, 1, 1, device=moved.device) >= self.motion_dropout)
        values = {
            "joint": torch.cat([joints, score], dim=-1),
            "bone": joints - joints[..., self.parents, :],
            "motion": moved,
        }
        chosen = [values[stream] for stream in self.streams]
        return chosen if self.fusion == "late" else [torch.cat(chosen, dim=-1)]

    def forward(self, keypoints: Tensor, present: Tensor, persons: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        streams = zip(self.networks, self.split(keypoints), strict=True)
        parts = [network(stream, present, persons) for network, stream in streams]
        logits = torch.stack([part["logits"] for part in parts])
        return {
            "tokens": torch.cat([part["tokens"] for part in parts], dim=-1),
            "feature": torch.cat([part["feature"] for part in parts], dim=-1),
            "logits": logits.log_softmax(dim=-1).mean(dim=0) if len(parts) > 1 else logits[0],
            "stream_logits": logits,
        }


FUSIONS = ("early", "late")
