"""What the command line shows: one JSON object for machines, tables and progress bars for people."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
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

from unialign.cache.arrays import Json

# Results go to standard output, everything else to standard error, so that `--json` can be piped.
# A pipe or a file has no width; tables are not to be folded there.
output = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
messages = Console(stderr=True, soft_wrap=True)


class Rate(ProgressColumn):
    """Units a second since the start."""

    def render(self, task: Task) -> Text:
        """The rate, or nothing before the first unit is done."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


class Update(Protocol):
    """How a block moves its bar."""

    def __call__(self, done: int, total: int, text: str = ..., /) -> None:
        """Set what is done, of how much, and what stands in front."""


@contextmanager
def progress_bar(title: str, *, hidden: bool) -> Iterator["Update"]:
    """A bar with rate and time left; the block calls (done, total) or (done, total, text). `hidden` with `--json`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages, disable=hidden, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int, text: str = title) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield update


def show_json(value: Mapping[str, Json] | Sequence[Json]) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; numbers align right, and brackets in a text are brackets."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else escape(str(value)) for value in row))
    output.print(table)


def show_fields(fields: Mapping[str, object]) -> None:
    """Name and value, a line each."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        output.print(f"{name:<{width}}  {value}", highlight=False, markup=False)


def human_bytes(number: float) -> str:
    """12.3 MB and the like, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
