"""Pages of docs/ whose code runs: files are written, commands are run, in the order of the page, in one folder.

A block of Python, YAML or text with a file name behind its language becomes that file. The lines of a `bash` block are
commands; those of a block marked `no-run` are only shown.
"""

import glob
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.forked_command import said_by_forked

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(python|yaml|text|bash) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_page(page: str, folder: Path, instead: Mapping[str, str] | None = None) -> list[str]:
    """What the commands of a page print, one text each. Needs the fixture `fork_server`.

    page: below docs/. instead: lines of the page, each with the line that is run in its place, such as a smaller one.
    """
    instead = instead or {}
    said, unused = [], dict(instead)
    for language, name, text in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        if language == "bash" and not name:
            for line in filter(None, text.replace("\\\n", "").splitlines()):
                unused.pop(line, None)
                said.append(run_line(instead.get(line, line), folder))
        elif name and name != "no-run":
            (folder / name).write_text(text, encoding="utf-8")
        elif not name:
            assert language != "python", f"{page}: a block of Python needs a file name, or no-run"
    assert not unused, f"{page} has no line {list(unused)}"
    return said


def run_line(line: str, folder: Path) -> str:
    """What a command prints: one of unialign, or a program in Python. Patterns of file names are expanded."""
    words = [name for word in shlex.split(line, comments=True) for name in expanded(word, folder)]
    if not words:
        return ""
    if words[0] == "python":
        done = subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout
    assert words[0] == "unialign", line
    return said_by_forked(*words[1:], cwd=folder)[0]


def expanded(word: str, folder: Path) -> list[str]:
    """As a shell does it: the files that fit, relative to the folder, or the word itself."""
    return sorted(glob.glob(word, root_dir=folder)) or [word]
