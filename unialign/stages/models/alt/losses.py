"""The loss of ALT."""

from collections.abc import Mapping

import torch.nn.functional as functional
from torch import Tensor

from unialign.stages.models.precision import full_precision


def alt_losses(model: object, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """`classification`: cross-entropy over all classes, a float32 scalar. labels (B,).

    Source: ALT, equation 10 (Chen et al., CVPR 2024). The logits hold the temperature, where there is one.
    """
    del model  # all weights of the loss are 1
    with full_precision(labels):
        return {"classification": functional.cross_entropy(outputs["logits"].float(), labels)}
