"""Which of a pose network's raw predictions are persons: non-maximum suppression of a whole batch on its device.

Legend: B images, A anchors, K persons at most, D values of a person: box x1, y1, x2, y2, score, then its joints.

Every image takes the same steps on arrays of the same shapes, so the host is asked for nothing in between and one copy
brings back all persons: picking the best candidate and dropping those that overlap it, K times, is the usual greedy
suppression as far as anybody reads it. The arithmetic is that of torchvision's `nms` and of Ultralytics' boxes, so a
test compares the bits.
"""

import numpy as np
import torch
from torch import Tensor

# What keeps boxes of different classes apart: farther than any image is wide.
CLASS_OFFSET = 7680


def best_persons(
    found: Tensor, confidence: float, largest_overlap: float, most: int, num_classes: int = 1
) -> list[np.ndarray]:
    """The persons in each image, best first: B arrays (n, D) float32 with n up to `most`, K.

    found: raw predictions (B, 4 + num_classes + joints, A): box as middle and sides, a score for each class, joints.
    confidence: a person's score is above it. largest_overlap: intersection over union of two boxes above which only the
    better one counts.
    """
    return _rows(kept(found, confidence, largest_overlap, most, num_classes).cpu().numpy())


def kept(found: Tensor, confidence: float, largest_overlap: float, most: int, num_classes: int = 1) -> Tensor:
    """The same on the device of `found`: (B, K, D), with score 0 in the rows after the last person."""
    middle, half = found[:, :2], found[:, 2:4] / 2
    boxes = torch.cat([middle - half, middle + half], dim=1)  # (B, 4, A)
    scores, classes = found[:, 4 : 4 + num_classes].max(dim=1)
    # Also false for NaN.
    left = torch.where(scores > confidence, scores, 0)
    apart = boxes + (classes * CLASS_OFFSET)[:, None]
    areas = (apart[:, 2] - apart[:, 0]) * (apart[:, 3] - apart[:, 1])
    picked = []
    for _ in range(most):
        # The first one where several are the best.
        score, place = left.max(dim=1, keepdim=True)
        rows = place[:, None].expand(-1, found.shape[1], -1)
        joints = found.gather(2, rows)[:, 4 + num_classes :, 0]
        picked.append(torch.cat([boxes.gather(2, rows[:, :4])[..., 0], score, joints], dim=1))
        best = apart.gather(2, rows[:, :4])  # (B, 4, 1)
        width = (torch.minimum(best[:, 2], apart[:, 2]) - torch.maximum(best[:, 0], apart[:, 0])).clamp(min=0)
        height = (torch.minimum(best[:, 3], apart[:, 3]) - torch.maximum(best[:, 1], apart[:, 1])).clamp(min=0)
        shared = width * height
        overlap = shared / (areas.gather(1, place) + areas - shared)
        left = torch.where(overlap > largest_overlap, 0, left).scatter(1, place, 0)
    return torch.stack(picked, dim=1)


def first_persons(found: Tensor, confidence: float, most: int) -> list[np.ndarray]:
    """The same for a network that suppresses by itself: (B, n, box + score + class + joints), best first."""
    persons = found.float().cpu().numpy()
    return [np.delete(each[each[:, 4] > confidence][:most], 5, axis=1) for each in persons]


def _rows(persons: np.ndarray) -> list[np.ndarray]:
    return [each[each[:, 4] > 0] for each in persons]
