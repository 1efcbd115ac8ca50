"""Where Dask's workers run, by the name that `--cluster` gives: a row for each kind, or a scheduler's address."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from unialign.cache.cores import free_cores, usable_cores
from unialign.errors import UsageError
from unialign.pipeline.extraction.hardware import VARIABLES
from unialign.pipeline.memory import available_memory

# Seconds before the end of a SLURM job at which its worker takes no more units, and the time that workers' ends differ
# by, so that not all leave at once.
LEAVES_BEFORE, STAGGER = 300, 60
# Of a SLURM job, unless Dask's configuration says otherwise.
JOB_MEMORY = "8GB"
SLURM_JOBS = 10


@contextmanager
def connected(cluster: str, threads: int, allowed_failures: int) -> Iterator[Any]:
    """A Dask client of the cluster with that name, whose workers begin with it and end with it.

    threads: of the networks in each worker. allowed_failures: how often a unit may lose its worker.
    Raises `UsageError` for an unknown name, an absent GPU or library, and a scheduler that does not answer.
    """
    # Dask needs one, and would bury the fact that there is none in a traceback.
    tempfile.gettempdir()
    import dask
    from distributed import Client

    kind, number = kind_of(cluster)
    settings = {
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": allowed_failures,
    }
    with dask.config.set(settings):
        if kind in CLUSTERS:
            with CLUSTERS[kind](number, threads) as made, Client(made) as client:
                yield client
        else:
            try:
                found = Client(cluster, timeout="10s")
            except OSError as error:
                raise UsageError(
                    f"no Dask scheduler answers at {cluster}; start one or use --cluster local:N."
                ) from error
            with found as client:
                yield client


def kind_of(cluster: str) -> tuple[str, int]:
    """The row of `CLUSTERS` that a name means and its number, 0 where there is none; "" and 0 for an address.

    Raises `UsageError` for anything else.
    """
    kind, colon, number = cluster.partition(":")
    if kind in CLUSTERS and (not colon or (number.isdecimal() and number.isascii() and int(number))):
        return kind, int(number or 0)
    if "://" in cluster:
        return "", 0
    known = ", ".join(f"{name}:N" for name in CLUSTERS)
    raise UsageError(f"--cluster {cluster!r} is neither {known} nor a scheduler's address such as tcp://host:8786.")


def _local(number: int, threads: int) -> Any:
    """Processes on this machine: as many as cores are idle, unless a number is given."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=number or free_cores(),
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        # Dask always starts an HTTP server: at 0.0.0.0:8787, unless told otherwise.
        dashboard_address="127.0.0.1:0",
        env=_environment(threads),
    )


def _local_cuda(number: int, threads: int) -> Any:
    """Processes on the GPUs of this machine in turn: one for each GPU, unless a number is given.

    Each sees its own GPU only, as CUDA_VISIBLE_DEVICES, so nothing else has to know that there are several.
    """
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = shared_gpus(number)
    memory = (available_memory() or 0) // len(gpus)
    spec = {
        place: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "host": "127.0.0.1",
                "dashboard": False,
                "memory_limit": memory or "auto",
                "env": {**_environment(threads), "CUDA_VISIBLE_DEVICES": gpu},
            },
        }
        for place, gpu in enumerate(gpus)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    return SpecCluster(workers=spec, scheduler=scheduler)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def shared_gpus(number: int) -> list[str]:
    """The GPU of each of so many processes, as CUDA_VISIBLE_DEVICES: the visible ones in turn; 0: one process each.

    Raises `UsageError` where none is visible.
    """
    gpus = visible_gpus()
    if not gpus:
        raise UsageError("--cluster local-cuda: no GPU is visible here (CUDA_VISIBLE_DEVICES, driver); take local:N.")
    return [gpus[place % len(gpus)] for place in range(number or len(gpus))]


def sharing_gpus(cluster: str, workers: int) -> str:
    """The cluster with so many workers on each visible GPU, for `--workers-per-gpu`.

    Raises `UsageError` for anything but plain local-cuda, and where no GPU is visible.
    """
    if cluster != "local-cuda":
        raise UsageError(
            f"--workers-per-gpu {workers} goes with --cluster local-cuda, not with {cluster or 'none'!r}; local-cuda:N "
            "says itself how many workers there are."
        )
    return f"local-cuda:{workers * len(shared_gpus(0))}"


def _slurm(number: int, threads: int) -> Any:
    """SLURM jobs with one worker each, as many as there is work for, up to a number.

    Partition, account, walltime, memory, GPUs and the network interface come from Dask's own configuration, the section
    `jobqueue.slurm` (`~/.config/dask/jobqueue.yaml`). A worker leaves before its job ends and hands its unit on.
    """
    import dask

    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise UsageError(
            "--cluster slurm needs dask-jobqueue; install it with: pip install 'unialign[slurm]'."
        ) from error

    def given(name: str) -> Any:
        # Dask takes both - and _ in its files.
        return dask.config.get(f"jobqueue.slurm.{name}", None)

    ours = {"cores": min(threads, usable_cores()), "memory": JOB_MEMORY}
    options = {name: value for name, value in ours.items() if given(name) is None}
    lifetime = max(seconds_of(given("walltime") or "00:30:00") - LEAVES_BEFORE, LEAVES_BEFORE)
    # All cores are for the networks of the one unit that a worker works on at a time.
    one_at_a_time = ["--nthreads", "1", "--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{STAGGER}s"]
    cluster = SLURMCluster(
        **options,
        processes=1,
        worker_extra_args=[*(given("worker-extra-args") or []), *one_at_a_time],
        job_script_prologue=[
            *(given("job-script-prologue") or []),
            *(f"export {name}={value}" for name, value in _environment(threads).items()),
        ],
    )
    cluster.adapt(minimum_jobs=1, maximum_jobs=number or SLURM_JOBS)
    return cluster


def seconds_of(walltime: str) -> int:
    """Seconds of a SLURM time: minutes, minutes:seconds, hours:minutes:seconds, with days- in front or not.

    Raises `UsageError` for anything else.
    """
    days, dash, clock = walltime.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (*parts, *([days] if dash else []))) or len(parts) > 3:
        raise UsageError(
            f"jobqueue.slurm.walltime {walltime!r} is not a time such as 02:30:00; correct Dask's configuration."
        )
    # With days in front, the first number counts hours; one number alone counts minutes.
    hours = len(parts) == 3 or bool(dash)
    units = (3600, 60, 1) if hours else (60, 1)
    return 86400 * int(days or 0) + sum(int(part) * unit for part, unit in zip(parts, units, strict=False))


def _environment(threads: int) -> dict[str, str]:
    return {name: str(threads) for name in VARIABLES}


CLUSTERS: dict[str, Callable[[int, int], Any]] = {"local": _local, "local-cuda": _local_cuda, "slurm": _slurm}
