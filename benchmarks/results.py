"""`make results`: writes the tables of docs/encoders.md anew, from the figures in benchmarks/results/.

A table stands between `<!-- results: NAME -->` and `<!-- end -->`; NAME is that of the JSON file, which
`benchmarks/encoders.py` writes. Everything else on the page is left alone.
"""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
PAGE = PROJECT / "docs" / "encoders.md"
PLACE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = dict[str, Any]


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, sample standard deviation, in per cent."""
    shares = [100 * value for value in values]
    return f"{statistics.mean(shares):.1f}" + (f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else "")


def table(found: Row) -> str:
    """The lines of one data set: what it was, baselines, ours, and the late fusion where there is one."""
    samples, encoders = found["samples"], found["encoders"]
    settings = f"; settings: {', '.join(found['settings'])}" if found["settings"] else "; default settings"
    low, high = (100 * value for value in found["interval"])
    minutes = statistics.mean(run["seconds"] for run in encoders) / 60
    seeds = "1 seed" if len(encoders) == 1 else f"{len(encoders)} seeds"
    lines = [
        f"**{found['title']}**: {samples['train']:,} clips for training, {samples['test']:,} for testing{settings}; "
        f"{seeds}, {found['epochs']} epochs, {minutes:.0f} minutes each "
        f"({found['processor']}, one thread).",
        "",
        "| | top-1 | mean class |",
        "|---|---|---|",
        *(
            f"| {row['baseline']} | {spread([row['top1']])} | {spread([row['mean_class']])} |"
            for row in found["baselines"]
        ),
        f"| **`--model skeleton`** | **{spread([run['top1'] for run in encoders])}** (95 % interval {low:.1f} to "
        f"{high:.1f}) | {spread([run['mean_class'] for run in encoders])} |",
    ]
    if found["fusion"]:
        lines += ["", "| late fusion | top-1 |", "|---|---|"]
        lines += [f"| {row['name']} | {fusion(row['top1'])} |" for row in found["fusion"]]
    return "\n".join(lines)


def fusion(values: Sequence[float]) -> str:
    """Two decimals, as published."""
    shares = [100 * value for value in values]
    return f"{statistics.mean(shares):.2f}" + (f" ± {statistics.stdev(shares):.2f}" if len(shares) > 1 else "")


def page(text: str) -> str:
    """The page with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        found = json.loads((RESULTS / f"{match[2]}.json").read_text(encoding="utf-8"))
        return f"{match[1]}{table(found)}\n{match[3]}"

    return PLACE.sub(made, text)


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
