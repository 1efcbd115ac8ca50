"""What computes: the processor, the device of the networks and the builds of their libraries, for records and runs."""

import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

from unialign.stages.extraction.base import Extractor
from unialign.types import Json

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Threads of an extractor's networks at most where nobody says how many, so that machines with that many cores and more
# give the same bytes, and a shared one is not flooded. More cores are for more workers.
NETWORK_THREADS = 4


@cache
def processor() -> str:
    """The model name of the processor, such as "AMD EPYC 7B13"; its architecture where the system names no model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2] for line in lines if line.partition(":")[0].strip() in ("model name", "Model")]
    return " ".join(named[0].split()) if named and named[0].strip() else platform.machine()


def environment_of(extractor: Extractor, threads: int) -> dict[str, Json]:
    """What computes the features of an extractor in this process: "processor", and what decides the sums of a network.

    These are "device" (the GPU's name, or "cpu"), "torch" and "cuda" (their builds), and on a CPU "threads". The same
    for each shard that this machine makes, whatever else the process has done.
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
    """Threads of the networks in each worker of a `--cluster`, where nobody says how many; never a matter of the load.

    With "local" alone there are as many workers as cores are idle at the moment, so each has 1, however many those are.
    """
    kind, _, number = cluster.partition(":")
    if kind != "local":
        return min(NETWORK_THREADS, cores)
    return max(1, min(NETWORK_THREADS, cores // int(number))) if number.isdigit() and int(number) else 1


def limit_threads(threads: int) -> None:
    """Give the networks of this process that many threads; floating-point sums depend on it."""
    for name in VARIABLES:
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
