"""Augmentation of the images of a clip before the network reads them, as functions of their arguments only.

Legend: T frames of a clip, H W height and width of stored images, S side of the network's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

# Sides of MultiScaleCrop over the short side of the image.
SCALES = (1.0, 0.875, 0.75, 0.66)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_PIXELS = 1 << 18


@dataclass(frozen=True)
class Region:
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def sparse_frames(num_kept: int, num_frames: int, places: np.ndarray | float) -> np.ndarray:
    """Indices (num_frames,) of frames in [0, num_kept): one from each of `num_frames` equal segments.

    places: the position of each frame in its segment, in [0, 1); 0.5 is the middle. Shorter clips repeat frames.

    Source: TSN (Wang et al., "Temporal Segment Networks", ECCV 2016), sparse sampling.
    """
    if num_kept < 1:
        raise ValueError("a clip without frames cannot be sampled")
    indices = np.floor((np.arange(num_frames) + places) * num_kept / num_frames).astype(np.int64)
    return np.minimum(indices, num_kept - 1)


def random_region(
    generator: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Region:
    """A rectangle inside an image of `size` (height, width).

    Its area is a fraction in `scale` of the largest square's area and its width over height is in `ratio`; both are
    drawn uniformly (the ratio's logarithm), and sides longer than the image's are clipped to it. The square is the
    reference, not the whole image, so that a wide image does not squeeze the person.
    """
    height, width = size
    area = generator.uniform(*scale) * min(height, width) ** 2
    shape = float(np.exp(generator.uniform(*np.log(ratio))))
    wanted_width = min(width, max(1, round((area * shape) ** 0.5)))
    wanted_height = min(height, max(1, round((area / shape) ** 0.5)))
    top = int(generator.integers(0, height - wanted_height + 1))
    left = int(generator.integers(0, width - wanted_width + 1))
    return Region(top, left, wanted_height, wanted_width)


def multiscale_region(generator: np.random.Generator, size: tuple[int, int]) -> Region:
    """A rectangle in a corner or the center of an image of `size` (height, width).

    Its sides are the short side times one of `SCALES` each, at most one step apart; every pair of sides and every place
    is as likely. Source: MultiScaleCrop of TSN (Wang et al., ECCV 2016), as X-CLIP uses it (microsoft/VideoX).
    """
    height, width = size
    sides = [max(1, int(min(height, width) * scale)) for scale in SCALES]
    pairs = [(one, other) for at, one in enumerate(sides) for other in sides[max(0, at - 1) : at + 2]]
    tall, wide = pairs[int(generator.integers(len(pairs)))]
    down, right = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))[int(generator.integers(5))]
    return Region((height - tall) * down // 2, (width - wide) * right // 2, tall, wide)


def fixed_regions(size: tuple[int, int], num_crops: int, share: float = 1.0) -> list[Region]:
    """Squares of a share of the short side: the center one, or three along the longer side from start to end."""
    height, width = size
    side = max(1, round(min(height, width) * share))
    places = [(0.5, 0.5)] if num_crops == 1 else [(at, 0.5) if height > width else (0.5, at) for at in (0.0, 0.5, 1.0)]
    return [Region(round((height - side) * down), round((width - side) * right), side, side) for down, right in places]


def resized(pictures: np.ndarray, region: Region, image_size: int, out: np.ndarray | None = None) -> Tensor:
    """The region of images (T, H, W, 3) as (T, 3, S, S), uint8, antialiased.

    out: memory (T, S, S, 3) uint8 for the result, which is a view of it.
    """
    part = pictures[:, region.top : region.top + region.height, region.left : region.left + region.width]
    if out is None:
        out = np.empty((len(pictures), image_size, image_size, 3), dtype=np.uint8)
    # As views of (T, H, W, 3) these are in torch's channels-last format, which its resampling handles fastest.
    images, target = (torch.from_numpy(each).permute(0, 3, 1, 2) for each in (part, out))
    # What `functional.interpolate` calls with these arguments, except that it has no parameter for an output buffer.
    torch.ops.aten._upsample_bilinear2d_aa.out(images, [image_size, image_size], False, None, None, out=target)
    return target


def saturate(images: np.ndarray, factor: float) -> None:
    """Move images (..., 3) uint8 in place from their gray (factor 0) through themselves (1) to stronger colors.

    Gray is the luma of BT.601.
    """
    flat = images.reshape(-1, 3)
    for start in range(0, len(flat), _PIXELS):
        part = flat[start : start + _PIXELS].astype(np.float32)
        grey = (part @ LUMA)[:, None]
        flat[start : start + _PIXELS] = np.clip(np.round(grey + factor * (part - grey)), 0, 255).astype(np.uint8)


def turn_hue(images: np.ndarray, turn: float) -> None:
    """Turn the hue of images (..., 3) uint8 in place, by a share of the color circle (HSV); value and saturation stay.

    Source: A. R. Smith, "Color Gamut Transform Pairs", SIGGRAPH 1978.
    """
    flat = images.reshape(-1, 3)
    for start in range(0, len(flat), _PIXELS):
        part = flat[start : start + _PIXELS].astype(np.float32)
        red, green, blue = part.T
        most, least = part.max(axis=1), part.min(axis=1)
        span = most - least
        wide = np.maximum(span, 1)
        # In sixths of the circle, from red.
        sixth = np.where(
            most == red,
            (green - blue) / wide,
            np.where(most == green, (blue - red) / wide + 2, (red - green) / wide + 4),
        )
        for channel, shift in enumerate((5, 3, 1)):
            place = (sixth + 6 * turn + shift) % 6
            value = most - span * np.clip(np.minimum(place, 4 - place), 0, 1)
            flat[start : start + _PIXELS, channel] = np.round(value).astype(np.uint8)


def recoloured_levels(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The new value of each of the 256 levels of a clip's images, (256,) uint8.

    images: (T, S, S, 3) uint8, contiguous. factors: of brightness and of contrast, (2,).
    """
    # Imports a compiler, which a command that only finds a finished run does not need.
    from unialign.stages.training.byte_sums import byte_sum

    return levels_around(byte_sum(images.reshape(-1)) / images.size, factors)


def levels_around(grey: float, factors: np.ndarray) -> np.ndarray:
    """`recoloured_levels` of images whose mean is `grey`."""
    brightness, contrast = factors
    values = (np.arange(256) - grey) * contrast + grey * brightness
    return np.asarray(np.clip(np.round(values), 0, 255), dtype=np.uint8)


def network_frames(
    frames: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    levels: Tensor | None = None,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Frames (B, ..., 3, S, S) uint8 as the network reads them: recolored, normalized and mirrored, float32.

    mean, std: per color, of values in [0, 1]. levels: (B, 256) uint8, the new value of each level of a clip. mirrored:
    (B,) bool. Each level maps to a single value, so it is looked up in a table computed on the CPU: the result is
    identical to the last bit on every device. In memory the colors of a pixel lie side by side (channels-last), as in
    the stored images and in the fastest convolutions.
    """
    table = _normalized_levels(tuple(mean), tuple(std), frames.device)
    tables = table.expand(len(frames), 3, 256) if levels is None else table[:, levels.int()].transpose(0, 1)
    tables, clips = tables.reshape(len(frames), -1), frames.movedim(-3, -1)  # (B, 768), (B, ..., S, S, 3)
    found = torch.empty(clips.shape, dtype=torch.float32, device=frames.device)
    first = torch.arange(0, 768, 256, dtype=torch.int32, device=frames.device)
    # Clip by clip, since the places in the table take four times the memory of the clip.
    for number, clip in enumerate(clips):
        if mirrored is not None:
            clip = torch.where(mirrored[number], clip.flip(-2), clip)
        torch.index_select(tables[number], 0, (clip + first).flatten(), out=found[number].view(-1))
    return found.movedim(-1, -3)


@cache
def _normalized_levels(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """What the 256 levels of each color become, (3, 256); kept, since copying it to a GPU would make the host wait."""
    # Evaluation may be the first to ask, and what it makes in inference mode is of no use to training.
    with torch.inference_mode(False):
        values = torch.arange(256, dtype=torch.float32).expand(3, 256) / 255
        return ((values - torch.tensor(mean).view(3, 1)) / torch.tensor(std).view(3, 1)).to(device)
