"""What runs the units of a plan: a loop that defines the meaning, and Dask, which must give the same bytes.

Only the outcome of a unit travels back (ids, statuses, digests), never features. No other module knows Dask.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unialign.cache.cores import free_cores
from unialign.cache.errors import UnialignError, UsageError
from unialign.cache.records import Entry
from unialign.cache.store import open_store, write_shard
from unialign.pipeline.hardware import environment_of
from unialign.pipeline.planning import Unit
from unialign.stages.extraction.base import Extractor

# Deaths of a worker that one unit may cause before the run stops.
ALLOWED_FAILURES = 3
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """What is the same for all units of an extraction. threads: of the networks in each worker."""

    extractor: Extractor
    store: Path
    threads: int


@dataclass(frozen=True)
class Done:
    """What comes back from a worker: (id, status, source digest) of each sample of one shard."""

    shard: int
    samples: tuple[tuple[str, str, str], ...]


def run_unit(job: Job, unit: Unit) -> Done:
    """Extract one unit and store it. Runs in the worker; the only writer of this shard."""
    limit_threads(job.threads)
    store = open_store(job.store)
    outcomes = list(job.extractor.run(unit.sources))
    if [outcome.id for outcome in outcomes] != [source.id for source in unit.sources]:
        raise RuntimeError(f"extractor {job.extractor.name} did not return one outcome per sample, in order")
    entries = [Entry(found.id, found.status, found.source, {}, found.detail) for found in outcomes]
    environment = environment_of(job.extractor, job.threads)
    write_shard(store, unit.shard, entries, [found.arrays for found in outcomes], environment)
    return Done(unit.shard, tuple((found.id, found.status, found.source) for found in outcomes))


def limit_threads(threads: int) -> None:
    """Give the networks of this process that many threads; floating-point sums depend on it."""
    for name in VARIABLES:
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


@contextmanager
def threads_given_back() -> Iterator[None]:
    """What `limit_threads` changes inside is afterwards as before: a notebook or a program goes on with its own.

    A torch that is loaded inside for the first time keeps the threads that it was loaded with.
    """
    before = {name: os.environ.get(name) for name in VARIABLES}
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch:
            torch.set_num_threads(threads)


Executor = Callable[[Job, Sequence[Unit]], Iterator[Done]]


def run_serial(job: Job, units: Sequence[Unit]) -> Iterator[Done]:
    """One unit after the other, here."""
    for unit in units:
        with threads_given_back():
            done = run_unit(job, unit)
        yield done


def run_dask(client: Any, job: Job, units: Sequence[Unit]) -> Iterator[Done]:
    """The units on the workers of a Dask client, in order of completion.

    A unit whose worker dies is given to another worker. Each future is released as soon as it is done: one that is kept
    would be computed again when its worker dies later.
    """
    from distributed import CancelledError, as_completed
    from distributed.scheduler import KilledWorker

    shared = client.scatter(job, broadcast=True) if len(units) > 1 else job
    futures = [
        client.submit(run_unit, shared, unit, key=f"shard-{unit.shard}-{id(units)}", pure=False) for unit in units
    ]
    numbers = {future.key: unit.shard for future, unit in zip(futures, units, strict=True)}
    waiting = as_completed(futures)
    del futures
    for future in waiting:
        try:
            done: Done = future.result()
        except KilledWorker as error:
            raise UnialignError(
                f"shard {numbers[future.key]} killed {ALLOWED_FAILURES + 1} workers in a row (out of memory, or a file "
                "that crashes a decoder); finished shards are kept. Try fewer workers or more memory."
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
    # Dask needs one, and would hide in a traceback that there is none.
    tempfile.gettempdir()
    import dask
    from distributed import Client, LocalCluster

    kind, _, number = cluster.partition(":")
    settings = {
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    }
    with dask.config.set(settings):
        if kind == "local" and (number.isdigit() or not number):
            workers = int(number or free_cores())
            with (
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    # Dask has an HTTP server in any case: at 0.0.0.0:8787, if it is not told where.
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
