"""What training runs show while they work: a bar over the batches, and a line for each epoch that stays."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unialign import console

if TYPE_CHECKING:
    from unialign.pipeline.ablation.grid import Trial
    from unialign.pipeline.ablation.sweep import Done
    from unialign.pipeline.ablation.trials import TrialOutcome
    from unialign.pipeline.training.train import Show
    from unialign.stages.datasets.base import Dataset
    from unialign.stages.training.loop import Progress

# Seconds between two lines of epochs that take less; the first and the last epoch always have one.
LINES_EVERY = 5.0


@contextmanager
def training_bar(title: str, *, hidden: bool) -> Iterator["Show"]:
    """A bar of its own for one training run, see `training_shown`."""
    with console.progress_bar(title, hidden=hidden) as update:
        yield training_shown(title, update, console.say if not hidden else lambda text: None)


def training_shown(title: str, update: console.Update, say: Callable[[str], None]) -> "Show":
    """Shows a training run on a bar: loss, rate and the share of time spent waiting for data. say: prints the lines."""
    lines = _EpochLines(title)

    def show(at: "Progress") -> None:
        if at.ended:
            line = lines.line(at)
            if line:
                say(line)
            return
        update(
            at.epoch * at.batches + at.batch + 1,
            at.epochs * at.batches,
            f"{title}: epoch {at.epoch + 1}/{at.epochs}, loss {at.loss:.3f}, {at.samples_per_second:.0f} clips/s, "
            f"data wait {at.wait:.0%}",
        )

    return show


class _EpochLines:
    """The line of an epoch; of very short ones, a line now and then."""

    def __init__(self, title: str) -> None:
        self._title, self._first, self._last = title, -1, 0.0
        self._started = time.monotonic()

    def line(self, at: "Progress") -> str:
        """The line in columns; "" for an epoch that is left out. Such as "unialign epoch  3/20  loss 1.204  val top-1
        75.0%    96 clips/s  data wait  2%  (loading alone: 300/s, 12.3 MB/s)  1:12 left".

        What the loader would reach and reads is not known of workers, and in part of compressed and remote stores.
        """
        now, done = time.monotonic(), at.epoch + 1
        if self._first < 0:
            # A resumed run begins later; the time of the epochs before is not known.
            self._first = at.epoch
        elif now - self._last < LINES_EVERY and done < at.epochs:
            return ""
        self._last = now
        left = (now - self._started) / (done - self._first) * (at.epochs - done)
        tops = [
            f"{name} {at.ended[key]:6.1%}"
            for key, name in (("val_top1", "val top-1"), ("top1", "top-1"))
            if key in at.ended
        ]
        alone, read = (at.ended.get(f"{key}_per_second", 0.0) for key in ("loader_samples", "megabytes"))
        loads = [f"{alone:,.0f}/s"] if alone else []
        loads += [f"{read:.1f} MB/s"] if read else []
        return "  ".join(
            [
                f"{self._title} epoch {done:>{len(str(at.epochs))}}/{at.epochs}",
                f"loss {at.ended.get('loss', at.loss):.3f}",
                *tops,
                f"{at.samples_per_second:5.0f} clips/s",
                f"data wait {at.wait:3.0%}",
                *([f"(loading alone: {', '.join(loads)})"] if loads else []),
                f"{console.clock(left)} left" if done < at.epochs else f"done in {console.clock(now - self._started)}",
            ]
        )


def _trial_line(outcome: "TrialOutcome", done: int, total: int) -> str:
    """Such as "ablation: video + pose, seed 1: top-1 83.3% in 12 s, 3 of 12 training runs"."""
    from unialign.pipeline.ablation.results import TrialResult

    if isinstance(outcome, TrialResult):
        top1 = f"top-1 {outcome.metrics['top1']:.1%}" if "top1" in outcome.metrics else "done"
        came = f"{top1} (reused)" if outcome.reused else f"{top1} in {outcome.seconds:.0f} s"
    else:
        came = "failed"
    return f"ablation: {outcome.trial.row}, seed {outcome.trial.seed}: {came}, {done} of {total} training runs"


@contextmanager
def trial_bar(total: int, *, hidden: bool) -> Iterator[tuple["Callable[[Trial, Progress], None]", "Done"]]:
    """A bar over the training runs of a sweep, with the state of the one that reported last; a line for each that
    ended.
    """
    with console.progress_bar("ablation", hidden=hidden) as update:
        so_far = [0]

        def show(trial: "Trial", at: "Progress") -> None:
            text = f"ablation: {trial.row}, seed {trial.seed}, epoch {at.epoch + 1}/{at.epochs}, loss {at.loss:.3f}"
            update(so_far[0], total, text)

        def report(outcome: "TrialOutcome", done: int, total: int) -> None:
            so_far[0] = done
            update(done, total, f"ablation: {outcome.trial.row}, seed {outcome.trial.seed}")
            if not hidden:
                console.say(_trial_line(outcome, done, total))

        yield show, report


def say_problems(dataset: "Dataset", protocol: str | None) -> None:
    """Say what of the split may spoil a result; under torchrun, one process does."""
    from unialign.stages.datasets.split_problems import split_problems

    if os.environ.get("RANK", "0") == "0":
        for problem in split_problems(dataset, protocol):
            console.say(f"note: {problem}.")
