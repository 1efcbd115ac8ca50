"""One optimizer step, and the state that it changes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unialign.errors import UnialignError, UsageError
from unialign.stages.training.augmentation import network_frames
from unialign.stages.training.loader import RankBatch
from unialign.stages.training.processes import Processes
from unialign.stages.training.samples import Batch
from unialign.stages.training.settings import TrainSettings

Losses = Callable[[Any, Mapping[str, Tensor], Tensor], dict[str, Tensor]]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def same_rate(name: str) -> float:
    """1: every parameter uses the run's learning rate."""
    del name
    return 1.0


@dataclass(frozen=True)
class Task:
    """A model with its losses.

    model: a module from a dict of tensors to a dict of tensors with "logits" (B, L) in it. Its
        `update(outputs, labels)` is called once after each optimizer step: moving averages and the like.
    losses: (model, outputs, labels) to weighted scalars whose sum is minimized.
    mean, std: per color, what `frames` in [0, 1] are normalized with; not used where a batch holds none.
    rate: maps a parameter's name to its learning rate relative to that of the run.
    """

    model: nn.Module
    losses: Losses
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    rate: Callable[[str], float] = same_rate

    def inputs(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """The batch on a device: frames as normalized float32, views of a clip as separate clips."""
        moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        if "frames" in moved:
            frames = moved["frames"]
            if frames.ndim == 6 and "pose_tokens" in moved:
                moved["pose_tokens"] = moved["pose_tokens"].repeat_interleave(frames.shape[1], dim=0)
            drawn = moved.pop("levels", None), moved.pop("mirrored", None)
            moved["frames"] = network_frames(frames, self.mean, self.std, *drawn).flatten(0, -5)
        if "tokens" in moved:
            moved["tokens"] = moved["tokens"].flatten(0, -4)
        return moved


class _WithLosses(nn.Module):
    """Model and losses as one module, because only what happens inside `forward` is safe with DDP."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self.losses = task.losses

    def forward(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs and losses."""
        outputs = self.model(inputs)
        return outputs, self.losses(self.model, outputs, inputs["labels"])


class Stepper:
    """Model, optimizer and loss scaler of one process of a run.

    Each process has its own batch statistics; those of the first one are kept. Losses that compare the clips of a batch
    see only the clips of one process.
    """

    def __init__(self, task: Task, settings: TrainSettings, processes: Processes) -> None:
        self.task = task
        self.settings = settings
        self.processes = processes
        self.device = processes.device
        if settings.precision == "fp16" and self.device.type != "cuda":
            raise UsageError("train.settings.precision fp16 needs a GPU; take bf16 or fp32.")
        task.model.to(self.device)
        self.optimizer = build_optimizer(task.model, settings, task.rate)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self._whole: nn.Module = _WithLosses(task)
        if processes.world_size > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self._whole = DistributedDataParallel(self._whole, device_ids=devices)
        if settings.compile:
            self._whole.compile()

    def autocast(self) -> torch.autocast:
        """Mixed precision as configured in the settings."""
        half = HALF.get(self.settings.precision)
        return torch.autocast(self.device.type, dtype=half or torch.bfloat16, enabled=half is not None)

    def step(self, share: RankBatch, rate: float) -> dict[str, float]:
        """Train on one batch; returns the mean "loss", its terms, and the gradient's norm before clipping.

        rate: the current learning rate of the run; those of parameter groups are proportional to it.
        Raises `UnialignError` if loss or gradient is not finite; the model is unchanged in that case.
        """
        for group in self.optimizer.param_groups:
            # Older checkpoints have no factors.
            group["lr"] = rate * group.get("factor", 1.0)
        inputs = self.task.inputs(share.data, self.device)
        with self.autocast():
            outputs, losses = self._computed(inputs)
        total = torch.stack(list(losses.values())).sum()
        # DDP averages gradients over processes; with these weights, that is the mean over the clips of the batch.
        weight = share.count * self.processes.world_size / share.total
        values = torch.stack([total.detach(), *(value.detach() for value in losses.values())])
        means = (self.processes.total(values * weight) / self.processes.world_size).tolist()
        report = dict(zip(["loss", *losses], means, strict=True))
        if not math.isfinite(report["loss"]):
            terms = ", ".join(f"{name} {value:.4g}" for name, value in report.items())
            raise UnialignError(f"the loss is not finite ({terms}); {self._where(share)}")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(total * weight))
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.gradient_clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.task.model.parameters(), limit))
        # With fp16 an overflow is normal: the scaler skips the step and reduces its scale.
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise UnialignError(f"the gradient is not finite at a loss of {report['loss']:.4g}; {self._where(share)}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._update(outputs, inputs["labels"], share.count)
        return {**report, "gradient_norm": norm}

    def _computed(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if not self.settings.compile:
            return self._whole(inputs)  # type: ignore[no-any-return]
        from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

        try:
            return self._whole(inputs)  # type: ignore[no-any-return]
        except TorchDynamoException as error:
            reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2] if line.strip())
            raise UnialignError(
                f"torch.compile does not work here ({reason}); set train.settings.compile to false, or install what it "
                "lacks (a C++ compiler, and Triton for a GPU)."
            ) from error

    def _where(self, share: RankBatch) -> str:
        return (
            f"stopped before the optimizer step of epoch {share.after.epoch}, batch {share.batch} "
            f"(learning rate {self.optimizer.param_groups[0]['lr']:.4g}); lower train.settings.lr or look at it."
        )

    def _update(self, outputs: dict[str, Tensor], labels: Tensor, count: int) -> None:
        if not count:
            outputs = {name: value[:0] if value.shape[:1] == labels.shape else value for name, value in outputs.items()}
            labels = labels[:0]
        self.task.model.update(outputs, labels)  # type: ignore[operator]

    def state(self) -> dict[str, Any]:
        """Its part of a checkpoint."""
        return {
            "model": self.task.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])


def build_optimizer(
    model: nn.Module, settings: TrainSettings, rate: Callable[[str], float] = same_rate
) -> torch.optim.Optimizer:
    """The optimizer of the settings; parameters with fewer than two axes have no weight decay.

    rate: maps a parameter's name to its learning-rate factor, stored as "factor" of its group. The groups with factor 1
    come first, so the rate of the first group is that of the run.
    """
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault((rate(name), parameter.ndim < 2), []).append(parameter)
    groups = [
        {"params": members[factor, flat], "weight_decay": 0.0 if flat else settings.weight_decay, "factor": factor}
        for factor, flat in sorted(members, key=lambda kind: (kind[0] != 1.0, *kind))
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.lr)
