"""The training loop: epochs of steps, evaluations, checkpoints, and resuming from any of them.

A resumed run continues bit for bit on the same machine with the same number of threads: a checkpoint holds model (with
its text bank), optimizer, loss scaler, random states, position and metrics so far; order, augmentation and learning
rate are functions of the position. On GPUs this holds with `settings.deterministic`.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from unialign.errors import DamagedStore, MissingCache, UnialignError
from unialign.stages.training.checkpoints import BEST, Checkpoints
from unialign.stages.training.fusion import joint_weights
from unialign.stages.training.kernels import chosen_kernels
from unialign.stages.training.loader import Loader, Position, RankBatch
from unialign.stages.training.logs import RunLog
from unialign.stages.training.metrics import evaluation
from unialign.stages.training.order import process_seed
from unialign.stages.training.prediction import Predictions, predict
from unialign.stages.training.processes import Processes
from unialign.stages.training.settings import TrainSettings, learning_rate
from unialign.stages.training.step import Report, Stepper, Task, fetched

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Progress for display: epoch and batch number from 0.

    loss: of the last optimizer step whose values were fetched. wait: fraction of the time spent waiting for batches.
    ended: at the end of an epoch its row of the history, see `Fitted`; empty within one.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    wait: float
    samples_per_second: float
    ended: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Samples to evaluate on: their loader in this process, and the labels of all of them.

    missing: labels of the part's samples that are not in the caches. unknown: classes without a score in the model.
    candidates: the classes to choose among; all if empty.
    """

    loader: Loader
    labels: tuple[int, ...]
    missing: tuple[int, ...] = ()
    unknown: int = 0
    candidates: tuple[int, ...] = ()

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """See `metrics.evaluation`."""
        labels = [self.labels[index] for index in predictions.indices]
        return evaluation(predictions.scores, labels, self.missing, unknown=self.unknown, choices=len(self.candidates))

    def top1_by_head(self, predictions: Predictions) -> dict[str, float]:
        """Top-1 of each head and of their mean."""
        scores = {**predictions.heads, "mean": np.mean(list(predictions.heads.values()), axis=0)}
        return {name: self.metrics(replace(predictions, scores=values))["top1"] for name, values in scores.items()}


@dataclass(frozen=True)
class Data:
    """What a run trains and evaluates on, in this process; None for a part without samples.

    val selects the best epoch. test never selects anything: it is evaluated once training has ended. follow_test: also
    after each evaluated epoch, for zero-shot systems whose selection rules declare what they look at. prefer_later: of
    the epochs that are about as good on val as any (`as_good`), the last one is the best, for encoders: a few val
    samples soon have no errors left, long before the training ends that others build on.
    """

    train: Loader
    test: Part | None = None
    val: Part | None = None
    follow_test: bool = False
    prefer_later: bool = False


@dataclass(frozen=True)
class Fitted:
    """What a training run returns.

    history: one row per epoch; metrics of val begin with "val_". metrics: of the last epoch on test, {} without test.
    best: {"epoch": the one with the highest top1 on val, "val": its metrics there, "test": its metrics on test}; {} if
        nothing was evaluated on val. best_weights: the model's weights of that epoch, if
        they still exist and it is not the last. predictions: of the last epoch on test. steps: optimizer steps in this
        call; 0 if the run was already finished. heads: top-1 of each head of the last epoch, see `measured_heads`.
    """

    history: tuple[Mapping[str, float], ...]
    metrics: Mapping[str, float]
    best: Mapping[str, Any]
    predictions: Predictions | None
    steps: int
    heads: Mapping[str, Any] = field(default_factory=dict)
    best_weights: Mapping[str, torch.Tensor] | None = None


