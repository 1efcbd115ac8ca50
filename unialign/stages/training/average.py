"""A moving average of a model's weights, which is evaluated and kept in their place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of what the weights were after each optimizer step; nothing before the first one.

    decay: share of the average that a step leaves. The first ones leave less, or the random weights of the start would
    stay in it for 1 / (1 - decay) steps. Batch statistics are averaged too; whole numbers are those of the model.
    Source of the first steps' share, (1 + n) / (10 + n): `num_updates` of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values: dict[str, Tensor] = {}
        self.steps = 0

    @torch.no_grad()
    def move(self) -> None:
        """Take the weights after an optimizer step into the average."""
        if not self.decay:
            return
        now = self._weights()
        if not self.steps:
            self.values = {name: value.clone() for name, value in now.items()}
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.values.values()), [now[name] for name in self.values], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For as long as this is open the model has the average as its weights."""
        kept = {name: value.clone() for name, value in self._weights().items()} if self.values else {}
        try:
            self.put()
            yield
        finally:
            self._copy(kept)

    def put(self) -> None:
        """Give the model the average as its weights for good, at the end of its training."""
        self._copy(self.values)

    def state(self) -> dict[str, object]:
        """Its part of a checkpoint; {} before the first step."""
        return {"average": self.values, "averaged_steps": self.steps} if self.values else {}

    def load(self, values: Mapping[str, Tensor], steps: int) -> None:
        """Continue from a checkpoint."""
        now = self._weights()
        self.values = {name: value.to(now[name], copy=True) for name, value in values.items()}
        self.steps = steps

    def _weights(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.model.state_dict().items() if value.dtype.is_floating_point}

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        now = self._weights()
        for name, value in values.items():
            now[name].copy_(value)
