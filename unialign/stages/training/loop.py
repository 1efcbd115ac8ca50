"""The training loop: epochs of steps, evaluations, checkpoints, and going on from any of them.

A resumed run continues bit for bit on the same machine with the same number of threads: a checkpoint holds model (with
its text bank), optimizer, loss scaler, random states, position and metrics so far; order, augmentation and learning
rate are functions of the position. On GPUs that holds as far as the kernels are deterministic; cuDNN is told to be.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from unialign.stages.training.checkpoints import Checkpoints
from unialign.stages.training.loader import Loader, Position, Share
from unialign.stages.training.logs import RunLog
from unialign.stages.training.metrics import evaluation
from unialign.stages.training.order import process_seed
from unialign.stages.training.prediction import Predictions, predict
from unialign.stages.training.processes import Processes
from unialign.stages.training.settings import TrainSettings, learning_rate
from unialign.stages.training.step import Stepper, Task

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a caller may show: epoch and batch count from 0. wait: share of the time spent waiting for batches."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    wait: float
    samples_per_second: float


@dataclass(frozen=True)
class Data:
    """Loaders of this process. test: None where there is nothing to evaluate on.

    missing_labels: labels of the test samples that the caches lack.
    """

    train: Loader
    test: Loader | None
    test_labels: tuple[int, ...] = ()
    missing_labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """history: one row an epoch. best: the row with the highest top1, None without evaluations.

    predictions: of the last epoch on the test samples, None without any. steps: optimizer steps in this call; 0 when
    the run was finished already.
    """

    history: tuple[Mapping[str, float], ...]
    best: Mapping[str, float] | None
    predictions: Predictions | None
    steps: int


def fit(
    task: Task,
    data: Data,
    settings: TrainSettings,
    *,
    processes: Processes,
    checkpoints: Checkpoints,
    log: Callable[[int], RunLog],
    show: Callable[[Progress], None] = lambda progress: None,
) -> Fitted:
    """Train to the last epoch, from the newest checkpoint if there is one, and return what came out.

    log: opens the logs at a step; called in the first process only.
    Raises `UnialignError` for a loss that is not finite.
    """
    torch.manual_seed(process_seed(settings.seed, 0, 0, processes.rank))
    stepper = Stepper(task, settings, processes)
    run = _Run(stepper, data, settings, checkpoints, show)
    resumed = run.resume()
    run.log = log(run.step) if processes.first else None
    try:
        if resumed and run.log:
            run.log.event("resumed", **resumed)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            while run.position.epoch < settings.epochs:
                run.train_epoch()
                run.finish_epoch()
            predictions = run.predictions or run.evaluate()
    finally:
        if run.log:
            run.log.close()
    return Fitted(tuple(run.history), run.best, predictions, run.steps)


class _Run:
    """The state of a run between two steps."""

    def __init__(
        self,
        stepper: Stepper,
        data: Data,
        settings: TrainSettings,
        checkpoints: Checkpoints,
        show: Callable[[Progress], None],
    ) -> None:
        self.stepper, self.data, self.settings, self.checkpoints = stepper, data, settings, checkpoints
        self.show = show
        self.processes = stepper.processes
        self.position = Position()
        self.step = 0
        self.steps = 0
        self.trained = 0
        self.sums: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.predictions: Predictions | None = None
        self.log: RunLog | None = None

    def resume(self) -> dict[str, Any]:
        """Continue from the newest checkpoint; returns what to say of it, nothing without one."""
        # Only the first process looks, so that all continue from the same file.
        found = self.checkpoints.newest() if self.processes.first else None
        if found:
            self.checkpoints.settle(found)
        state = self.processes.from_first(found.state if found else None)
        if state is None:
            return {}
        self.stepper.load(state)
        self.position = Position(state["epoch"], state["samples"])
        self.step, self.sums, self.history = state["step"], dict(state["sums"]), list(state["history"])
        self.best = state["best"]
        rank, random = self.processes.rank, state["random"]
        if len(random) == self.processes.world_size:
            torch.set_rng_state(random[rank]["cpu"])
            if self.processes.device.type == "cuda" and "cuda" in random[rank]:
                torch.cuda.set_rng_state(random[rank]["cuda"], self.processes.device)
        else:
            torch.manual_seed(process_seed(self.settings.seed, self.position.epoch, self.position.samples, rank))
        if found is None:
            return {}
        return {"checkpoint": found.path.name, "skipped": list(found.skipped), **_place(self.position)}

    def train_epoch(self) -> None:
        """The rest of the current epoch; checkpoints on the way if the settings ask for them."""
        settings, loader = self.settings, self.data.train
        self.stepper.task.model.train()
        self.trained = 0
        for share in loader.epoch(self.position):
            rate = learning_rate(settings, self.position.epoch + self.position.samples / len(loader))
            report = self.stepper.step(share, rate)
            for name, value in report.items():
                self.sums[name] = self.sums.get(name, 0.0) + value * share.total
            self.sums["samples"] = self.sums.get("samples", 0) + share.total
            self.step += 1
            self.steps += 1
            self.trained += share.total
            self._tell(share, report, rate)
            last = share.after.epoch > self.position.epoch
            # An epoch's end is not a position of its own before the evaluation, see `finish_epoch`.
            self.position = Position(self.position.epoch, len(loader)) if last else share.after
            if settings.checkpoint_batches and (share.batch + 1) % settings.checkpoint_batches == 0 and not last:
                self.save()

    def finish_epoch(self) -> None:
        """Evaluate, note the epoch's row, and store a checkpoint, each where it is due."""
        settings, epoch = self.settings, self.position.epoch
        samples = self.sums.pop("samples", 0.0)
        row = {"epoch": epoch + 1, **{name: value / samples for name, value in self.sums.items()}}
        row["learning_rate"] = self.stepper.optimizer.param_groups[0]["lr"]
        meter = self.data.train.meter
        row |= {"data_wait": meter.share, "samples_per_second": self.trained / meter.seconds}
        done = epoch + 1 == settings.epochs
        self.position, self.sums, self.predictions = Position(epoch + 1), {}, None
        if done or (epoch + 1) % settings.eval_every == 0:
            self.predictions = self.evaluate()
            if self.predictions is not None:
                labels = [self.data.test_labels[index] for index in self.predictions.indices]
                row |= evaluation(self.predictions.scores, labels, self.data.missing_labels)
        self.history.append(row)
        if "top1" in row and (self.best is None or row["top1"] > self.best["top1"]):
            self.best = row
            if self.processes.first:
                model = self.stepper.task.model.state_dict()
                self.checkpoints.save_best({"model": model, "row": row}, self.position)
        if self.log:
            self.log.event("epoch", **row)
            self.log.epoch(self.history, self.step)
        if done or (epoch + 1) % settings.checkpoint_every == 0:
            self.save()

    def evaluate(self) -> Predictions | None:
        """Predictions on the test samples, exact over all processes."""
        if self.data.test is None or not len(self.data.test):
            return None
        return predict(self.stepper, self.data.test)

    def save(self) -> None:
        """Store a checkpoint of this moment."""
        random: dict[str, torch.Tensor] = {"cpu": torch.get_rng_state()}
        if self.processes.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.processes.device)
        everybodys = self.processes.gathered(random)
        if self.processes.first:
            state = {
                **self.stepper.state(),
                **_place(self.position),
                "step": self.step,
                "sums": self.sums,
                "history": self.history,
                "best": self.best,
                "random": everybodys,
                "settings": self.settings.plain(),
            }
            self.checkpoints.save(state, self.position)

    def _tell(self, share: Share, report: dict[str, float], rate: float) -> None:
        if not self.log:
            return
        meter = self.data.train.meter
        progress = Progress(
            epoch=self.position.epoch,
            epochs=self.settings.epochs,
            batch=share.batch,
            batches=share.num_batches,
            loss=report["loss"],
            wait=meter.share,
            samples_per_second=self.trained / meter.seconds,
        )
        if self.step % self.settings.log_every == 0:
            place = {"epoch": progress.epoch + 1, "batch": share.batch}
            speed = {"data_wait": progress.wait, "samples_per_second": progress.samples_per_second}
            self.log.step(self.step, {**place, **report, "learning_rate": rate, **speed})
        self.show(progress)


def _place(position: Position) -> dict[str, int]:
    return {"epoch": position.epoch, "samples": position.samples}
