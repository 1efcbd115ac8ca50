"""Output of the command line: one JSON object for machines, tables and progress bars for people.

`--quiet` leaves errors and the result, on one line; `--verbose` adds what the package logs: what is read, written and
reused, and where.
"""

import json
import logging
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from unialign.types import Json


def visible(text: str) -> str:
    """The text with unprintable parts escaped: control characters, bytes of a name that are not UTF-8."""
    hidden = {char for char in text if unicodedata.category(char) in {"Cc", "Cs"}} - {"\n"}
    return text.translate({ord(char): repr(char)[1:-1] for char in hidden}) if hidden else text


class _Plain(Console):
    """Shows names of files, stores and samples literally: [brackets] are not markup, :colons: not emoji, no codes
    are sent to the terminal, and numbers are not colored.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string passes through this, including those in tables."""
        return super().render_str(visible(text), **options)


# Results go to standard output, everything else to standard error, so that `--json` can be piped.
# A pipe or a file has no width; tables are not to be folded there.
output = _Plain(width=None if sys.stdout.isatty() else 160)
messages = _Plain(stderr=True)


# Seconds between two lines of progress where there is no terminal.
LINES_EVERY = 30.0

# What --quiet sets for the rest of the process.
_quiet = False
# When the last message was printed, on the monotonic clock.
_said = 0.0


def be_quiet(wanted: bool) -> bool:
    """Show only errors and results from now on, if wanted; returns whether it is."""
    global _quiet
    _quiet = wanted
    return wanted


class _Said(logging.Handler):
    """Shows what is logged as messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        messages.print(record.getMessage())


def be_verbose(wanted: bool) -> bool:
    """Show what the package logs from now on, if wanted; returns whether it is."""
    if wanted:
        logger = logging.getLogger("unialign")
        logger.setLevel(logging.INFO)
        logger.addHandler(_Said())
    return wanted


def say(text: str) -> None:
    """A message that `--quiet` leaves out; above the bar, if there is one."""
    global _said
    if not _quiet:
        _said = time.monotonic()
        messages.print(text)


class Rate(ProgressColumn):
    """Units per second since the start."""

    def render(self, task: Task) -> Text:
        """The rate, or nothing before the first unit is done."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


class Update(Protocol):
    """How a block updates its bar."""

    def __call__(self, done: int, total: int, text: str = ..., /) -> None:
        """Set the progress, the total, and the text in front."""


class _Lines:
    """Progress in a log: a line when nothing was said for `LINES_EVERY` seconds, with rate and time left."""

    def __init__(self) -> None:
        self.started = self.last = time.monotonic()

    def update(self, done: int, total: int, text: str) -> None:
        """Print the line if it is time for one."""
        now = time.monotonic()
        if now - max(self.last, _said) < LINES_EVERY:
            return
        self.last = now
        rate = done / (now - self.started)
        left = f", {clock((total - done) / rate)} left" if done else ""
        messages.print(f"{text}: {done:,} of {total:,}, {rate:.1f}/s{left}")


@contextmanager
def progress_bar(title: str, *, hidden: bool) -> Iterator["Update"]:
    """A bar with rate and time left; the block calls (done, total) or (done, total, text). `hidden` with `--json`.

    Where messages go to no terminal, a line every half minute.
    """
    hidden = hidden or _quiet
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    lines = None if hidden or messages.is_terminal else _Lines()
    with Progress(*columns, console=messages, disable=hidden or lines is not None, transient=True) as bar:
        task = bar.add_task(visible(title), total=None)

        def update(done: int, total: int, text: str = title) -> None:
            bar.update(task, completed=done, total=total, description=visible(text))
            if lines is not None:
                lines.update(done, total, text)

        yield update


@contextmanager
def progress_bars(*, hidden: bool) -> Iterator[Callable[[str], Update]]:
    """A bar after another: the block calls (title) for the next one, and gets how to update it, see `progress_bar`."""
    with ExitStack() as shown:

        def begin(title: str) -> Update:
            shown.close()
            return shown.enter_context(progress_bar(title, hidden=hidden))

        yield begin


def show_json(value: Mapping[str, Json] | Sequence[Json]) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; numbers align right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    output.print(table)


def show_fields(fields: Mapping[str, object]) -> None:
    """Name and value, one per line."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        output.print(f"{name:<{width}}  {value}")


def show_result(line: str, fields: Mapping[str, object]) -> None:
    """The result of a command: name and value, one per line, or with `--quiet` on one line."""
    if _quiet:
        output.print(line)
    else:
        show_fields(fields)


def is_quiet() -> bool:
    """Whether `--quiet` was given."""
    return _quiet


def clock(seconds: float) -> str:
    """9 s, 1:05 or 2:01:05."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def short_path(path: Path) -> Path:
    """The path as it can be given here: relative to the working folder for what lies in it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def human_bytes(number: float) -> str:
    """12.3 MB and the like, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
