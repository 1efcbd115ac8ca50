"""What the modules of UniAlign, ART and ALT add to a training step: time, compared with multiply-adds.

    python benchmarks/steps.py --json results.json
    python benchmarks/steps.py --systems art --device cuda --precision bf16 --compile --batch 32

One step is forward, losses and backward; "backbone" is the same network alone, with the sum of its outputs as the loss
and all its parameters trained in both. Both alternate in every round. "overhead" is the ratio of the times divided by
the ratio of the multiply-adds: 1 if the added modules cost as much as their products suggest, more if they also wait.
Weights and images are random, which does not affect the time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from processes import report
from torch import Tensor, nn

from unialign.pipeline.systems.registry import get_system
from unialign.stages.models.flops import multiply_adds

CLASSES, PROMPTS, TEXT, ENTITIES, POSE_TOKENS, POSE = 60, 16, 512, 548, 25, 256
FRAMES = {"unialign": 16, "art": 8, "alt": 8}

Step = Callable[[], None]


def made_system(name: str, frames: int, device: torch.device) -> tuple[nn.Module, Any]:
    """A system with its default configuration and random weights, and that configuration."""
    system, unit = get_system(name), nn.functional.normalize
    config: Any = system.config(num_frames=frames)
    texts = {"num_classes": CLASSES, "text_bank": unit(torch.randn(PROMPTS, CLASSES, TEXT), dim=-1)}
    more: dict[str, Any] = {
        "unialign": {"pose_width": POSE},
        "alt": {"corpus": unit(torch.randn(ENTITIES, TEXT), dim=-1)},
    }.get(name, {})
    return system.build(config, **texts, **more).to(device).train(), config


def made_batch(config: Any, size: int, device: torch.device) -> dict[str, Tensor]:
    """Random images and poses for it."""
    shape = (size, config.num_frames, 3, config.image_size, config.image_size)
    return {
        "frames": torch.randn(shape, device=device),
        "pose_tokens": torch.randn(size, POSE_TOKENS, POSE, device=device),
        "labels": torch.arange(size, device=device) % CLASSES,
    }


def network_of(model: Any, batch: dict[str, Tensor]) -> tuple[nn.Module, Tensor]:
    """The network that the system is built around, and its input."""
    if hasattr(model, "backbone"):
        return model.backbone, batch["frames"]
    return model.tower, batch["frames"].flatten(0, 1)


def total(outputs: Any) -> Tensor:
    """The sum of all values of some outputs: a tensor, or several with or without names."""
    if isinstance(outputs, Tensor):
        return outputs.float().sum()
    several = outputs.values() if isinstance(outputs, dict) else outputs
    return torch.stack([total(each) for each in several]).sum()


def steps_of(
    name: str, model: Any, batch: dict[str, Tensor], half: torch.dtype | None, compiled: bool
) -> dict[str, Step]:
    """One step of the whole system, and one of its network alone."""
    network, images = network_of(model, batch)
    losses = get_system(name).losses
    whole, alone = (torch.compile(model), torch.compile(network)) if compiled else (model, network)
    kind = images.device.type

    def step(loss: Callable[[], Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(kind, dtype=half, enabled=half is not None):
            found = loss()
        found.backward()
        if kind == "cuda":
            torch.cuda.synchronize()

    def system() -> Tensor:
        outputs = whole(batch)
        return torch.stack(list(losses(model, outputs, batch["labels"]).values())).sum()

    return {"system": lambda: step(system), "backbone": lambda: step(lambda: total(alone(images)))}


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row per system."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    model, config = made_system(name, options.frames or FRAMES[name], device)
    batch = made_batch(config, options.batch, device)
    network, images = network_of(model, batch)
    work = multiply_adds(model, batch) / multiply_adds(network, images)
    half = {"fp32": None, "bf16": torch.bfloat16}[options.precision]
    steps = steps_of(name, model, batch, half, options.compile)
    times: dict[str, list[float]] = {each: [] for each in steps}
    for number in range(options.rounds + 1):
        for each, step in steps.items():
            started = time.perf_counter()
            step()
            if number:  # the first round warms up
                times[each].append(time.perf_counter() - started)
    ratios = [one / other for one, other in zip(times["system"], times["backbone"], strict=True)]
    return {
        "system": name,
        "frames": config.num_frames,
        "batch": options.batch,
        "precision": options.precision,
        "compiled": options.compile,
        "backbone_seconds": round(statistics.median(times["backbone"]), 4),
        "system_seconds": round(statistics.median(times["system"]), 4),
        "time_ratio": round(statistics.median(ratios), 3),
        "work_ratio": round(work, 3),
        "overhead": round(statistics.median(ratios) / work, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(FRAMES))
    parser.add_argument("--frames", type=int, help="of a clip; default 16 (unialign), 8 (art, alt)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    rows = [measure(name, options) for name in options.systems.split(",")]
    report(rows, options.json)


if __name__ == "__main__":
    main()
