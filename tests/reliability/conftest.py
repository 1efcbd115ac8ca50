"""The table of counts at the end of a run, and a folder in memory: these tests sync thousands of files."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LINES: list[str] = []
Report = Callable[..., None]


@pytest.fixture
def report() -> Report:
    """Call it with a test's number and its counts: prints a line and keeps it for the table."""

    def note(number: str, **counts: object) -> None:
        line = f"{number:<4} " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
        print(line)
        LINES.append(line)

    return note


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on a file system in memory where the machine has one, otherwise an ordinary one."""
    shared = Path("/dev/shm")
    if not (shared.is_dir() and os.access(shared, os.W_OK)):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=shared, prefix="unialign-"))
    yield folder
    shutil.rmtree(folder)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where tests run in several processes, hand the lines to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["reliability"] = list(LINES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the lines of a process that is done."""
    LINES.extend(getattr(node, "workeroutput", {}).get("reliability", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """All lines once more, as one table."""
    if LINES:
        terminalreporter.write_sep("-", "reliability")
        for line in sorted(LINES, key=lambda line: (int(line[1:4]), line)):
            terminalreporter.write_line(line)
