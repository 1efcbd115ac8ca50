"""What happens to the pictures of a clip before the network sees them, as functions of their arguments only.

Legend: T frames of a clip, H W height and width of stored pictures, S side of the network's input.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor


@dataclass(frozen=True)
class Region:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def sparse_frames(num_kept: int, num_frames: int, places: np.ndarray | float) -> np.ndarray:
    """Indices (num_frames,) of frames in [0, num_kept): one from each of `num_frames` equal segments.

    places: where in its segment each frame lies, in [0, 1); 0.5 is the middle. A clip with fewer frames repeats some.

    Source: TSN (Wang et al., "Temporal Segment Networks", ECCV 2016), sparse sampling.
    """
    if num_kept < 1:
        raise ValueError("a clip without frames cannot be sampled")
    indices = np.floor((np.arange(num_frames) + places) * num_kept / num_frames).astype(np.int64)
    return np.minimum(indices, num_kept - 1)


def random_region(
    generator: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Region:
    """A rectangle inside a picture of `size` (height, width).

    Its area is a share in `scale` of the largest square's area and its width over height lies in `ratio`; both are
    drawn evenly (the ratio's logarithm), and sides longer than the picture's are cut to it. The square, not the whole
    picture, is the measure, so that a wide picture does not squeeze the person.
    """
    height, width = size
    area = generator.uniform(*scale) * min(height, width) ** 2
    shape = float(np.exp(generator.uniform(*np.log(ratio))))
    wanted_width = min(width, max(1, round((area * shape) ** 0.5)))
    wanted_height = min(height, max(1, round((area / shape) ** 0.5)))
    top = int(generator.integers(0, height - wanted_height + 1))
    left = int(generator.integers(0, width - wanted_width + 1))
    return Region(top, left, wanted_height, wanted_width)


def fixed_regions(size: tuple[int, int], num_crops: int) -> list[Region]:
    """Squares as large as the picture allows: the middle one, or three along the longer side from start to end."""
    height, width = size
    side = min(height, width)
    shares = (0.5,) if num_crops == 1 else (0.0, 0.5, 1.0)
    return [Region(round((height - side) * share), round((width - side) * share), side, side) for share in shares]


def resized(pictures: np.ndarray, region: Region, image_size: int) -> Tensor:
    """The region of pictures (T, H, W, 3) as (T, 3, S, S), uint8, antialiased."""
    part = pictures[:, region.top : region.top + region.height, region.left : region.left + region.width]
    # As a view of (T, H, W, 3) this is torch's channels-last order, which its resampling is fastest with.
    images = torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2)
    return functional.interpolate(images, size=(image_size, image_size), mode="bilinear", antialias=True)


def recoloured(images: Tensor, generator: np.random.Generator, strength: float) -> Tensor:
    """Brightness and contrast of uint8 images changed by factors in 1 - strength to 1 + strength, one pair a clip."""
    brightness, contrast = 1 + generator.uniform(-strength, strength, size=2)
    # A sum of integers: the same for any number of threads.
    grey = int(images.sum(dtype=torch.int64)) / images.numel()
    values = (np.arange(256) - grey) * contrast + grey * brightness
    table = torch.from_numpy(np.clip(np.round(values), 0, 255).astype(np.uint8))
    return table[images.long()]
