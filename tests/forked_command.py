"""A command of unialign in a process of its own that need not load the libraries: the server it is forked from has.

A new interpreter takes 3 to 8 seconds for them. What such a start has to show, tests/test_cli.py shows once for each
command; what a second or third one does, under another setting or after a change, it may do in such a process.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

from unialign import cli


def run_forked(*words: str | Path, cwd: Path, code: int = 0) -> dict[str, Any]:
    """Run a command with --json; returns its object. Needs the fixture `fork_server`."""
    streams = tuple(cwd / f".std{name}" for name in ("out", "err"))
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=command_in, args=(["unialign", *map(str, words), "--json"], cwd, streams))
    process.start()
    process.join(200)
    process.kill()  # one that has ended stays as it is
    process.join()
    out, err = (path.read_text() for path in streams)
    assert process.exitcode == code, f"{process.exitcode}: {out}\n{err}"
    assert "Traceback" not in err
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]


def command_in(words: list[str], cwd: Path, streams: tuple[Path, Path]) -> None:
    """The body of the process: the command, whose output goes to two files."""
    for number, path in enumerate(streams, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    for name in [name for name in os.environ if name.startswith("UNIALIGN_")]:
        del os.environ[name]
    os.chdir(cwd)
    sys.argv = words
    cli.main()
