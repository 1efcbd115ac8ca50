"""Description of the machine, memory use of a process, and steps that run in separate processes."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

MIB = 2**20


def machine() -> str:
    """Processor, cores, memory, date and relevant versions, in one line."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "zarr"))
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {torch.get_num_threads()} torch threads, "
        f"Python {platform.python_version()}, {versions}, {date.today()}"
    )


def report(rows: Sequence[dict[str, Any]], file: Path | None = None) -> None:
    """Print the machine and a Markdown table of rows that have the same columns; write the rows to a JSON file too."""
    print(f"{machine()}\n\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    if file:
        file.write_text(json.dumps(rows, indent=2) + "\n")


def memory_of(field: str) -> int:
    """Bytes of a field of /proc/self/status: "VmHWM" (peak), "VmRSS" (now), "RssAnon" (now, without mapped files).

    Not `ru_maxrss`: a child inherits that from the process that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Peak:
    """Peak memory of this process, beyond what it had at the start, while it was monitored.

    fields: of `memory_of`. added: bytes by field.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._before = {field: memory_of(field) for field in fields}
        self.added = dict.fromkeys(fields, 0)

    @contextmanager
    def watched(self, every: float = 0.02) -> Iterator["Peak"]:
        """Monitor from a thread."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(every):
                self._look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            self._look()

    def _look(self) -> None:
        for field, before in self._before.items():
            self.added[field] = max(self.added[field], memory_of(field) - before)


def children() -> set[int]:
    """Processes that this one has started, without Python's own helpers."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, path.read_text().split()):
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def signalled(processes: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def fresh(program: str, arguments: Sequence[object]) -> dict[str, Any]:
    """Run a program of this folder in a new interpreter; it prints one JSON object as its last line."""
    command = [sys.executable, program, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
