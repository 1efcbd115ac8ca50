"""Activation checkpointing: what the blocks of a transformer compute is not kept for the backward pass, but computed
again in it.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. Values and gradients stay the
same to the last bit where kernels are deterministic; random numbers (dropout) are drawn again from the same state.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from unialign.errors import UsageError


class Recomputing(nn.Module):
    """A network whose blocks can be computed again: each is called through `block`.

    Only what has no state may be: batch statistics would be counted twice.
    """

    recompute = False

    def recompute_blocks(self) -> None:
        """Switch it on."""
        self.recompute = True

    def block(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(*inputs)."""
        return checkpoint(function, *inputs, use_reentrant=False) if self.recompute else function(*inputs)


def recompute_activations(model: nn.Module) -> None:
    """Switch it on in all networks of a model. Raises `UsageError` if there is none."""
    networks = [module for module in model.modules() if isinstance(module, Recomputing)]
    if not networks:
        raise UsageError(
            "train.settings.activation_checkpointing is for transformers, and this model has none that is trained; "
            "set it to false."
        )
    for network in networks:
        network.recompute_blocks()
