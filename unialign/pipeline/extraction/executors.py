"""What runs the units of a plan: a serial loop that defines the semantics, and Dask, which must give the same bytes.

Both run the extractor in a separate process (`supervisor.py`), which a bad sample may end; the process that stores the
results, this one or a Dask worker, survives. Only the outcome of a unit is sent back from a Dask worker (ids, statuses,
digests), never features. No other module uses Dask.
"""

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unialign.cache.cores import free_cores
from unialign.cache.records import Entry
from unialign.cache.store import Store, check_arrays, open_store, write_shard
from unialign.errors import UnialignError, UsageError
from unialign.pipeline.extraction.planning import Unit
from unialign.pipeline.extraction.supervisor import Limits, Supervisor
from unialign.stages.extraction.base import Extractor, Outcome
from unialign.types import Json

# How often a unit may lose its Dask worker before the run stops.
ALLOWED_FAILURES = 3


@dataclass(frozen=True)
class Job:
    """Settings shared by all units of an extraction. threads: of the networks in each worker."""

    extractor: Extractor
    store: Path
    threads: int
    limits: Limits


@dataclass(frozen=True)
class Done:
    """The result of a unit: (id, status, source digest) of each sample of one shard."""

    shard: int
    samples: tuple[tuple[str, str, str], ...]


def store_unit(job: Job, unit: Unit, outcomes: Iterable[Outcome], environment: Mapping[str, Json]) -> Done:
    """Store the results of a unit, in order; the only writer of this shard. environment: what computed it."""
    store = open_store(job.store)
    found = [fitting(store, outcome) for outcome in outcomes]
    entries = [Entry(each.id, each.status, each.source, {}, each.detail) for each in found]
    write_shard(store, unit.shard, entries, [each.arrays for each in found], environment)
    return Done(unit.shard, tuple((each.id, each.status, each.source) for each in found))


def fitting(store: Store, outcome: Outcome) -> Outcome:
    """The outcome itself, or "internal-error" if its arrays do not match those of the store."""
    if outcome.status == "ok":
        try:
            check_arrays(store, outcome.arrays)
        except ValueError as error:
            return replace(outcome, status="internal-error", arrays={}, detail={"why": f"ValueError: {error}"})
    return outcome


Executor = Callable[[Job, Sequence[Unit]], Iterator[Done]]


def run_serial(job: Job, units: Sequence[Unit]) -> Iterator[Done]:
    """The units one after the other: extracted in one worker process, stored by this one."""
    with Supervisor(job.extractor, job.threads, job.limits) as supervisor:
        for unit in units:
            yield store_unit(job, unit, supervisor.run(unit.sources), supervisor.environment)


class _Own(threading.local):
    """State of a Dask worker thread between units; the extractor's process ends with the thread, or when idle."""

    job: Job | None = None
    supervisor: Supervisor | None = None


_own = _Own()


def run_on_worker(job: Job, unit: Unit) -> Done:
    """Run one unit on a Dask worker."""
    from distributed import get_worker

    if _own.supervisor is None or _own.job != job:
        if _own.supervisor is not None:
            _own.supervisor.close()
        worker = get_worker()
        # The memory limit that Dask gave this worker, shared by its threads.
        memory = job.limits.memory or int(worker.memory_manager.memory_limit or 0) // worker.state.nthreads
        limits = replace(job.limits, memory=memory)
        _own.job, _own.supervisor = job, Supervisor(job.extractor, job.threads, limits, fork=False)
    return store_unit(job, unit, _own.supervisor.run(unit.sources), _own.supervisor.environment)


def run_dask(client: Any, job: Job, units: Sequence[Unit]) -> Iterator[Done]:
    """The units on the workers of a Dask client, in order of completion.

    A unit whose worker dies is given to another worker. Each future is released as soon as it is done: a kept one would
    be computed again if its worker dies later. The job is sent with each unit: if it were distributed once, it would be
    lost, together with all units that wait for it, if the workers that hold it die at the same time.
    """
    from distributed import CancelledError, as_completed
    from distributed.scheduler import KilledWorker

    futures = [
        client.submit(run_on_worker, job, unit, key=f"shard-{unit.shard}-{id(units)}", pure=False) for unit in units
    ]
    numbers = {future.key: unit.shard for future, unit in zip(futures, units, strict=True)}
    waiting = as_completed(futures)
    del futures
    for future in waiting:
        try:
            done: Done = future.result()
        except KilledWorker as error:
            raise UnialignError(
                f"{ALLOWED_FAILURES + 1} Dask workers in a row died while they worked on shard {numbers[future.key]}. "
                "No sample does that, they are extracted in processes of their own: look whether the machines run out "
                "of memory or something ends the workers. Finished shards are kept; repeat the command."
            ) from error
        except CancelledError as error:
            raise UnialignError(
                f"shard {numbers[future.key]} was given up: the Dask scheduler has gone; finished shards are kept. "
                "Start it again and repeat the command."
            ) from error
        future.release()
        yield done


@contextmanager
def executor(cluster: str, threads: int) -> Iterator[Executor]:
    """The executor for `--cluster`: "" (serial), "local" or "local:4", or a scheduler's address ("tcp://...").

    Raises `UsageError` for anything else or a scheduler that does not answer.
    """
    if not cluster:
        yield run_serial
        return
    # Dask needs one, and would bury the fact that there is none in a traceback.
    tempfile.gettempdir()
    import dask
    from distributed import Client, LocalCluster

    kind, _, number = cluster.partition(":")
    settings = {
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    }
    with dask.config.set(settings):
        if kind == "local" and (not number or (number.isdecimal() and int(number))):
            workers = int(number or free_cores())
            with (
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    # Dask always starts an HTTP server: at 0.0.0.0:8787, unless told otherwise.
                    dashboard_address="127.0.0.1:0",
                    env={"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
                ) as local,
                Client(local) as client,
            ):
                yield lambda job, units: run_dask(client, job, units)
        elif "://" in cluster:
            try:
                connected = Client(cluster, timeout="10s")
            except OSError as error:
                raise UsageError(
                    f"no Dask scheduler answers at {cluster}; start one or use --cluster local:N."
                ) from error
            with connected as client:
                yield lambda job, units: run_dask(client, job, units)
        else:
            raise UsageError(
                f"--cluster {cluster!r} is neither local:N nor a scheduler's address such as tcp://host:8786."
            )
