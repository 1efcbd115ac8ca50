"""What the switches of a training step cost: time of a step, and memory kept for its backward pass.

    python benchmarks/switches.py --json results.json
    python benchmarks/switches.py --backbone uniformerv2-l14 --frames 16 --side 224 --batch 8 --device cuda

A step is UniAlign's with one backbone and random clips, as the training loop takes it: fetching its loss is part of it.
Rows differ from the first one in one setting and take turns with it within every round; ratios are medians. Memory: on
a GPU the peak of a step; on a CPU what autograd keeps of the first batch, without the weights.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import report
from torch import Tensor, nn

from unialign.pipeline.systems.registry import get_system
from unialign.stages.training.kernels import chosen_kernels
from unialign.stages.training.loader import Position, RankBatch
from unialign.stages.training.processes import Processes
from unialign.stages.training.settings import TrainSettings, settings_from
from unialign.stages.training.step import Stepper, Task, fetched

CLASSES, PROMPTS, TEXT, POSE_TOKENS, POSE = 60, 4, 512, 25, 256
ALL = 99
SWITCHES: dict[str, dict[str, Any]] = {
    "as it is, fp32": {},
    "precision: bf16": {"precision": "bf16"},
    "activation_checkpointing": {"activation_checkpointing": True},
    "deterministic": {"deterministic": True},
    "accumulate: 2, half a batch each": {"accumulate": 2},
}


def made_step(options: argparse.Namespace, values: dict[str, Any]) -> tuple[nn.Module, Callable[[int], None]]:
    """A model, and what trains it on the batches of one optimizer step over `options.batch` clips, or on the first few.

    Fewer batches than a step has leave it unfinished.
    """
    torch.manual_seed(0)
    device, system = torch.device(options.device), get_system("unialign")
    config = system.config(backbone=options.backbone, num_frames=options.frames, image_size=options.side)
    texts = nn.functional.normalize(torch.randn(PROMPTS, CLASSES, TEXT), dim=-1)
    model = system.build(config, num_classes=CLASSES, text_bank=texts, pose_width=POSE).train()
    settings = settings_from({"precision": "fp32", **values}, TrainSettings(batch_size=options.batch))
    stepper = Stepper(Task(model, system.losses), settings, Processes(0, 1, device))
    size = options.batch // settings.accumulate
    shape = (size, options.frames, 3, options.side, options.side)
    batch = {
        "frames": torch.randint(256, shape, dtype=torch.uint8, device=device),
        "pose_tokens": torch.randn(size, POSE_TOKENS, POSE, device=device),
        "labels": torch.arange(size, device=device) % CLASSES,
    }

    def step(num_batches: int) -> None:
        with chosen_kernels(deterministic=settings.deterministic):
            for number in range(min(num_batches, settings.accumulate)):
                last = number + 1 == settings.accumulate
                place = (size, size, number, settings.accumulate, Position(), np.arange(size), options.batch, last)
                report = stepper.step(RankBatch(batch, *place), 1e-3)
                if report is not None:
                    fetched([report])

    return model, step


def kept(model: nn.Module, step: Callable[[int], None], device: str) -> float:
    """MB of memory of a step, see above."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        step(ALL)
        return torch.cuda.max_memory_allocated() / 1e6
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    storages: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        step(1)
    return sum(storages.values()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit-tiny-temporal")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    known = {
        name: values
        for name, values in SWITCHES.items()
        if "activation_checkpointing" not in values or not options.backbone.startswith(("tsm", "tea"))
    }
    steps = {name: made_step(options, values) for name, values in known.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, (_, step) in steps.items():
            # On a busy machine the processor's time says more.
            clock = time.perf_counter if options.device.startswith("cuda") else time.process_time
            started = clock()
            step(ALL)
            if number:
                seconds[name].append(clock() - started)
    first = next(iter(seconds.values()))
    rows = [
        {
            "backbone": options.backbone,
            "switch": name,
            "seconds": round(statistics.median(found), 4),
            "ratio": round(statistics.median([one / other for one, other in zip(found, first, strict=True)]), 3),
            "megabytes": round(kept(*steps[name], options.device)),
        }
        for name, found in seconds.items()
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
