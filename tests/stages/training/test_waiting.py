"""Contract: in a training step of any system the host never waits for the device.

Steps run on simulated tensors, which have shapes and devices but no values: whatever would need a value (`item`, a
branch, a selection by a mask) raises. On a simulated GPU copies from the host are seen too. Gradients are made up
there, since torch's backward pass wants a driver; on a simulated CPU they are computed.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from tests.stages.models.test_systems import SMALL_OF
from unialign.pipeline.systems.registry import get_system
from unialign.stages.models.alt.model import TokenShape
from unialign.stages.training.augmentation import _normalized_levels
from unialign.stages.training.loader import Position, RankBatch
from unialign.stages.training.processes import Processes
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import Stepper, Task

CLIPS, CLASSES, WIDTH = 4, 5, 8
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SYSTEMS = ("unialign", "art", "alt", "dvta", "stgcn++", "skeleton")


class Copies(TorchDispatchMode):
    """Counts copies from one device to another that are waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        devices = {each.device for each in (made, *args) if isinstance(each, Tensor)}
        waits = not (kwargs or {}).get("non_blocking")
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default) and waits and len(devices) > 1:
            self.found.append(str(func))
        return made


def made_task(name: str) -> tuple[Task, dict[str, Tensor]]:
    """A small system and a batch for it."""
    torch.manual_seed(0)
    system, texts = get_system(name), normalize(torch.randn(2, CLASSES, WIDTH), dim=-1)
    parts: dict[str, Any] = {"num_classes": CLASSES, "text_bank": texts}
    batch = {"labels": torch.arange(CLIPS)}
    if name in ("unialign", "art"):
        batch |= {
            "frames": torch.zeros(CLIPS, 2, 3, 32, 32, dtype=torch.uint8),
            "levels": torch.zeros(CLIPS, 256, dtype=torch.uint8),
            "mirrored": torch.zeros(CLIPS, dtype=torch.bool),
        }
    if name in ("stgcn++", "skeleton"):
        example = system.example(system.config(**SMALL_OF[name]))
        parts, one = {**example.parts, "num_classes": CLASSES}, example.batch
        batch |= {key: value.repeat(CLIPS, *[1] * (value.ndim - 1)) for key, value in one.items()}
        batch["persons"] = torch.arange(CLIPS)
    if name == "unialign":
        parts["pose_width"], batch["pose_tokens"] = 6, torch.zeros(CLIPS, 3, 6)
    if name == "alt":
        parts |= {"corpus": normalize(torch.randn(7, WIDTH), dim=-1), "tokens": TokenShape(3, WIDTH)}
        batch["tokens"] = torch.zeros(CLIPS, 2, 3, WIDTH, dtype=torch.float16)
    if name == "dvta":
        parts |= {"pose_width": 6, "descriptions": torch.randn(CLASSES, WIDTH)}
        batch["pose_features"] = torch.zeros(CLIPS, 6)
    model = system.build(system.config(**SMALL_OF[name]), **parts)
    mean, std = system.normalization(model)
    return Task(model, system.losses, mean, std), batch


def without_values(model: nn.Module, device: torch.device) -> None:
    """Put simulated tensors of a device in the place of all parameters and buffers."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                made = torch.empty(value.shape, dtype=value.dtype, device=device)
                module._parameters[name] = nn.Parameter(made, value.requires_grad)
        for name, held in module._buffers.items():
            if held is not None:
                module._buffers[name] = torch.empty(held.shape, dtype=held.dtype, device=device)


def steps(name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch, **values: Any) -> list[str]:
    """Two optimizer steps of two batches each; the copies between devices in the second one."""
    task, batch = made_task(name)
    # Simulated tensors are already where they belong, and cannot move.
    monkeypatch.setattr(task.model, "to", lambda device: task.model)
    with FakeTensorMode():
        without_values(task.model, device)
        stepper = Stepper(task, TrainSettings(accumulate=2, precision="fp32", **values), Processes(0, 1, device))
        given = {name: torch.empty(each.shape, dtype=each.dtype, device=device) for name, each in batch.items()}
        reports = []
        for number in range(4):
            if number == 2:
                copies = Copies()
            place = RankBatch(given, CLIPS, CLIPS, number, 4, Position(), np.arange(CLIPS), 2 * CLIPS, number % 2 == 1)
            if number < 2:
                reports.append(stepper.step(place, 0.1))
            else:
                with copies:
                    reports.append(stepper.step(place, 0.1))
        assert [report is not None for report in reports] == [False, True] * 2
        assert reports[-1] is not None
        assert reports[-1].values.device == device
        # The simulation does see whoever wants a value.
        with pytest.raises(DataDependentOutputException):
            reports[-1].values.sum().item()
    return copies.found


@pytest.fixture(autouse=True)
def _no_simulated_tables() -> Any:
    _normalized_levels.cache_clear()
    yield
    _normalized_levels.cache_clear()


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_step_on_a_gpu_waits_for_no_value_and_no_copy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(loss: Tensor, start: Tensor) -> None:
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)

    parameters: list[nn.Parameter] = []
    plain = Stepper.__init__

    def noted(self: Stepper, task: Task, *rest: Any) -> None:
        plain(self, task, *rest)
        parameters[:] = [each for each in task.model.parameters() if each.requires_grad]
        # Its fused kernel cannot be simulated; the one of a CPU runs below.
        monkeypatch.setattr(self.optimizer, "step", lambda: None)

    monkeypatch.setattr(Stepper, "__init__", noted)
    monkeypatch.setattr("torch.autograd.backward", backward)
    mixing = {"mixup": 0.8, "cutmix": 1.0, "average": 0.999} if name == "unialign" else {}
    assert not steps(name, GPU, monkeypatch, **mixing)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "dvta"])
def test_the_backward_pass_needs_no_value_either(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not DVTA's, which leaves out units by their values on a CPU."""
    assert not steps(name, CPU, monkeypatch)
