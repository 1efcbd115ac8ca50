"""What a forward costs: multiply-adds and parameters.

Papers of action recognition print multiply-adds as "GFLOPs" (a ViT-B/16 at 224 x 224 has 17.6 of them): one
multiplication with its addition counts once. Counted are matrix products, convolutions and attention, not sums,
norms, softmaxes or lookups.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one forward, and numbers: all parameters, the trained ones, floating-point buffers."""

    multiply_adds: int
    parameters: int
    trained: int
    buffers: int


def cost(module: nn.Module, *inputs: Any) -> Cost:
    """What `module(*inputs)` costs, in the mode (training or not) that the module is in.

    Module and inputs may be on torch's "meta" device; then nothing is computed and no memory is taken.
    """
    parameters = list(module.parameters())
    return Cost(
        multiply_adds=multiply_adds(module, *inputs),
        parameters=sum(each.numel() for each in parameters),
        trained=sum(each.numel() for each in parameters if each.requires_grad),
        buffers=sum(each.numel() for each in module.buffers() if each.is_floating_point()),
    )


def multiply_adds(module: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of `module(*inputs)`, all inputs of a batch together."""
    with _countable(), _untrained(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    # The counter calls a multiplication with its addition two operations.
    return int(counter.get_total_flops()) // 2


@contextmanager
def _untrained(module: nn.Module) -> Iterator[None]:
    """No parameter wants a gradient: the counter watches inputs that do, and fails for views of a parameter."""
    trained = [each for each in module.parameters() if each.requires_grad]
    for each in trained:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in trained:
            each.requires_grad_(True)


@contextmanager
def _countable() -> Iterator[None]:
    """Attention as plain matrix products: some of the fused kernels are unknown to the counter and count as nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
