"""Who holds something: a process, in a form that tells later whether it still lives."""

import json
import os
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from unialign.types import Json


def this_process() -> dict[str, Json]:
    """This process, for others to read: number, host, start, and since when (for people only)."""
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def read_owner(link: Path) -> str:
    """What a link names as its target; empty when it is gone, or no link."""
    with suppress(OSError):
        return os.readlink(link)
    return ""


def is_dead(owner: str) -> bool:
    """Whether the process in a text of `this_process` has certainly ended; what ran elsewhere may live."""
    try:
        found = json.loads(owner)
        process, started = int(found["process"]), str(found["started"])
        here = (found["host"], found["machine"]) == (socket.gethostname(), _machine())
    except (ValueError, KeyError, TypeError):
        return False
    if not here:
        return False
    with suppress(PermissionError):  # it is there, and another user's
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
    # The number may have been given to another process since.
    now = _started(process)
    return bool(now) and now != started


@cache
def _machine() -> str:
    """This start of this machine, and the container: process numbers mean something within both only."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started(process: int) -> str:
    """When a process began, in ticks since the machine did, which no clock that is set changes; "ended" for one that
    only waits to be collected, empty where it cannot be told.
    """
    with suppress(OSError, IndexError):
        # The name of the program stands before, in parentheses, and may hold anything.
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "ended" if state in "ZX" else fields[18]
    return ""
