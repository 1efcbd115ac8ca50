"""Peak memory of a process, free memory of the machine, and whether one more training run fits."""

import gc
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

# Training runs of one grid differ (views, modalities, evaluation batches), so allow 25 % above the largest peak so far.
MARGIN = 1.25


def peak_memory() -> int:
    """Peak resident memory of this process in bytes: its own and mapped pages of local stores.

    Uses Linux's VmHWM if available, because a child process starts with the `ru_maxrss` of its parent.
    """
    status = _fields(Path("/proc/self/status"))
    if "VmHWM" in status:
        return status["VmHWM"] * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_gpu_memory() -> int | None:
    """Peak bytes of this process's tensors on one GPU; None if it has used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return max(int(torch.cuda.max_memory_allocated(device)) for device in range(torch.cuda.device_count()))


def private_memory(pid: int) -> int:
    """Private memory of a process in bytes, including swap, excluding file pages; 0 if it has ended."""
    status = _fields(Path(f"/proc/{pid}/status"))
    return 1024 * sum(status.get(name, 0) for name in ("RssAnon", "RssShmem", "VmSwap"))


@contextmanager
def settled_objects() -> Iterator[None]:
    """Within, the garbage collector leaves alone what exists already.

    With libraries loaded that is a million objects. Looking through them again and again takes a third of the time that
    the samples of a large store take here.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def kernel_kills() -> int:
    """Number of processes killed by the kernel's out-of-memory killer since boot; 0 if unknown."""
    return _fields(Path("/proc/vmstat")).get("oom_kill", 0)


def available_memory() -> int | None:
    """Bytes available to new processes on the machine or, if less, in the control group; None if unknown."""
    machine = _fields(Path("/proc/meminfo")).get("MemAvailable")
    if machine is None:
        return None
    return min([machine * 1024, *(_left(group) for group in _groups())])


def one_more_fits(available: int | None, need: int | None, running: Sequence[int]) -> bool:
    """Whether another training run may start.

    available: free bytes. need: the largest peak seen so far; None while unknown. running: current peaks of the running
        ones. The first may always start; others only if all running ones and the new one can grow to `MARGIN` x need.
    """
    if not running:
        return True
    if available is None or need is None:
        return False
    need = int(MARGIN * need)
    return available - sum(max(0, need - peak) for peak in running) >= need


def _fields(path: Path) -> Mapping[str, int]:
    """The numbers in a file of `name: number` or `name number` lines; empty if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    words = [line.replace(":", " ").split() for line in lines]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def _groups() -> list[Path]:
    """The folders of this process's control groups that may limit memory, innermost first."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers in ("", "memory"):
            top = Path("/sys/fs/cgroup", controllers)
            inner = top / name.lstrip("/")
            found += [inner, *(folder for folder in inner.parents if folder.is_relative_to(top))]
    return found


def _left(group: Path) -> int:
    """Bytes left below the limit of a control group (v1 or v2), counting inactive page cache as free; `sys.maxsize`
    without a limit.
    """
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (int((group / name).read_text()) for name in (limit, used))
        except (OSError, ValueError):
            # Absent, or "max".
            continue
        return max(0, most - now + _fields(group / "memory.stat").get(cached, 0))
    return sys.maxsize
