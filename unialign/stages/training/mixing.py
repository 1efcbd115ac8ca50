"""Mixing the clips of a batch: mixup and cutmix, as functions of the batch's place in the run.

Legend: B clips, T frames, S side of the network's input.

Source: H. Zhang et al., mixup, ICLR 2018; S. Yun et al., CutMix, ICCV 2019. One share, one permutation and one box for
a whole batch, and each of the two with probability one half where both are on, as in X-CLIP (microsoft/VideoX).
"""

import numpy as np
import torch
from torch import Tensor

from unialign.stages.training.order import batch_generator
from unialign.stages.training.settings import TrainSettings

# X-CLIP's probability of cutmix where mixup is on too.
SWITCH = 0.5


def mixed_clips(
    frames: Tensor, settings: TrainSettings, place: tuple[int, int], rank: int
) -> tuple[Tensor, Tensor, float]:
    """Mixed frames (B, T, 3, S, S), the order (B,) of the clips that were mixed in, and the share of the clips' own.

    place: epoch and samples of the position behind the batch. Each process mixes its own clips. A loss of mixed clips
    is share * loss(own labels) + (1 - share) * loss(labels in that order), which for cross-entropy is that of mixed
    labels.
    """
    generator = batch_generator(settings.seed, *place, rank)
    order = torch.from_numpy(generator.permutation(len(frames)))
    cut = settings.cutmix > 0 and (settings.mixup == 0 or generator.random() < SWITCH)
    alpha = settings.cutmix if cut else settings.mixup
    share = float(generator.beta(alpha, alpha))
    others = frames[order.to(frames.device, non_blocking=True)]
    if not cut:
        return share * frames + (1 - share) * others, order, share
    top, bottom, left, right = _box(generator, frames.shape[-2], frames.shape[-1], share)
    mixed = frames.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    # The box is clipped to the image, and whole pixels wide.
    return mixed, order, 1 - (bottom - top) * (right - left) / (frames.shape[-2] * frames.shape[-1])


def _box(generator: np.random.Generator, height: int, width: int, share: float) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box of about 1 - share of the area, its center drawn from the whole image."""
    scale = (1 - share) ** 0.5
    half_height, half_width = int(height * scale) // 2, int(width * scale) // 2
    row, column = int(generator.integers(height)), int(generator.integers(width))
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    return top, bottom, left, right
