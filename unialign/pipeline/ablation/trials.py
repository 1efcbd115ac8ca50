"""The training runs of a sweep, each in a separate process, in parallel as far as cores and memory allow.

**Equal numbers.** Floating-point sums depend on the number of threads, so every trial has the same: one, or
OMP_NUM_THREADS if that is set. How many trials run at once does not affect any of them.

**How many at once.** As many as the caller says, or one for each of the GPUs that it names; otherwise as many as there
are idle cores, one on a GPU, and fewer if memory is short: the first trial runs alone until it has trained and
evaluated a whole epoch; from then on another one starts whenever it and all running ones fit into the free memory, each
counted as the largest peak seen plus a quarter (`memory.one_more_fits`).

**Termination.** Trials run in sessions of their own, so that an interrupt in the terminal reaches only the sweep, which
ends them and all processes that they have started; a run survives that at any moment. A trial whose sweep has died
exits by itself at its next report.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

from unialign.cache.cores import free_cores
from unialign.errors import LockedStore, UnialignError
from unialign.pipeline.ablation.grid import Trial
from unialign.pipeline.ablation.results import FailedTrial, TrialResult
from unialign.pipeline.config import Config
from unialign.pipeline.extraction.hardware import limit_threads
from unialign.pipeline.memory import available_memory, one_more_fits, peak_memory
from unialign.pipeline.training.from_config import train_trial
from unialign.pipeline.training.run_folder import memory_of
from unialign.stages.training.loop import Progress

TrialOutcome = TrialResult | FailedTrial

# Seconds between two reports of a trial, and seconds that its processes have to exit when told to.
REPORT_EVERY = 0.2
GRACE = 5.0
# Seconds between two checks of the free memory.
LOOK_AGAIN = 2.0
# Libraries that nearly every training run loads, some of them late; trials start with them loaded.
PRELOADED = (
    __name__,
    "unialign.stages.models.backbones.registry",
    "unialign.cache.batches.work_ring",
    "torch.utils.tensorboard",
)
# Maximum length of an error message; those of network libraries can fill pages.
LONGEST = 300


@dataclass(frozen=True)
class Report:
    """Progress report of a running trial. peak: bytes that it has used so far."""

    progress: Progress
    peak: int


@dataclass
class Running:
    """A running trial. settled: it has trained and evaluated an epoch, so its peak memory is known."""

    trial: Trial
    process: ForkServerProcess
    peak: int = 0
    first_epoch: int | None = None
    settled: bool = False
    gpu: str | None = None


def threads_per_trial() -> int:
    """Threads of each trial's networks: OMP_NUM_THREADS if that is a number, otherwise 1."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) else 1


