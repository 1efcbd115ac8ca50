"""The hardware and libraries that compute: processor, device of the networks, library builds; for records and runs."""

import contextlib
import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

from unialign.stages.extraction.base import Extractor
from unialign.types import Json

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Maximum number of threads of an extractor's networks, if none is given, so that machines with at least that many cores
# give the same bytes, and a shared machine is not overloaded. More cores serve more workers.
NETWORK_THREADS = 4


# Parameters of glibc's `mallopt` (malloc.h), and the bytes of freed memory that a worker keeps; larger blocks than the
# second one are the kernel's, and 32 MB is the most that glibc takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT, LARGEST_KEPT = 256 << 20, 32 << 20


def keep_freed_memory() -> None:
    """Have this process use the memory of freed frames again, where its C library is glibc.

    By default glibc gives it back to the kernel, which zeroes a page before it hands it out again: 7 % of the time of
    decoding.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)


@cache
def processor() -> str:
    """The model name of the processor, such as "AMD EPYC 7B13", or its architecture if the system does not report a
    model.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2] for line in lines if line.partition(":")[0].strip() in ("model name", "Model")]
    return " ".join(named[0].split()) if named and named[0].strip() else platform.machine()


def environment_of(extractor: Extractor, threads: int) -> dict[str, Json]:
    """What computes the features of an extractor in this process: "processor", and what affects a network's rounding.

    These are "device" (the GPU's name, or "cpu"), "torch" and "cuda" (their builds), and on a CPU "threads". The same
    for each shard that this machine computes, whatever else the process has done.
    """
    found: dict[str, Json] = {"processor": processor()}
    device = getattr(extractor, "device", None)
    torch = sys.modules.get("torch")
    if device is None or torch is None:
        return found
    return found | network_builds(torch, str(device), threads)


def network_builds(torch: Any, device: str, threads: int) -> dict[str, Json]:
    """Device and library builds of networks that run on a device: "auto", "cpu", "cuda", "cuda:1"."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        name = torch.cuda.get_device_name(None if device == "auto" else device)
        return {"device": name, "torch": str(torch.__version__), "cuda": torch.version.cuda}
    return {"device": "cpu", "torch": str(torch.__version__), "threads": threads}


def network_threads(cluster: str, cores: int) -> int:
    """Threads of the networks in each worker of a `--cluster`, if none is given; never depends on the load.

    With plain "local" there are as many workers as idle cores at the moment, so each has 1, however many there are.
    """
    kind, _, number = cluster.partition(":")
    if kind != "local" and not (kind == "local-cuda" and number):
        return min(NETWORK_THREADS, cores)
    return max(1, min(NETWORK_THREADS, cores // int(number))) if number.isdigit() and int(number) else 1


def limit_threads(threads: int) -> None:
    """Set the number of threads of this process's networks; floating-point sums depend on it."""
    for name in VARIABLES:
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
