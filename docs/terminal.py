"""What a command printed, as an SVG for these pages:

unialign run 2>&1 | python docs/terminal.py "unialign run" docs/images/run.svg
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDEST = 140


def picture(title: str, lines: list[str]) -> str:
    """The SVG: a window with that title, as wide as its longest line, longer ones folded."""
    width = min(WIDEST, max(map(len, lines)) + 1)
    shown = Console(record=True, width=width, file=io.StringIO(), highlight=False, legacy_windows=False)
    for line in lines:
        # A newcomer sees at once what is to be known, and what comes next.
        style = "yellow" if line.startswith("note") else "bold green" if line.startswith(("next ", "top-1  ")) else ""
        shown.print(Text(line, style=style))
    # Readers get the fonts of their system: rich's would be fetched from a server.
    return re.sub(r"@font-face \{.*?\}\s*", "", shown.export_svg(title=title), flags=re.DOTALL)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(picture(sys.argv[1], sys.stdin.read().splitlines()), encoding="utf-8")
