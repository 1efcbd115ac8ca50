"""What runs the units of a plan: a serial loop that defines the semantics, and Dask, which must give the same bytes.

Both run the extractor in a separate process (`supervisor.py`), which a bad sample may end; the process that stores the
results, this one or a Dask worker, survives. Only the outcome of a unit is sent back from a Dask worker (ids, statuses,
digests), never features. `clusters.py` starts Dask's processes; no other module uses it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from typing import Any, TypeVar

from unialign.cache.records import Entry
from unialign.cache.remote.outbox import Outbox
from unialign.cache.store import Store, check_arrays, open_store, write_shard
from unialign.errors import UnialignError
from unialign.pipeline.extraction.pace import Tally, tally
from unialign.pipeline.extraction.planning import Unit
from unialign.pipeline.extraction.supervisor import Limits, Supervisor
from unialign.pipeline.extraction.supply import Piece, Supply, groups
from unialign.stages.extraction.base import Extractor, Outcome
from unialign.types import Json

LOGGER = logging.getLogger(__name__)

# How often a unit may lose its Dask worker before the run stops.
ALLOWED_FAILURES = 3
# Units that the scheduler knows of at a time, per thread of its workers, and at least: each costs memory and time.
UNITS_PER_THREAD = 4
LEAST_WINDOW = 16
# Units that are begun and not stored yet: what a full disk or a kill costs at most.
IN_HAND = 2


@dataclass(frozen=True)
class Job:
    """Settings shared by all units of an extraction.

    threads: of the networks in each worker. outbox: where shards are sent, if the cache is in object storage.
    """

    extractor: Extractor
    store: Path
    threads: int
    limits: Limits
    outbox: Outbox | None = None


@dataclass(frozen=True)
class Done:
    """The result of a unit: (id, status, source digest) of each sample of one shard, and what it took."""

    shard: int
    samples: tuple[tuple[str, str, str], ...]
    tally: Tally = field(default=Tally(), compare=False)


# Is told what was done, as it is done.
Watch = Callable[[Tally], None]


def store_unit(job: Job, unit: Unit, outcomes: Iterable[Outcome], environment: Mapping[str, Json]) -> Done:
    """Store the results of a unit, in order; the only writer of this shard. environment: what computed it."""
    store = open_store(job.store)
    found = [fitting(store, outcome) for outcome in outcomes]
    entries = [Entry(each.id, each.status, each.source, {}, each.detail) for each in found]
    record = write_shard(store, unit.shard, entries, [each.arrays for each in found], environment)
    if job.outbox:
        job.outbox.send_shard(store, record)
    return Done(unit.shard, tuple((each.id, each.status, each.source) for each in found))


def fitting(store: Store, outcome: Outcome) -> Outcome:
    """The outcome itself, or "internal-error" if its arrays do not match those of the store."""
    if outcome.status == "ok":
        try:
            check_arrays(store, outcome.arrays)
        except ValueError as error:
            return replace(outcome, status="internal-error", arrays={}, detail={"why": f"ValueError: {error}"})
    return outcome


Executor = Callable[[Job, Supply[Unit], Watch], Iterator[Done]]


def run_serial(job: Job, units: Supply[Unit], watch: Watch = lambda tally: None) -> Iterator[Done]:
    """The units one after the other: extracted in one worker process, stored by this one while the next is extracted.

    One unit is stored at a time, in order, so that a kill leaves the same as without the thread: whole shards. At most
    `IN_HAND` are begun and not stored yet. The worker gets several units at once, so that its threads do not run out of
    work at the end of each.
    """
    last = time.monotonic()

    def seen(outcomes: Sequence[Outcome], disk: float = 0.0) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        watch(tally(outcomes, last - before, disk))

    behind: Future[Done] | None = None
    num_begun = num_stored = 0

    def stored(unit: Future[Done]) -> Done:
        nonlocal behind, num_stored
        # What was waited for: the rest was done meanwhile.
        started = time.monotonic()
        done = unit.result()
        seen((), time.monotonic() - started)
        behind, num_stored = None, num_stored + 1
        return done

    with ThreadPoolExecutor(1) as disk, Supervisor(job.extractor, job.threads, job.limits) as supervisor:
        for group in groups(units):
            shelf, ends = Shelf(group), [0, *accumulate(len(unit.sources) for unit in group)]
            sources = [source for unit in group for source in unit.sources]
            # How many outcomes of the group may be there, with so many units of earlier groups.
            allowed = partial(_allowed, ends, num_begun)
            num_begun += len(group)
            for outcomes in supervisor.stream(sources, allowed(num_stored)):
                seen(outcomes)
                for unit, whole in shelf.put(outcomes):
                    if behind is not None:
                        yield stored(behind)
                    behind = disk.submit(store_unit, job, unit, whole, supervisor.environment)
                if behind is not None and behind.done():
                    yield stored(behind)
                supervisor.allow(allowed(num_stored))
        if behind is not None:
            yield stored(behind)


def _allowed(ends: Sequence[int], num_earlier: int, num_stored: int) -> int:
    return ends[min(len(ends) - 1, num_stored - num_earlier + IN_HAND)]


class Shelf:
    """The outcomes of one store until their unit is complete; they come in the order of the units."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._units = iter(units)
        self._unit = next(self._units, None)
        self._held: list[Outcome] = []

    def put(self, outcomes: Iterable[Outcome]) -> Iterator[tuple[Unit, list[Outcome]]]:
        """Add outcomes; gives each unit that is complete with them, with all of its own."""
        for outcome in outcomes:
            assert self._unit is not None
            self._held.append(outcome)
            if len(self._held) == len(self._unit.sources):
                assert [each.id for each in self._held] == [source.id for source in self._unit.sources]
                yield self._unit, self._held
                self._unit, self._held = next(self._units, None), []


