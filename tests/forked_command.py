"""A command of unialign in a process of its own that need not load the libraries: the server it is forked from has.

A new interpreter takes 3 to 8 seconds for them. What such a start has to show, tests/test_cli.py shows once for each
command; what a second or third one does, under another setting or after a change, it may do in such a process.
"""

import gc
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

from unialign import cli
from unialign.plugins import Table


def run_forked(*words: str | Path, cwd: Path, code: int = 0, site: Path | None = None) -> dict[str, Any]:
    """Run a command with --json; returns its object. Needs the fixture `fork_server`.

    site: a folder of distributions that are installed for this command, as if PYTHONPATH named it.
    """
    out, err = said_by_forked(*words, "--json", cwd=cwd, code=code, site=site)
    assert "Traceback" not in err
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]


def said_by_forked(*words: str | Path, cwd: Path, code: int = 0, site: Path | None = None) -> tuple[str, str]:
    """The same without --json: standard output and standard error."""
    streams = (cwd / ".stdout", cwd / ".stderr")
    process = multiprocessing.get_context("forkserver").Process(
        target=command_in, args=(["unialign", *map(str, words)], cwd, streams, site)
    )
    process.start()
    process.join(200)
    process.kill()  # one that has ended stays as it is
    process.join()
    out, err = (path.read_text(encoding="utf-8") for path in streams)
    assert process.exitcode == code, f"unialign {' '.join(map(str, words))}\n{process.exitcode}: {out}\n{err}"
    return out, err


def command_in(words: list[str], cwd: Path, streams: tuple[Path, Path], site: Path | None = None) -> None:
    """The body of the process: the command, whose output goes to two files."""
    if site:
        for table in (each for each in gc.get_objects() if isinstance(each, Table)):
            # What the server has looked up.
            table.__dict__.pop("_offers", None)
        sys.path.insert(0, str(site))
        os.environ["PYTHONPATH"] = str(site)
    for number, path in enumerate(streams, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    for name in [name for name in os.environ if name.startswith("UNIALIGN_")]:
        del os.environ[name]
    os.chdir(cwd)
    sys.argv = words
    cli.main()
