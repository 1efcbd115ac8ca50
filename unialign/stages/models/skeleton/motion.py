"""Features of a skeleton without weights: where each joint is, and how far it moves.

Legend: N clips, M persons, T frames, V joints, X = 2 or 3 coordinates, T' tokens, D = 4 M V X.

Nothing is trained, so no class is known better than another: what recognizes unseen classes by their texts carries over
further from these than from joints in the order of frames (docs/systems/dvta.md, UTD-MHAD).
"""

import torch
from torch import Tensor, nn

from unialign.stages.skeleton_layouts import Layout

FRAMES_PER_TOKEN = 4


class MotionStatistics(nn.Module):
    """Mean, deviation, largest and smallest value over time of each coordinate of each joint.

    `forward(keypoints, present)` takes clips of the recipes "body", (N, M, T, V, 2 X + 1), and a bool mask (N, M). It
    returns feature (N, D), over the whole clip, and tokens (N, T', D), over every 4 frames (the last ones may overlap).
    A person who is absent is 0.
    """

    def __init__(self, *, layout: Layout, coordinates: int, num_persons: int) -> None:
        super().__init__()
        self.coordinates = coordinates
        self.width = 4 * num_persons * len(layout.joints) * coordinates

    def forward(self, keypoints: Tensor, present: Tensor) -> dict[str, Tensor]:
        """See the class."""
        joints = keypoints[..., : self.coordinates] * present[:, :, None, None, None]
        length = joints.shape[2]
        starts = [min(start, max(0, length - FRAMES_PER_TOKEN)) for start in range(0, length, FRAMES_PER_TOKEN)]
        tokens = [_statistics(joints[:, :, start : start + FRAMES_PER_TOKEN]) for start in starts]
        return {"tokens": torch.stack(tokens, dim=1), "feature": _statistics(joints)}


def _statistics(joints: Tensor) -> Tensor:
    """(N, M, T, V, X) -> (N, D)."""
    values = (joints.mean(dim=2), joints.std(dim=2, correction=0), joints.amax(dim=2), joints.amin(dim=2))
    return torch.stack(values, dim=1).flatten(1)