def as_good(top1: float, highest: float, count: int) -> bool:
    """Whether an accuracy on `count` samples is less than a standard error below the highest one.

    The error is that of the share (right + 1) / (count + 2), so that no error at all leaves room for one by chance.
    Source of the rule: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3, where of all equally
    good models the simplest one is taken; here it is the one that was trained longest.
    """
    share = (highest * count + 1) / (count + 2)
    return top1 > highest - math.sqrt(share * (1 - share) / count)


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
    """Train to the last epoch, from the newest checkpoint if there is one, and return the result.

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
        with chosen_kernels(deterministic=settings.deterministic):
            while run.position.epoch < settings.epochs:
                run.train_epoch()
                run.finish_epoch()
            stepper.average.put()
            predictions = run.predictions or run.predicted(data.test)
            metrics = data.test.metrics(predictions) if data.test and predictions else {}
            heads = run.measured_heads(predictions)
            best, best_weights = run.measured_best(metrics)
    finally:
        if run.log:
            run.log.close()
    return Fitted(tuple(run.history), metrics, best, predictions, run.steps, heads, best_weights)


@dataclass(frozen=True)
class _Taken:
    """An optimizer step whose values wait on the device. share: its last batch. indices: its samples in this process.

    epoch: from 0. step: its number in the run.
    """

    report: Report
    epoch: int
    step: int
    share: RankBatch
    rate: float
    indices: np.ndarray


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
        self.taken: list[_Taken] = []
        self.loss = math.nan
        self.shown = 0  # batches of an epoch
        self.sums: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.head_weights: dict[str, float] = {}
        self.saved = time.monotonic()
        self.predictions: Predictions | None = None
        self.log: RunLog | None = None

    def resume(self) -> dict[str, Any]:
        """Continue from the newest checkpoint; returns a message about it, empty without a checkpoint."""
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
        self.best, self.head_weights = state["best"], dict(state.get("head_weights", {}))
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
        """The rest of the current epoch; saves checkpoints along the way if the settings ask for them."""
        settings, loader = self.settings, self.data.train
        self.stepper.task.model.train()
        self.trained = 0
        indices: list[np.ndarray] = []
        for share in loader.epoch(self.position):
            rate = learning_rate(settings, self.position.epoch + self.position.samples / len(loader))
            report = self.stepper.step(share, rate)
            indices.append(share.indices)
            self.trained += share.total
            if report is None:
                continue
            self.step += 1
            self.steps += 1
            # Batches are large: what is kept of one is its place.
            place = replace(share, data={})
            self.taken.append(_Taken(report, self.position.epoch, self.step, place, rate, np.concatenate(indices)))
            if self.step % settings.log_every == 0 or math.isnan(self.loss):
                self.fetch()
            self.show_progress(share)
            last = share.after.epoch > self.position.epoch
            # The end of an epoch is not a separate position before the evaluation, see `finish_epoch`.
            self.position = Position(self.position.epoch, len(loader)) if last else share.after
            every, done = settings.checkpoint_batches, share.batch + 1
            by_count = every and done // every > (done - len(indices)) // every
            if not last and (by_count or self._overdue()):
                self.save()
            indices = []

    def fetch(self) -> None:
        """Get the values of the steps taken since the last time, add them up, and log those that are due.

        Raises `UnialignError` at the first loss or gradient that is not finite.
        """
        for taken, values in zip(self.taken, fetched([each.report for each in self.taken]), strict=True):
            if problem := self.stepper.not_finite(values):
                raise UnialignError(f"{problem}; {self._where(taken)}")
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + value * taken.share.step_total
            self.sums["samples"] = self.sums.get("samples", 0) + taken.share.step_total
            self.loss = values["loss"]
            if self.log and taken.step % self.settings.log_every == 0:
                place = {"epoch": taken.epoch + 1, "batch": taken.share.batch}
                self.log.step(taken.step, {**place, **values, "learning_rate": taken.rate, **self._speed()})
        self.taken = []

    def _where(self, taken: _Taken) -> str:
        """The step that failed and its samples; all of these are in the log."""
        names = self.data.train.names(taken.indices)
        place = {"epoch": taken.epoch + 1, "batch": taken.share.batch}
        if self.log:
            self.log.event("not-finite", step=taken.step, **place, samples=names)
        more = f" and {len(names) - 3} more, listed in log.jsonl" if len(names) > 3 else ""
        return (
            f"stopped with the weights before the optimizer step of epoch {place['epoch']}, batch {place['batch']} "
            f"(learning rate {taken.rate:.4g}; samples {', '.join(names[:3])}{more}); lower train.settings.lr or look "
            "at these samples."
        )

    def finish_epoch(self) -> None:
        """Evaluate, record the epoch's row, store a checkpoint, each if due; only val decides which epoch is best."""
        self.fetch()
        settings, epoch = self.settings, self.position.epoch
        samples = self.sums.pop("samples", 0.0)
        row = {"epoch": epoch + 1, **{name: value / samples for name, value in self.sums.items()}}
        row["learning_rate"] = self.stepper.optimizer.param_groups[0]["lr"]
        meter = self.data.train.meter
        row |= self._speed()
        if meter.spent.bytes:
            row["megabytes_per_second"] = meter.megabytes_per_second
        if meter.spent.seconds:
            row["loader_samples_per_second"] = meter.samples_alone
        done = epoch + 1 == settings.epochs
        self.position, self.sums, self.predictions = Position(epoch + 1), {}, None
        if done or (epoch + 1) % settings.eval_every == 0:
            with self.stepper.average.in_place():
                row |= self._evaluated(epoch + 1, last=done)
        self.history.append(row)
        if self.log:
            self.log.event("epoch", **row)
            self.log.epoch(self.history, self.step)
        self.show_ended(row)
        if done or (epoch + 1) % settings.checkpoint_every == 0:
            self.save()

    def _evaluated(self, epoch: int, *, last: bool) -> dict[str, float]:
        """Metrics after an epoch, counted from 1; stores the model if it is the best so far."""
        found = self.validated()
        row = {f"val_{name}": value for name, value in found.items()}
        if found and self._better(found["top1"]):
            self.best = {"epoch": epoch, "val": found}
            if self.processes.first:
                model = self.stepper.task.model.state_dict()
                state = {"model": model, "best": self.best, "head_weights": self.head_weights}
                self.checkpoints.save_best(state, self.position)
        if last or self.data.follow_test:
            self.predictions = self.predicted(self.data.test)
            if self.data.test and self.predictions:
                row |= self.data.test.metrics(self.predictions)
        return row

    def _better(self, top1: float) -> bool:
        """Whether an epoch with this accuracy on val is the best so far."""
        if self.data.prefer_later and self.data.val:
            highest = max((row["val_top1"] for row in self.history if "val_top1" in row), default=top1)
            return as_good(top1, highest, len(self.data.val.labels))
        return not self.best or top1 > self.best["val"]["top1"]

    def predicted(self, part: Part | None) -> Predictions | None:
        """Predictions on the samples of a part, exact over all processes; None without any."""
        if not part or not len(part.loader):
            return None
        return predict(self.stepper, part.loader, part.candidates).mixed(self.head_weights)

    def validated(self) -> dict[str, float]:
        """Metrics on val, whose samples first fit the weights of the model's heads, if it has several.

        Without a val part the weights are the model's `untested_weights`, if it has any.
        """
        part, self.head_weights = self.data.val, {}
        predictions = self.predicted(part)
        if part is None or predictions is None:
            self.head_weights = dict(getattr(self.stepper.task.model, "untested_weights", {}))
            return {}
        if predictions.heads:
            labels = [part.labels[index] for index in predictions.indices]
            self.head_weights = joint_weights(predictions.heads, labels)
        return part.metrics(predictions.mixed(self.head_weights))

    def measured_best(self, last: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The best epoch with its metrics on test, and its weights unless it is the last. The model is left unchanged.

        last: metrics of the last epoch. "test" is {} if the weights of that epoch no longer exist, which is logged.
        """
        if not self.best or self.best["epoch"] == self.settings.epochs:
            return ({**self.best, "test": dict(last)} if self.best else {}), None
        state, problem = self._best_state() if self.processes.first else (None, "")
        state, problem = self.processes.from_first((state, problem))
        if state is None:
            if self.log:
                self.log.event("best-lost", problem=problem, **self.best)
            return {**self.best, "test": {}}, None
        model = self.stepper.task.model
        kept, weights_of_last = {name: value.clone() for name, value in model.state_dict().items()}, self.head_weights
        model.load_state_dict(state["model"])
        self.head_weights = dict(state.get("head_weights", {}))
        tested = self.predicted(self.data.test)
        found = self.data.test.metrics(tested) if self.data.test and tested else {}
        model.load_state_dict(kept)
        self.head_weights = weights_of_last
        return {**self.best, "test": found}, state["model"]

    def measured_heads(self, tested: Predictions | None) -> dict[str, Any]:
        """Top-1 of each head of the last epoch on test and, with a val part, on val; {} for models with one head.

        Also of "mean", the heads' mean, and with a val part of "weighted", their product with weights that were fitted
        on the val samples (or the one head that is clearly the best there, see `fusion`), which is then the prediction.
        """
        if not tested or not tested.heads or not self.data.test:
            return {}
        found: dict[str, dict[str, Any]] = {
            name: {"test": top1} for name, top1 in self.data.test.top1_by_head(tested).items()
        }
        validated = self.predicted(self.data.val)
        if not validated or not self.data.val:
            return found
        for name, top1 in self.data.val.top1_by_head(validated).items():
            found[name]["val"] = top1
        product = {"test": self.data.test.metrics(tested)["top1"], "val": self.data.val.metrics(validated)["top1"]}
        fitted = {"weights": self.head_weights, "fitted_on": "val", "samples": len(validated.indices)}
        return {**found, "weighted": {**product, **fitted}}

    def _best_state(self) -> tuple[dict[str, Any] | None, str]:
        """The checkpoint of the best epoch, or why it cannot be used: damaged, or the epoch had another result."""
        try:
            state = self.checkpoints.named(BEST).state
        except (DamagedStore, MissingCache) as error:
            return None, str(error)
        if state["best"]["epoch"] != self.best["epoch"]:
            return None, f"best.pt is of epoch {state['best']['epoch']}"
        return state, ""

    def _overdue(self) -> bool:
        """Whether the last checkpoint is too old, by the clock of the first process."""
        minutes = self.settings.checkpoint_minutes
        if not minutes or (self.processes.world_size > 1 and self.step % self.settings.log_every):
            return False  # processes communicate about this only now and then
        return bool(self.processes.from_first(time.monotonic() - self.saved >= 60 * minutes))

    def save(self) -> None:
        """Store a checkpoint of the current state."""
        # Also because nothing is stored after a step that was not finite.
        self.fetch()
        self.saved = time.monotonic()
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
                "head_weights": self.head_weights,
                "random": everybodys,
                "settings": self.settings.plain(),
            }
            self.checkpoints.save(state, self.position)

    def _speed(self) -> dict[str, float]:
        meter = self.data.train.meter
        return {"data_wait": meter.share, "samples_per_second": self.trained / meter.seconds}

    def show_progress(self, share: RankBatch) -> None:
        """Show how far the run is, in the first process."""
        self.shown = share.num_batches
        speed = self._speed()
        self._show(self.position.epoch, share.batch, speed["data_wait"], speed["samples_per_second"])

    def show_ended(self, row: Mapping[str, float]) -> None:
        """Show the epoch that has just ended, in the first process. row: of the history."""
        place = self.position.epoch - 1, self.shown - 1
        self._show(*place, row["data_wait"], row["samples_per_second"], row)

    def _show(
        self, epoch: int, batch: int, wait: float, samples_per_second: float, ended: Mapping[str, float] | None = None
    ) -> None:
        if self.log:
            at = Progress(epoch, self.settings.epochs, batch, self.shown, self.loss, wait, samples_per_second)
            self.show(replace(at, ended=ended) if ended else at)


def _place(position: Position) -> dict[str, int]:
    return {"epoch": position.epoch, "samples": position.samples}
