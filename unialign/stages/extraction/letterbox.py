"""Frames as a pose network gets them: resized and centered on gray, by Pillow or, with the same bytes, on a device.

Legend: B frames, H, W their sides, S the longer side of the network's image, K taps of a resized pixel.

Source: the resizing is that of Pillow (`Image.resize`, bilinear, with the support scaled when shrinking): weights in
22-bit fixed point, along rows and along columns, rounded to 8 bits after each. Written anew with integers of
tensors, so that the sums are exact on every device.
"""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# The gray with which Ultralytics pads images in training.
PADDING = 114
# Bits behind the point of Pillow's weights.
PRECISION = 22


def canvas_sides(height: int, width: int, side: int, stride: int = 0) -> tuple[int, int]:
    """(height, width) of the network's image for a frame: a square, or with a stride the smallest rectangle around the
    resized frame whose sides are multiples of it.
    """
    if not stride:
        return side, side
    new_height, new_width = resized_sides(height, width, side)
    return -(-new_height // stride) * stride, -(-new_width // stride) * stride


def resized_sides(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) of a frame resized so that its longer side is `side`."""
    longest = max(height, width)
    new_height, new_width = (max(1, (2 * edge * side + longest) // (2 * longest)) for edge in (height, width))
    return new_height, new_width


def placement(height: int, width: int, side: int, stride: int = 0) -> tuple[int, int, int, int]:
    """Where a frame lies in the network's image: (top, left, height, width)."""
    new_height, new_width = resized_sides(height, width, side)
    canvas_height, canvas_width = canvas_sides(height, width, side, stride)
    return (canvas_height - new_height) // 2, (canvas_width - new_width) // 2, new_height, new_width


def letterbox(image: np.ndarray, side: int, stride: int = 0) -> np.ndarray:
    """A frame (H, W, 3) resized and centered on gray: uint8, with the sides of `canvas_sides`."""
    sides = image.shape[0], image.shape[1]
    top, left, height, width = placement(*sides, side, stride)
    canvas = np.full((*canvas_sides(*sides, side, stride), 3), PADDING, dtype=np.uint8)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    canvas[top : top + height, left : left + width] = np.asarray(resized)
    return canvas


def letterbox_into(canvas: Tensor, frames: Tensor) -> None:
    """The same for frames (B, H, W, 3) uint8 of one size, put into `canvas` (B, *`canvas_sides`, 3) on their device."""
    height, width = resized_sides(frames.shape[1], frames.shape[2], max(canvas.shape[1:3]))
    top, left = (canvas.shape[1] - height) // 2, (canvas.shape[2] - width) // 2
    canvas.fill_(PADDING)
    canvas[:, top : top + height, left : left + width] = resized(frames, height, width)


def resized(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames (B, H, W, 3) uint8 as Pillow resizes them: (B, height, width, 3) uint8."""
    axes = _axes(frames.shape[1], frames.shape[2], height, width)
    if axes is None:
        images = [Image.fromarray(each) for each in frames.cpu().numpy()]
        made = [np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for image in images]
        return torch.from_numpy(np.stack(made)).to(frames.device)
    for axis, length in axes:
        frames = _along(frames, axis, length)
    return frames


@lru_cache(maxsize=64)
def _axes(old_height: int, old_width: int, height: int, width: int) -> tuple[tuple[int, int], ...] | None:
    """The axes of (B, H, W, 3) to resize, first one first, each with its new length; None if Pillow does another thing.

    Which of the two comes first differs among sizes and versions of Pillow, so it is asked to resize noise.
    """
    noise = np.random.default_rng(0).integers(0, 256, (old_height, old_width, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR))
    needed = [(axis, new) for axis, old, new in ((2, old_width, width), (1, old_height, height)) if old != new]
    for axes in (tuple(needed), tuple(reversed(needed))):
        made = torch.from_numpy(noise)[None]
        for axis, length in axes:
            made = _along(made, axis, length)
        if np.array_equal(made[0].numpy(), wanted):
            return axes
    return None


def _along(frames: Tensor, axis: int, length: int) -> Tensor:
    places, weights = (table.to(frames.device) for table in _taps(frames.shape[axis], length))
    shape = [1] * frames.ndim
    shape[axis] = length
    total = torch.full((), 1 << (PRECISION - 1), dtype=torch.int32, device=frames.device)
    for place, weight in zip(places, weights, strict=True):
        total = total + frames.index_select(axis, place).to(torch.int32) * weight.view(shape)
    return (total >> PRECISION).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _taps(old: int, new: int) -> tuple[Tensor, Tensor]:
    """For each tap of a resized edge, which old pixels (K, new) int64, and their weights (K, new) int32."""
    scale = old / new
    support = max(scale, 1.0)
    middle = (np.arange(new) + 0.5) * scale
    first = np.maximum((middle - support + 0.5).astype(np.int64), 0)
    last = np.minimum((middle + support + 0.5).astype(np.int64), old)
    places = first + np.arange(int((last - first).max()))[:, None]
    weights = np.maximum(1 - np.abs((places - middle + 0.5) * (1 / support)), 0)
    weights[places >= last] = 0
    total = np.zeros(new)
    for row in weights:  # one after the other, since the sum rounds
        total += row
    fixed = (weights / total * (1 << PRECISION) + 0.5).astype(np.int32)
    return torch.from_numpy(np.minimum(places, old - 1)), torch.from_numpy(fixed)
