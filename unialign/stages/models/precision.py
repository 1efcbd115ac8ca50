"""Where half precision stops: similarities, softmaxes and losses lose too much in it."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """No mixed precision inside, on the device of a tensor; the "meta" device knows none."""
    device = like.device.type
    return nullcontext() if device == "meta" else torch.autocast(device_type=device, enabled=False)
