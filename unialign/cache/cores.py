"""How many cores this process may use, and how many of them are idle at the moment."""

import math
import os
import sys
import time
from functools import lru_cache
from pathlib import Path

# Seconds over which idle time is measured.
MOMENT = 0.25


def usable_cores() -> int:
    """Cores that this process may use: its affinity now, or its control group's quota at first use if that is less."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota_of(os.getpid()))))


@lru_cache(maxsize=1)
def _quota_of(process: int) -> float:
    """The quota of this process, which has that number: one that was forked off may have been moved since."""
    del process
    return cpu_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def free_cores(moment: float = MOMENT) -> int:
    """Usable cores that were idle during a moment, at least 1; this process's own computation counts as busy.

    Only for numbers that do not affect results (how many processes run at once), since it changes with the load.
    """
    first = idle_times(Path("/proc/stat"))
    time.sleep(moment)
    second = idle_times(Path("/proc/stat"))
    shares = [
        (second[core][0] - idle) / (second[core][1] - total)
        for core, (idle, total) in first.items()
        if core in second and second[core][1] > total
    ]
    return max(1, min(usable_cores(), round(sum(shares)))) if shares else usable_cores()


def cpu_quota(groups: Path, root: Path) -> float:
    """Number of cores that the control groups of a process allow (version 1 or 2, the minimum over all levels);
    infinite without.

    groups: such as /proc/self/cgroup. root: where the groups are mounted, such as /sys/fs/cgroup.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    found = math.inf
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers
        inner = top / name.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(top):
                found = min(found, _quota(folder))
    return found


def _quota(folder: Path) -> float:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = (int(word) for name in names for word in (folder / name).read_text().split())
        except (OSError, ValueError):
            # Absent, or "max".
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


def idle_times(stat: Path) -> dict[int, tuple[int, int]]:
    """(idle, total) ticks of each core that this process may use, from a file such as /proc/stat; {} without one."""
    try:
        lines = stat.read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            values = [int(tick) for tick in ticks[:8]]
            found[int(name[3:])] = (values[3] + values[4], sum(values))
    return {core: times for core, times in found.items() if core in os.sched_getaffinity(0)}
