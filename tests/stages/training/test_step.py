"""Contract of one optimizer step: exact over its batches, and nothing in it waits for the device."""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.pipeline.made_training import Linear, Points
from unialign.errors import UsageError
from unialign.pipeline.training.train import with_precision
from unialign.stages.device import resolve_precision
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.processes import Processes
from unialign.stages.training.settings import TrainSettings, settings_from
from unialign.stages.training.step import Stepper, Task, build_optimizer, fetched

ALONE = Processes(0, 1, torch.device("cpu"))
SETTINGS = TrainSettings(batch_size=12, lr=0.5, device="cpu")


def mean_loss(model: nn.Module, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    return {"all": cross_entropy(outputs["logits"], labels)}


class Recording(Linear):
    """Keeps what `update` was called with."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        self.seen: list[tuple[list[int], Tensor]] = []

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        super().update(outputs, labels)
        self.seen.append((labels.tolist(), outputs["logits"]))


def trained(**values: Any) -> tuple[Recording, list[dict[str, float]], list[tuple[int, bool]]]:
    """Two epochs over eleven points; the values of each step, and step_total and ends_step of each batch."""
    torch.manual_seed(0)
    model, settings = Recording(), settings_from(values, SETTINGS)
    stepper, loader = Stepper(Task(model, mean_loss), settings, ALONE), Loader(Points(), settings)
    reports, shares = [], []
    for epoch in range(2):
        for share in loader.epoch(Position(epoch)):
            shares.append((share.step_total, share.ends_step))
            report = stepper.step(share, 0.5)
            assert (report is not None) == share.ends_step
            reports += [report] if report else []
    return model, fetched(reports), shares


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_batches_are_one_batch_of_their_size(optimizer: str) -> None:
    """Batches of 2, 2, 2, then 2, 2, 1: a step's mean is over its clips, not over its batches."""
    parts, found, shares = trained(optimizer=optimizer, batch_size=2, accumulate=3)
    whole, expected, _ = trained(optimizer=optimizer, batch_size=6)
    assert shares[:6] == [(6, False), (6, False), (6, True), (5, False), (5, False), (5, True)]
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    torch.testing.assert_close(parts.weight, whole.weight)
    # The moving averages of a model see all clips of the step, once.
    assert [labels for labels, _ in parts.seen] == [labels for labels, _ in whole.seen]
    for (_, ours), (_, theirs) in zip(parts.seen, whole.seen, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_that_was_skipped_leaves_no_trace_in_the_optimizer(optimizer: str) -> None:
    """As a loss scaler skips the first steps of half precision."""
    torch.manual_seed(0)
    first, gradient = nn.Linear(4, 3), torch.randn(3, 4)
    second = copy.deepcopy(first)
    for model, skips in ((first, True), (second, False)):
        chosen = build_optimizer(model, settings_from({"optimizer": optimizer}, SETTINGS))
        model.weight.grad, model.bias.grad = gradient.clone(), torch.ones(3)
        for skipped in ([1.0] if skips else []) + [0.0, 0.0]:
            chosen.found_inf = torch.tensor(skipped)  # type: ignore[attr-defined]
            chosen.step()
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_state_of_an_optimizer_that_was_not_fused_is_continued(optimizer: str) -> None:
    torch.manual_seed(0)
    task, settings = Task(Linear(5, 3), mean_loss), settings_from({"optimizer": optimizer}, SETTINGS)
    plain = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    stepper, other = Stepper(task, settings, ALONE), copy.deepcopy(task.model)
    momentum = {"momentum": settings.momentum} if optimizer == "sgd" else {}
    weights, biases = [other.get_parameter("weight")], [other.get_parameter("bias")]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    old = plain(groups, lr=settings.lr, foreach=False, **momentum)  # type: ignore[arg-type]

    def step(model: nn.Module, chosen: torch.optim.Optimizer) -> None:
        model.zero_grad()
        model({"points": torch.ones(1, 5)})["logits"].square().sum().backward()
        chosen.step()

    step(other, old)
    stepper.load({**stepper.state(), "model": other.state_dict(), "optimizer": copy.deepcopy(old.state_dict())})
    assert all(group["fused"] for group in stepper.optimizer.param_groups)
    step(other, old)
    step(task.model, stepper.optimizer)
    torch.testing.assert_close(task.model.get_parameter("weight"), weights[0])


def test_automatic_precision_is_full_on_a_cpu_and_recorded_so() -> None:
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"
    assert TrainSettings().precision == "auto"
    assert with_precision(TrainSettings(device="cpu")).identity() == TrainSettings(precision="fp32").identity()


@pytest.mark.parametrize("has_bf16", [True, False])
def test_automatic_precision_is_bf16_on_a_gpu_that_computes_in_it(
    has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return has_bf16

    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", torch.device("cuda")) == ("bf16" if has_bf16 else "fp32")
    assert resolve_precision("fp32", torch.device("cuda")) == "fp32"
    assert asked == [False]  # emulation would be slower than float32


def test_switches_that_cannot_work_say_so() -> None:
    task = Task(Linear(5, 3), mean_loss)
    with pytest.raises(UsageError, match=r"activation_checkpointing is for transformers.*set it to false"):
        Stepper(task, TrainSettings(activation_checkpointing=True), ALONE)
    with pytest.raises(UsageError, match=r"sync_batch_norm needs GPUs; set it to false"):
        Stepper(task, TrainSettings(sync_batch_norm=True), Processes(0, 2, torch.device("cpu")))


class Parts(nn.Module):
    """Two maps, whose gradients differ by a factor of a thousand."""

    def __init__(self) -> None:
        super().__init__()
        self.bank, self.rest = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": 1000 * self.bank(batch["points"]) + self.rest(batch["points"])}

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        pass


@pytest.mark.parametrize("apart", [(), ("bank.",)])
def test_a_large_gradient_of_a_bank_shortens_only_its_own_step(apart: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model, settings = Parts(), settings_from({"gradient_clip": 0.5, "momentum": 0.0, "weight_decay": 0.0}, SETTINGS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stepper = Stepper(Task(model, mean_loss, apart=apart), settings, ALONE)
    (share,) = Loader(Points(), settings).epoch(Position())
    report = stepper.step(share, 0.5)
    assert report is not None
    moved = {name: (value - before[name]) / 0.5 for name, value in model.state_dict().items()}
    lengths = {
        part: float(torch.cat([value.flatten() for name, value in moved.items() if name.startswith(part)]).norm())
        for part in ("bank", "rest")
    }
    # The norm before clipping is that of all parameters either way.
    assert fetched([report])[0]["gradient_norm"] > 300
    assert lengths["bank"] == pytest.approx(0.5, rel=1e-3)
    assert lengths["rest"] == pytest.approx(0.5 if apart else 0.0005, rel=0.9 if not apart else 0.5)
    if apart:
        assert lengths["rest"] > 0.1


def test_nesterov_looks_ahead() -> None:
    plain, fancy = (trained(nesterov=each, momentum=0.9, weight_decay=0.0)[1] for each in (False, True))
    torch.manual_seed(0)
    model = Linear(5, 3)
    reference = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    batch = Points().__getitems__([(0, index) for index in range(11)])
    for step in range(2):
        loss = cross_entropy(model(batch)["logits"], batch["labels"])
        assert fancy[step]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        reference.zero_grad()
        loss.backward()
        reference.step()
    assert plain[1]["loss"] != fancy[1]["loss"]