def train_trials(
    config: Config,
    trials: Sequence[Trial],
    *,
    done: Callable[[TrialOutcome], None],
    jobs: int | None = None,
    on_gpu: bool = False,
    gpus: Sequence[str] = (),
    show: Callable[[Trial, Progress], None] = lambda trial, progress: None,
) -> None:
    """Train all trials; `done` gets each one's outcome as it ends, whatever became of the others.

    jobs: trials in parallel; None applies the rule in the module. gpus: instead, a trial at a time on each, which a GPU
        named twice has two of. When an exception leaves it (an interrupt, or one of `done`), all processes have ended.
    """
    idle = deque(gpus)
    jobs = len(gpus) or jobs
    most = jobs or (1 if on_gpu else max(1, free_cores() // threads_per_trial()))
    waiting, locked, largest = deque(trials), list[Trial](), 0
    running: dict[Connection, Running] = {}
    with ended(running):
        while waiting or running:
            while waiting and len(running) < most and (jobs or _fits(running, largest)):
                _start(config, waiting.popleft(), running, idle.popleft() if gpus else None)
            for connection in wait(list(running), LOOK_AGAIN):
                assert isinstance(connection, Connection)
                each = running[connection]
                message = _receive(connection, each)
                if isinstance(message, Report):
                    largest = max(largest, _note(each, message))
                    show(each.trial, message.progress)
                    continue
                each.process.join()
                del running[connection]
                connection.close()
                if each.gpu is not None:
                    idle.append(each.gpu)
                if isinstance(message, FailedTrial) and message.locked and running:
                    # Possibly by one of this sweep's own trials, the same run under another row's name: once that has
                    # ended, it can be reused.
                    locked.append(each.trial)
                    continue
                waiting.extend(locked)
                locked.clear()
                if isinstance(message, TrialResult):
                    largest = max(largest, message.memory or 0)
                done(message)


def _fits(running: dict[Connection, Running], largest: int) -> bool:
    return one_more_fits(available_memory(), largest or None, [each.peak for each in running.values()])


def _note(each: Running, report: Report) -> int:
    """Record a trial's progress; returns its peak memory once that is meaningful, and 0 before."""
    each.peak = max(each.peak, report.peak)
    if each.first_epoch is None:
        each.first_epoch = report.progress.epoch
    each.settled = each.settled or report.progress.epoch > each.first_epoch
    return each.peak if each.settled else 0


def _start(config: Config, trial: Trial, running: dict[Connection, Running], gpu: str | None) -> None:
    """Start a trial and add it to the running ones.

    Its process comes from a fork server that has loaded the libraries once: neither a fork of this process, which would
    inherit the threads of its libraries in an undefined state, nor a new interpreter, which takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    ours, theirs = context.Pipe(duplex=False)
    task = Task(os.getcwd(), threads_per_trial(), config, trial)
    process = context.Process(target=work, args=(theirs, task, gpu))
    # Added first, so that an interrupt during the start finds it.
    running[ours] = Running(trial, process, gpu=gpu)
    with theirs:
        process.start()


def _receive(connection: Connection, each: Running) -> Report | TrialOutcome:
    """The next message of a trial; for one that died without any, how it died."""
    try:
        message: Report | TrialOutcome = connection.recv()
    except (EOFError, OSError):
        each.process.join()
        return died(each.trial, each.process.exitcode or 0)
    return message


def died(trial: Trial, code: int) -> FailedTrial:
    """A trial whose process ended with that code, negative for a signal, and without a result."""
    how = (
        f"was ended by {signal.Signals(-code).name}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
        if code < 0
        else f"ended with exit code {code} and without a result; its messages are above"
    )
    return FailedTrial(trial, f"the training {how}.")


@contextlib.contextmanager
def ended(running: dict[Connection, Running]) -> Iterator[None]:
    """On exit from the block, none of these processes is left."""
    try:
        yield
    finally:
        started = [each.process for each in running.values() if each.process.pid is not None]
        for process in started:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for process in started:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                _signal(process, signal.SIGKILL)
                process.join()
        for connection in running:
            connection.close()


def _signal(process: ForkServerProcess, number: int) -> None:
    """Send a signal to a trial and to all processes that it has started."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
        # The process group does not exist yet if the trial has only just started; then it has started nothing.
        os.killpg(process.pid, number)


@dataclass(frozen=True)
class Task:
    """What the process of a trial is given. folder: the working folder. threads: of its networks."""

    folder: str
    threads: int
    config: Config
    trial: Trial


class Sender(Protocol):
    """Where a trial's process sends its reports and its outcome."""

    def send(self, message: object, /) -> None:
        """Raises BrokenPipeError where nobody reads them any more."""


def work(connection: Sender, task: Task, gpu: str | None = None) -> None:
    """Train one trial. Runs in the trial's process; sends reports, and the outcome last."""
    os.setsid()
    os.chdir(task.folder)
    if gpu is not None:
        # Before the driver is loaded.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    limit_threads(task.threads)
    # The sweep is gone: nobody needs the result.
    with contextlib.suppress(BrokenPipeError):
        try:
            connection.send(_trained(connection, task.config, task.trial))
        except Exception as error:
            connection.send(failure(task.trial, error))
            if not isinstance(error, UnialignError | OSError | MemoryError):
                # An unexpected error: its traceback belongs on the screen.
                raise


def _trained(connection: Sender, config: Config, trial: Trial) -> TrialResult:
    last = [0.0, -1.0]

    def show(progress: Progress) -> None:
        now = time.monotonic()
        if now - last[0] >= REPORT_EVERY or progress.epoch != last[1]:
            last[:] = [now, progress.epoch]
            connection.send(Report(progress, peak_memory()))

    result = train_trial(config, trial, show)
    memory, gpu_memory = memory_of(Path(result.run))
    return replace(result, memory=memory, gpu_memory=gpu_memory)


def failure(trial: Trial, error: Exception) -> FailedTrial:
    """What an error of a training run means for the sweep, in one line."""
    if isinstance(error, UnialignError):
        return FailedTrial(trial, str(error), error.exit_code, locked=isinstance(error, LockedStore))
    text = " ".join(str(error).split())
    return FailedTrial(trial, f"{type(error).__name__}: {text[:LONGEST]}".rstrip(": "))
