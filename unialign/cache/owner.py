"""The owner of a lock: a process, described so that it can be determined later whether it is still alive."""

import json
import os
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from unialign.types import Json


def this_process() -> dict[str, Json]:
    """This process, for other processes to read: number, host, start time, and date (for people only)."""
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def read_owner(link: Path) -> str:
    """The target of a link; empty if it is gone, or not a link."""
    with suppress(OSError):
        return os.readlink(link)
    return ""


def is_dead(owner: str) -> bool:
    """Whether the process described by `this_process` has certainly ended; one on another machine may be alive."""
    try:
        found = json.loads(owner)
        process, started = int(found["process"]), str(found["started"])
        here = (found["host"], found["machine"]) == (socket.gethostname(), _machine())
    except (ValueError, KeyError, TypeError):
        return False
    if not here:
        return False
    with suppress(PermissionError):  # it exists and belongs to another user
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
    # The process id may have been reused since.
    now = _started(process)
    return bool(now) and now != started


@cache
def _machine() -> str:
    """This boot of this machine, and the container: process ids are only meaningful within both."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started(process: int) -> str:
    """When a process started, in ticks since boot, which no clock change affects; "ended" for a zombie, empty if
    unknown.
    """
    with suppress(OSError, IndexError):
        # The name of the program precedes it, in parentheses, and may contain any characters.
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "ended" if state in "ZX" else fields[18]
    return ""