class _Own(threading.local):
    """State of a Dask worker thread between units; the extractor's process ends with the thread, or when idle."""

    job: Job | None = None
    supervisor: Supervisor | None = None


_own = _Own()


def run_on_worker(job: Job, unit: Unit) -> Done:
    """Run one unit on a Dask worker."""
    if _own.supervisor is None or _own.job != job:
        if _own.supervisor is not None:
            _own.supervisor.close()
        _own.job, _own.supervisor = job, supervisor_on_worker(job, job.extractor)
    started = time.monotonic()
    outcomes = _own.supervisor.run(unit.sources)
    extracted = time.monotonic()
    done = store_unit(job, unit, outcomes, _own.supervisor.environment)
    now = time.monotonic()
    return replace(done, tally=tally(outcomes, now - started, now - extracted))


def supervisor_on_worker(job: Job, extractor: Extractor) -> Supervisor:
    """Runs an extractor on a Dask worker."""
    from distributed import get_worker

    worker = get_worker()
    # The memory limit that Dask gave this worker, shared by its threads.
    memory = job.limits.memory or int(worker.memory_manager.memory_limit or 0) // worker.state.nthreads
    limits = replace(job.limits, memory=memory)
    return Supervisor(extractor, job.threads, limits, decoders=job.threads, fork=False)


Result = TypeVar("Result")


@dataclass(frozen=True)
class OnCluster:
    """Runs units on the workers of a Dask client."""

    client: Any

    def __call__(self, job: Job, units: Supply[Unit], watch: Watch = lambda tally: None) -> Iterator[Done]:
        """The units, in order of completion."""
        for done in run_dask(self.client, partial(run_on_worker, job), units):
            watch(done.tally)
            yield done


def run_dask(client: Any, run: Callable[[Piece], Result], supply: Supply[Piece]) -> Iterator[Result]:
    """The results of pieces of work on the workers of a Dask client, in order of completion; the scheduler gets them a
    few at a time.

    One whose worker dies is given to another worker. Each future is released as soon as it is done: a kept one would
    be computed again if its worker dies later. `run`, which holds the job, is sent with each: if it were distributed
    once, it would be lost, together with all work that waits for it, if the workers that hold it die at the same time.
    """
    from distributed import as_completed

    names: dict[str, str] = {}
    number = next(_runs)

    def submit(most: int) -> list[Any]:
        some = []
        for piece in supply.take(most):
            some.append(client.submit(run, piece, key=f"shard-{piece.name}-{number}", pure=False))
            names[some[-1].key] = piece.name
        return some

    window = _window(client)
    waiting = as_completed(submit(window))
    for future in waiting:
        result: Result = _result(future, names.pop(future.key))
        future.release()
        if len(names) <= window // 2:
            window = _window(client)  # workers may have come or gone
            for each in submit(max(0, window - len(names))):
                waiting.add(each)
        yield result


# Numbers the runs of this process, for the names of their tasks.
_runs = count()


def _window(client: Any) -> int:
    """How many units the scheduler knows of at a time: enough for every worker, however many units there are."""
    threads: int = sum(client.nthreads().values())
    return max(LEAST_WINDOW, UNITS_PER_THREAD * threads)


def _result(future: Any, name: str) -> Any:
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise UnialignError(
            f"{ALLOWED_FAILURES + 1} Dask workers in a row died while they worked on shard {name}. "
            "No sample does that, they are extracted in processes of their own: look whether the machines run out "
            "of memory or something ends the workers. Finished shards are kept; repeat the command."
        ) from error
    except CancelledError as error:
        raise UnialignError(
            f"shard {name} was given up: the Dask scheduler has gone; finished shards are kept. "
            "Start it again and repeat the command."
        ) from error


# Gives the executor for a `--cluster`, with the threads of its networks; the function is told what a user should know.
Begin = Callable[[str, int, Callable[[str], None]], AbstractContextManager[Executor]]


@contextmanager
def executor(cluster: str, threads: int, announce: Callable[[str], None] = LOGGER.info) -> Iterator[Executor]:
    """The executor for `--cluster`: "" (serial), or what `clusters.connected` knows.

    announce: is told where the cluster can be watched. Raises `UsageError` for anything else or a scheduler that does
    not answer.
    """
    with one_cluster() as begin, begin(cluster, threads, announce) as run:
        yield run


@contextmanager
def one_cluster() -> Iterator[Begin]:
    """Executors for several extractions, one after the other, which share a cluster; it starts when it is needed."""
    with ExitStack() as until_the_end:
        clients: dict[str, Any] = {}

        @contextmanager
        def begin(cluster: str, threads: int, announce: Callable[[str], None]) -> Iterator[Executor]:
            if not cluster:
                yield run_serial
                return
            if cluster not in clients:
                from unialign.pipeline.extraction.clusters import connected

                client = until_the_end.enter_context(connected(cluster, threads, ALLOWED_FAILURES))
                announce(f"the cluster can be watched at {client.dashboard_link}")
                clients[cluster] = client
            yield OnCluster(clients[cluster])

        yield begin
