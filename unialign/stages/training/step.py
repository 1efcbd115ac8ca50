"""One optimizer step, and the state that it changes.

A step takes `accumulate` batches. Nothing in it waits for the device: whether losses and gradients are finite is
decided there, and values are fetched by whoever wants them, for many steps at once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unialign.errors import UnialignError, UsageError
from unialign.stages.device import resolve_precision
from unialign.stages.models.recompute import recompute_activations
from unialign.stages.training.augmentation import network_frames
from unialign.stages.training.average import WeightAverage
from unialign.stages.training.loader import RankBatch
from unialign.stages.training.mixing import mixed_clips
from unialign.stages.training.processes import Processes
from unialign.stages.training.samples import Batch
from unialign.stages.training.settings import TrainSettings

Losses = Callable[[Any, Mapping[str, Tensor], Tensor], dict[str, Tensor]]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
# In a step's report: the share of its clips, augmented and with dropout, that the model got right.
TRAIN_TOP1 = "train_top1"
UNWEIGHTED = ("gradient_norm", TRAIN_TOP1)  # what of a report is no term of the loss


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
    apart: beginnings of the names of parameters whose gradient is clipped by a norm of its own.
    """

    model: nn.Module
    losses: Losses
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    rate: Callable[[str], float] = same_rate
    apart: tuple[str, ...] = ()

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
            if "pose_tokens" in moved:
                moved["pose_tokens"] = moved["pose_tokens"].flatten(0, -3)
        return moved


class _WithLosses(nn.Module):
    """Model and losses as one module, because only what happens inside `forward` is safe with DDP."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self.losses = task.losses

    def forward(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs and losses; of mixed clips (see `mixing`) the losses of both labels, by their shares."""
        outputs = self.model(inputs)
        losses = self.losses(self.model, outputs, inputs["labels"])
        if "mixed_labels" in inputs:
            others, share = self.losses(self.model, outputs, inputs["mixed_labels"]), inputs["own_share"]
            losses = {name: share * value + (1 - share) * others[name] for name, value in losses.items()}
        return outputs, losses


@dataclass(frozen=True)
class Report:
    """What one optimizer step computed, still on the device: fetching a value there would make the host wait.

    values: (A,) means over the clips of the step by `names`: "loss", its terms, `TRAIN_TOP1` where the model has logits
    in training, and "gradient_norm" before clipping.
    """

    names: tuple[str, ...]
    values: Tensor


def fetched(reports: Sequence[Report]) -> list[dict[str, float]]:
    """The values of some reports of one run by name, with a single transfer from the device."""
    rows = torch.stack([report.values for report in reports]).tolist() if reports else []
    return [dict(zip(report.names, row, strict=True)) for report, row in zip(reports, rows, strict=True)]


