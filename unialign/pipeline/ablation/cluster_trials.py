"""The training runs of a sweep on the workers of a Dask cluster: as many on each at a time as it has threads.

Every trial has a process of its own there too, with the same number of threads as here, so no number depends on where
it ran. A trial whose worker dies, or leaves because its job ends, is given to another one, and goes on from its last
checkpoint; its process ends with the worker. Until it has, its run is locked: the other one tries again for a while.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any

from unialign.errors import UnialignError
from unialign.pipeline.ablation.grid import Trial
from unialign.pipeline.ablation.results import FailedTrial, TrialResult
from unialign.pipeline.ablation.trials import Report, Task, TrialOutcome, died, threads_per_trial, work
from unialign.pipeline.config import Config
from unialign.pipeline.extraction.channel import connected as channel_pair
from unialign.pipeline.extraction.channel import inherited
from unialign.pipeline.extraction.clusters import connected
from unialign.pipeline.extraction.parent import die_with
from unialign.stages.training.loop import Progress

# How often a trial may lose its worker before it has failed.
ALLOWED_FAILURES = 3
# Seconds between two reports of a trial to the scheduler, and that a new process has to take its task.
REPORT_EVERY, STARTING = 1.0, 60.0
# Seconds after which a trial whose run is locked by a process that is about to end is tried again, and at most.
LOCKED_PAUSE, LOCKED_FOR = 2.0, 60.0


def train_on_cluster(
    config: Config,
    trials: Sequence[Trial],
    *,
    cluster: str,
    done: Callable[[TrialOutcome], None],
    show: Callable[[Trial, Progress], None] = lambda trial, progress: None,
    announce: Callable[[str], None] = lambda text: None,
) -> None:
    """Train all trials; `done` gets each one's outcome as it ends, whatever became of the others.

    cluster: see `clusters.connected`, which says what is raised. announce: is told where the cluster can be watched.
    """
    topic = f"unialign-trials-{os.getpid()}-{next(_sweeps)}"
    threads = threads_per_trial()
    with connected(cluster, threads, ALLOWED_FAILURES) as client:
        announce(f"the cluster can be watched at {client.dashboard_link}")

        def seen(event: tuple[float, dict[str, Any]]) -> None:
            _, told = event
            show(trials[told["place"]], Progress(**told["progress"]))

        client.subscribe_topic(topic, seen)
        _run(client, [Task(os.getcwd(), threads, config, trial) for trial in trials], topic, done)
        client.unsubscribe_topic(topic)


_sweeps = count()


def _run(client: Any, tasks: Sequence[Task], topic: str, done: Callable[[TrialOutcome], None]) -> None:
    from distributed import as_completed

    places: dict[str, int] = {}
    numbers = count()

    def submit(place: int) -> Any:
        key = f"{topic}-{place}-{next(numbers)}"
        places[key] = place
        return client.submit(train_on_worker, tasks[place], place, topic, key=key, pure=False)

    since: dict[int, float] = {}
    waiting = as_completed([submit(place) for place in range(len(tasks))])
    locked: list[int] = []
    for future in waiting:
        place = places.pop(future.key)
        outcome = _outcome(future, tasks[place].trial)
        future.release()
        if isinstance(outcome, FailedTrial) and outcome.locked:
            first = since.setdefault(place, time.monotonic())
            if places:
                # Possibly by one of this sweep's own trials, the same run under another row's name.
                locked.append(place)
                continue
            if time.monotonic() - first < LOCKED_FOR:
                time.sleep(LOCKED_PAUSE)
                waiting.add(submit(place))
                continue
        for each in locked:
            since[each] = time.monotonic()
            waiting.add(submit(each))
        locked.clear()
        done(outcome)


def _outcome(future: Any, trial: Trial) -> TrialOutcome:
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    try:
        outcome: TrialOutcome = future.result()
    except KilledWorker:
        return FailedTrial(trial, f"{ALLOWED_FAILURES + 1} Dask workers in a row died while it was trained.")
    except CancelledError as error:
        raise UnialignError(
            f"row {trial.row!r} was given up: the Dask scheduler has gone. Start it again and repeat the command."
        ) from error
    return outcome


def train_on_worker(task: Task, place: int, topic: str) -> TrialOutcome:
    """Train one trial on a Dask worker, in a process of its own. place: what its reports are told apart by."""
    from distributed import get_worker

    ours, theirs = channel_pair()
    program = f"from {__name__} import main; main({theirs.fileno()}, {os.getpid()})"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:  # noqa: S603 - our own program
        theirs.close()
        try:
            ours.send(task, STARTING)
            last = float("-inf")
            while not _unwanted():
                message = ours.receive(REPORT_EVERY)
                if isinstance(message, TrialResult | FailedTrial):
                    return message
                if isinstance(message, Report) and time.monotonic() - last >= REPORT_EVERY:
                    last = time.monotonic()
                    get_worker().log_event(topic, {"place": place, "progress": asdict(message.progress)})
            return FailedTrial(task.trial, "the training was ended: nobody waits for its result any more.")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return died(task.trial, process.wait())
        finally:
            ours.close()
            process.kill()


def _unwanted() -> bool:
    """Whether the sweep that asked for this trial has been interrupted, or has ended."""
    from distributed import get_worker
    from distributed.worker import thread_state

    state = get_worker().state.tasks.get(thread_state.key)
    return state is None or state.state == "cancelled"


def main(handle: int, parent: int) -> None:
    """The whole life of a trial's process on a worker. handle: its end of the channel."""
    die_with(parent)
    channel = inherited(handle)
    task: Task | None = channel.receive(STARTING)
    if task is not None:
        work(channel, task)
