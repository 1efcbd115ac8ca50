"""How fast DVTA trains and scores on pose features in memory, compared with a literal form of the same equations.

    python benchmarks/dvta.py --steps 8 --rounds 5 --json results.json
    python benchmarks/dvta.py --official PATH      # also the official modules of a checkout of jidongkuang/DVTA

An epoch is `--samples` features (36,758 in NTU RGB+D 60, 55/5) in batches of 128; `--steps` of them are timed. The
literal form concatenates every pair (B x B x 1536) and repeats texts and poses (B x U x 768 x 2), as the published code
does. All forms start from the same weights, alternate, and train with Adam. Results are medians, and ratios within the
same round; CPU seconds are more reliable while other work runs on the machine, especially with `--threads 1`.
"""

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.models.dvta.model import DVTA, dvta_losses, leaky_sigmoid

POSE, TEXT, CLASSES, BATCH, EVALUATED = 256, 768, 60, 128, 512

Seconds = tuple[float, float]  # wall time, CPU time


class Form:
    """One implementation: a loss to train on, and scores of all classes."""

    def __init__(self, name: str, model: nn.Module, loss: Callable[..., Tensor], scores: Callable[..., Tensor]) -> None:
        self.name, self.model, self.loss, self.scores = name, model, loss, scores
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

    def train(self, features: Tensor, labels: Tensor, order: Tensor, precision: str) -> tuple[Seconds, float]:
        """Time for the batches of this order, and the first loss."""
        self.model.train()
        first = 0.0
        started = now()
        for batch in order.split(BATCH):
            with autocast(precision, features):
                loss = self.loss(features[batch], labels[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            first = first or loss.item()
        finished(features)
        return since(started), first

    def evaluate(self, features: Tensor, precision: str) -> tuple[Seconds, float]:
        """Time for the scores of all classes, in batches of 64, and the first score."""
        self.model.eval()
        started = now()
        with torch.inference_mode(), autocast(precision, features):
            scores = torch.cat([self.scores(batch) for batch in features.split(64)])
        finished(features)
        return since(started), scores[0, 0].item()


def now() -> Seconds:
    return time.perf_counter(), time.process_time()


def since(started: Seconds) -> Seconds:
    return time.perf_counter() - started[0], time.process_time() - started[1]


def finished(like: Tensor) -> None:
    if like.device.type == "cuda":
        torch.cuda.synchronize()


def autocast(precision: str, like: Tensor) -> Any:
    return torch.autocast(like.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def ours(texts: Tensor) -> Form:
    model = DVTA(config=DVTAConfig(), class_texts=texts, pose_width=POSE).to(texts.device)

    def loss(features: Tensor, labels: Tensor) -> Tensor:
        return dvta_losses(model, model({"pose_features": features, "labels": labels}), labels)["alignment"]  # type: ignore[arg-type]

    return Form("unialign", model, loss, lambda features: model({"pose_features": features})["logits"])


def metric_of_pairs(model: DVTA, poses: Tensor, texts: Tensor) -> Tensor:
    """G of pairs of poses and texts, (..., D) each."""
    assert model.metric is not None
    pairs = torch.cat([poses, texts], dim=-1)
    hidden = model.metric.second(model.metric.first(pairs).relu()).relu()
    return leaky_sigmoid(model.metric.last(hidden).squeeze(-1), 0.01) / model.augmented_temperature


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    return functional.kl_div(logits.log_softmax(dim=1), target, reduction="batchmean")


def literal(texts: Tensor) -> Form:
    """The equations literally, with every pair as a row."""
    model = DVTA(config=DVTAConfig(), class_texts=texts, pose_width=POSE).to(texts.device)

    def loss(features: Tensor, labels: Tensor) -> Tensor:
        own = functional.normalize(texts[labels], dim=1)  # (B, D, 2)
        poses = model.visual_projector(functional.normalize(features, dim=-1))
        weights = torch.bmm(poses[:, None].to(own.dtype), own).softmax(dim=-1)  # (B, 1, 2)
        mixed = model.text_projector((own * weights).sum(dim=-1))
        cosines = functional.normalize(poses, dim=-1) @ functional.normalize(mixed, dim=-1).T
        size = len(features)
        rows = poses.detach()[:, None].repeat(1, size, 1)
        columns = mixed.detach()[None].repeat(size, 1, 1)
        logits = cosines / model.direct_temperature + metric_of_pairs(model, rows, columns)
        target = (10 * (labels[:, None] == labels[None]).float()).softmax(dim=1)
        return (divergence(logits, target) + divergence(logits.T, target)) / 2

    def scores(features: Tensor) -> Tensor:
        poses = model.visual_projector(functional.normalize(features, dim=-1))
        every = functional.normalize(texts, dim=1)[None].repeat(len(features), 1, 1, 1)  # (B, U, D, 2)
        rows = poses[:, None].repeat(1, len(texts), 1)  # (B, U, D)
        weights = torch.einsum("bud,buds->bus", rows.to(every.dtype), every).softmax(dim=-1)
        mixed = model.text_projector((every * weights[:, :, None]).sum(dim=-1))
        cosines = functional.cosine_similarity(rows, mixed, dim=-1)
        return cosines / model.direct_temperature + metric_of_pairs(model, rows, mixed)

    return Form("literal", model, loss, scores)


def official(texts: Tensor, path: Path) -> Form:
    """The official modules of a checkout; they need the package einops."""
    sys.path.insert(0, str(path))
    model = importlib.import_module("model").DVTA(POSE, TEXT, 0.1, 0.01).to(texts.device)
    criterion = importlib.import_module("KLLoss").KLLoss()
    same = importlib.import_module("utils").create_ground_truth_matrix

    def loss(features: Tensor, labels: Tensor) -> Tensor:
        forward, backward, *augmented = model(features, texts[labels], is_inference=False)
        target = same(labels).to(features.device)
        first = criterion(forward + augmented[0], target)
        return (first + criterion(backward + augmented[1], target.t())) / 2

    return Form("official", model, loss, lambda features: model(features, texts, is_inference=True))


def share_weights(forms: list[Form]) -> None:
    """Give every form the parameters of the first; the order of layers is the same in all of them."""
    layers = [[layer for layer in form.model.modules() if isinstance(layer, nn.Linear)] for form in forms]
    with torch.no_grad():
        for others in layers[1:]:
            for source, target in zip(layers[0], others, strict=True):
                target.load_state_dict(source.state_dict())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=36_758)
    parser.add_argument("--steps", type=int, default=8, help="batches of each round; 288 are an epoch of 36,758")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--official", type=Path, help="a checkout of jidongkuang/DVTA")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    texts = torch.randn(CLASSES, TEXT, 2).to(options.device)
    features = torch.randn(options.samples, POSE).to(options.device)
    labels = torch.randint(0, CLASSES, (options.samples,)).to(options.device)
    forms = [ours(texts), literal(texts)]
    if options.official:
        forms.append(official(texts, options.official))
    share_weights(forms)
    first, tested = torch.arange(BATCH), features[:EVALUATED]
    starts = {
        f.name: (f.train(features, labels, first, options.precision)[1], f.evaluate(tested, options.precision)[1])
        for f in forms
    }
    times: dict[str, dict[str, list[Seconds]]] = {form.name: {"train": [], "evaluate": []} for form in forms}
    num_batches = -(-options.samples // BATCH)
    for _ in range(options.rounds):
        order = torch.randperm(options.samples)[: options.steps * BATCH]
        for form in forms:
            times[form.name]["train"].append(form.train(features, labels, order, options.precision)[0])
            times[form.name]["evaluate"].append(form.evaluate(tested, options.precision)[0])
    rows = []
    for name, measured in times.items():
        step = statistics.median(wall for wall, _ in measured["train"]) / options.steps
        row = {"form": name, "precision": options.precision, "step_seconds": round(step, 4)}
        row["epoch_seconds"] = round(step * num_batches, 1)
        row["scored_per_second"] = round(EVALUATED / statistics.median(wall for wall, _ in measured["evaluate"]))
        for kind, seconds in measured.items():
            pairs = list(zip(times["literal"][kind], seconds, strict=True))
            row[f"{kind}_ratio"] = round(statistics.median(a[0] / b[0] for a, b in pairs), 2)
            row[f"{kind}_cpu_ratio"] = round(statistics.median(a[1] / b[1] for a, b in pairs), 2)
        row["first_loss"], row["first_score"] = starts[name]
        rows.append(row)
    print(f"{platform.machine()} {options.device}, {options.threads} threads, {options.rounds} x {options.steps} steps")
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