class Stepper:
    """Model, optimizer and loss scaler of one process of a run.

    Each process has its own batch statistics (unless `sync_batch_norm`); those of the first one are kept. Losses that
    compare the clips of a batch see only the clips of one process.
    """

    def __init__(self, task: Task, settings: TrainSettings, processes: Processes) -> None:
        self.task = task
        self.settings = settings
        self.processes = processes
        self.device = processes.device
        self.precision = resolve_precision(settings.precision, self.device)
        if self.precision == "fp16" and self.device.type != "cuda":
            raise UsageError("train.settings.precision fp16 needs a GPU; take bf16 or fp32.")
        if settings.activation_checkpointing:
            recompute_activations(task.model)
        if settings.sync_batch_norm and processes.world_size > 1:
            if self.device.type != "cuda":
                raise UsageError("train.settings.sync_batch_norm needs GPUs; set it to false.")
            nn.SyncBatchNorm.convert_sync_batchnorm(task.model)  # type: ignore[no-untyped-call]
        task.model.to(self.device)
        self.optimizer = build_optimizer(task.model, settings, task.rate)
        self._clipped = _clipped_together(task)
        self.average = WeightAverage(task.model, settings.average)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self._whole: nn.Module = _WithLosses(task)
        if processes.world_size > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self._whole = DistributedDataParallel(self._whole, device_ids=devices)
        if settings.compile:
            self._whole.compile()
        # Of the optimizer step in progress: sums of loss and terms, and what `update` of the model gets.
        self._sums: Tensor | None = None
        self._batches: list[tuple[dict[str, Tensor], Tensor]] = []
        # Whether a loss or gradient was not finite. From then on no step changes the weights.
        self._failed = torch.zeros((), dtype=torch.bool, device=self.device)

    def autocast(self) -> torch.autocast:
        """Mixed precision as configured in the settings."""
        half = HALF.get(self.precision)
        return torch.autocast(self.device.type, dtype=half or torch.bfloat16, enabled=half is not None)

    def step(self, share: RankBatch, rate: float) -> Report | None:
        """Train on one batch; returns what its optimizer step computed, None unless the batch ends one.

        rate: the current learning rate of the run; those of parameter groups are proportional to it.
        The host waits for nothing here. A step whose loss or gradient is not finite, and all steps after it, leave the
        weights unchanged, whenever somebody notices in the reports (see `not_finite`).
        """
        if self._sums is None:
            for group in self.optimizer.param_groups:
                # Older checkpoints have no factors.
                group["lr"] = rate * group.get("factor", 1.0)
            self.optimizer.zero_grad(set_to_none=True)
        inputs = self.task.inputs(share.data, self.device)
        if self.settings.mixup or self.settings.cutmix:
            inputs |= self._mixed(inputs, share)
        with self._gradients_stay(not share.ends_step):
            with self.autocast():
                outputs, losses = self._computed(inputs)
            total = torch.stack(list(losses.values())).sum()
            # DDP averages gradients over processes; with these weights, that is the mean over the clips of the step.
            weight = share.count * self.processes.world_size / share.step_total
            # A loss that is not finite need not have such a gradient; so it gets one.
            start = torch.where(total.detach().isfinite() & ~self._failed, 1.0, math.nan).to(total.dtype)
            torch.autograd.backward(self.scaler.scale(total * weight), start)
        shown = {name: value.detach() for name, value in losses.items()}
        if (logits := outputs.get("logits")) is not None:
            shown[TRAIN_TOP1] = (logits.detach().argmax(dim=-1) == inputs["labels"]).to(total.dtype).mean()
        values = torch.stack([total.detach(), *shown.values()]) * weight
        self._sums = values if self._sums is None else self._sums + values
        self._batches.append(_counted(outputs, inputs["labels"], share.count))
        return self._stepped(("loss", *shown)) if share.ends_step else None

    def _mixed(self, inputs: Mapping[str, Tensor], share: RankBatch) -> dict[str, Tensor]:
        place = share.after.epoch, share.after.samples
        frames, order, own = mixed_clips(inputs["frames"], self.settings, place, self.processes.rank)
        return {
            "frames": frames,
            "mixed_labels": inputs["labels"][order.to(self.device, non_blocking=True)],
            "own_share": torch.full((), own, device=self.device),
        }

    def _stepped(self, names: tuple[str, ...]) -> Report:
        """Move the weights by the gradients of the batches so far."""
        assert self._sums is not None
        means = self.processes.total(self._sums) / self.processes.world_size
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.gradient_clip or math.inf
        norms = [nn.utils.clip_grad_norm_(parameters, limit).detach() for parameters in self._clipped]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        if self.scaler.is_enabled():
            # An overflow of the gradient is normal: the scaler skips the step and reduces its scale.
            self._failed |= ~means[0].isfinite()
        else:
            self._failed |= ~norm.isfinite()
            # Fused optimizers look at this on the device, as they do for a loss scaler.
            self.optimizer.found_inf = self._failed.float()  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.task.model.update(*_joined(self._batches))  # type: ignore[operator]
        self.average.move()
        self._sums = None
        self._batches.clear()
        return Report((*names, "gradient_norm"), torch.cat([means, norm.to(means)[None]]))

    def not_finite(self, values: Mapping[str, float]) -> str:
        """What of a fetched report must stop the run, as the beginning of a sentence; "" if nothing."""
        if not math.isfinite(values["loss"]):
            terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in UNWEIGHTED)
            return f"the loss is not finite ({terms})"
        if not math.isfinite(values["gradient_norm"]) and not self.scaler.is_enabled():
            return f"the gradient is not finite at a loss of {values['loss']:.4g}"
        return ""

    def _gradients_stay(self, here: bool) -> AbstractContextManager[object]:
        """Gradients are exchanged between processes once for each optimizer step, with its last batch."""
        return self._whole.no_sync() if here and isinstance(self._whole, DistributedDataParallel) else nullcontext()

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

    def state(self) -> dict[str, Any]:
        """Its part of a checkpoint."""
        return {
            "model": self.task.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **self.average.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.task.model.load_state_dict(state["model"])
        # Checkpoints may be of another kind of kernel: before optimizers were fused.
        groups = [{**group, "fused": True, "foreach": None} for group in state["optimizer"]["param_groups"]]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if "average" in state:
            self.average.load(state["average"], state["averaged_steps"])


def _clipped_together(task: Task) -> list[list[nn.Parameter]]:
    """The parameters whose gradients share a norm: those of `Task.apart`, and all others."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in task.model.named_parameters():
        groups[name.startswith(task.apart) if task.apart else False].append(parameter)
    return [parameters for parameters in groups.values() if parameters]


def build_optimizer(
    model: nn.Module, settings: TrainSettings, rate: Callable[[str], float] = same_rate
) -> torch.optim.Optimizer:
    """The optimizer of the settings, fused; parameters with fewer than two axes have no weight decay.

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
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    optimizer = torch.optim.SGD(
        groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=True
    )
    if settings.momentum:
        # The fused kernel writes its momentum in its first step, and reads what memory held if that one was skipped.
        for parameter in (each for some in members.values() for each in some):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _counted(outputs: dict[str, Tensor], labels: Tensor, count: int) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs and labels of a batch without gradients; without rows if the batch does not count."""
    if not count:
        outputs = {name: value[:0] if value.shape[:1] == labels.shape else value for name, value in outputs.items()}
        labels = labels[:0]
    return {name: value.detach() for name, value in outputs.items()}, labels


def _joined(batches: Sequence[tuple[dict[str, Tensor], Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs and labels of the batches of a step as those of one batch; outputs without a row a clip: the last."""
    if len(batches) == 1:
        return batches[0]
    outputs, labels = batches[-1]
    rows = [name for name, value in outputs.items() if value.shape[:1] == labels.shape]
    return (
        {**outputs, **{name: torch.cat([each[name] for each, _ in batches]) for name in rows}},
        torch.cat([each for _, each in batches]),
    )
