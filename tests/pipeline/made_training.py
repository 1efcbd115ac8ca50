"""A tiny training of UniAlign on tiny stores, started by several tests, also in processes of their own."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.made_stores import COLLECTION, made_dataset
from unialign.cache.atomic import write_text
from unialign.cache.keys import digest
from unialign.cache.reader import StoreReader
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.train import RunResult, train_model
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.loop import Progress
from unialign.stages.training.processes import Processes
from unialign.stages.training.samples import Batch, Pick
from unialign.stages.training.settings import TrainSettings, settings_from
from unialign.stages.training.step import Stepper, Task, fetched

MODEL = {
    "backbone": "tsm-resnet10",
    "num_frames": 2,
    "image_size": 16,
    "width": 16,
    "modalities": ["video", "pose", "text"],
}
SETTINGS = TrainSettings(epochs=3, batch_size=5, lr=0.01, device="cpu", log_every=1, checkpoint_batches=1)


def readers_of(cache: Path) -> dict[str, StoreReader]:
    """The stores of the tiny dataset."""
    return {path.parent.name: StoreReader(path) for path in (cache / COLLECTION).glob("*/*.zarr")}


def tiny_training(
    cache: Path,
    runs: Path,
    *,
    show: Callable[[Progress], None] = lambda progress: None,
    model: dict[str, Any] | None = None,
    dataset: Dataset | None = None,
    row: str = "",
    **settings: Any,
) -> RunResult:
    """3 epochs of 3 steps."""
    return train_model(
        "unialign",
        dataset or made_dataset(),
        readers=readers_of(cache),
        model={**MODEL, **(model or {})},
        settings=settings_from(settings, SETTINGS),
        runs=runs,
        options=Options(row=row),
        show=show,
    )


def validated_dataset(num_train: int = 12, num_val: int = 4, num_test: int = 8) -> Dataset:
    """The tiny dataset with a val part of its own: of the samples that are no test, the last `num_val`."""
    made = made_dataset(num_train + num_val, num_test)

    def whole(samples: Sequence[Sample]) -> Split:
        split = made.protocols["whole"](samples)
        return Split(split.train[:num_train], split.test, split.train[num_train:])

    return replace(made, protocols={"whole": whole})


def unsigned(run: Path) -> None:
    """Make a finished run one from before result.json covered the other files."""
    result = json.loads((run / "result.json").read_text())
    del result["files"]
    signed = result.pop("digest", None) is not None
    write_text(run / "result.json", json.dumps({**result, **({"digest": digest(result)} if signed else {})}))


class Points:
    """Eleven fixed points of three classes."""

    def __len__(self) -> int:
        return 11

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        indices = torch.tensor([index for _, index in picks])
        return {"points": torch.sin(indices[:, None] * torch.arange(1.0, 6.0)), "labels": indices % 3}


class Linear(torch.nn.Linear):
    """A model whose gradient is the mean over its clips: no dropout, no batch statistics."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(batch["points"])}

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        assert len(outputs["logits"]) == len(labels)


def plain_steps(processes: Processes) -> list[list[float]]:
    """Losses of the steps of one epoch, then the weights: of batches of 5, 5 and 1, then with two batches in a step."""
    found: list[list[float]] = []
    for accumulate in (1, 2):
        torch.manual_seed(0)
        settings = settings_from({"lr": 0.5, "accumulate": accumulate}, SETTINGS)
        task = Task(Linear(5, 3), lambda model, outputs, labels: {"all": cross_entropy(outputs["logits"], labels)})
        stepper = Stepper(task, settings, processes)
        loader = Loader(Points(), settings, rank=processes.rank, world_size=processes.world_size)
        reports = [stepper.step(share, 0.5) for share in loader.epoch(Position())]
        losses = [values["loss"] for values in fetched([report for report in reports if report])]
        found += [losses, *task.model.get_parameter("weight").tolist()]
    return found


def train_and_step(cache: Path, runs: Path, num_train: int, num_test: int, processes: Processes) -> None:
    """Train in this process, one of several, and leave the steps of `plain_steps` beside the run."""
    torch.set_num_threads(1)
    result = tiny_training(cache, runs, dataset=made_dataset(num_train, num_test))
    assert result.extracted == 0
    steps = plain_steps(processes)
    if processes.first:
        write_text(runs / ".steps.json", json.dumps(steps))
