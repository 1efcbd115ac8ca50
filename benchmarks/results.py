"""`make results`: writes the tables of the pages below anew, from the figures in benchmarks/results/.

A table stands between `<!-- results: NAME -->` and `<!-- end -->`; NAME is that of the JSON file, whose "kind" says how
its table looks. Everything else on a page is left alone. The files are written by `benchmarks/encoders.py`,
`benchmarks/zero_shot.py` and `benchmarks/demo.py`, each through the commands that users have.
"""

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
PAGES = (PROJECT / "docs" / "encoders.md", PROJECT / "docs" / "systems" / "dvta.md", PROJECT / "README.md")
PLACE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = dict[str, Any]


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, sample standard deviation, in per cent."""
    shares = [100 * value for value in values]
    return f"{statistics.mean(shares):.1f}" + (f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else "")


def encoder_table(found: Row) -> str:
    """One data set: what it was, baselines, ours, and the late fusion where there is one."""
    samples, encoders = found["samples"], found["encoders"]
    settings = f"; settings: {', '.join(found['settings'])}" if found["settings"] else "; default settings"
    low, high = (100 * value for value in found["interval"])
    # Beside other work the clock says little about a run: its processor time, of those where it was measured.
    spent = [run["cpu_seconds"] for run in encoders if "cpu_seconds" in run]
    minutes = statistics.mean(spent or [run["seconds"] for run in encoders]) / 60
    seeds = "1 seed" if len(encoders) == 1 else f"{len(encoders)} seeds"
    lines = [
        f"**{found['title']}**: {samples['train']:,} clips for training, {samples['test']:,} for testing{settings}; "
        f"{seeds}, {found['epochs']} epochs, {minutes:.0f} minutes {'of processor time ' if spent else ''}each "
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


def zero_shot_table(found: Row) -> str:
    """Splits as columns: DVTA with its seeds, and the simple classifiers on the same features."""
    splits = found["splits"]
    names = [row["baseline"] for row in splits[0]["baselines"]]
    means = {name: [_of(split["baselines"], name)["top1"] for split in splits] for name in names}
    every = [top1 for split in splits for top1 in split["top1"]]
    seeds = len(splits[0]["top1"])
    return "\n".join(
        [
            f"**{found['title']}**: {found['train']} clips for training, {found['test']} for testing; default "
            f"settings; {seeds} seeds ({found['processor']}).",
            "",
            f"| top-1 | {' | '.join(split['protocol'] for split in splits)} | mean |",
            f"|---|{'---|' * (len(splits) + 1)}",
            f"| **`--model dvta`** | {' | '.join(spread(split['top1']) for split in splits)} | **{spread(every)}** |",
            *(
                f"| {name} | {' | '.join(spread([value]) for value in values)} | {spread([statistics.mean(values)])} |"
                for name, values in means.items()
            ),
        ]
    )


def demo_table(found: Row) -> str:
    """The modality ablation of the demo, with the pose encoders alone and simple classifiers."""

    def cells(name: str, row: Mapping[str, Any], change: str = "") -> str:
        deviation = row.get("top1_std")
        top1 = f"{100 * row['top1']:.1f} | {'-' if deviation is None else f'{100 * deviation:.1f}'}"
        return f"| {name} | {top1} | {change} |"

    lines = ["| row | top-1 | deviation | change (95 % interval) |", "|---|---|---|---|"]
    for number, row in enumerate(found["rows"]):
        low, high = row["change_low"], row["change_high"]
        change = f"{100 * row['change']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})" if number else ""
        lines.append(cells(row["row"], row, change))
    alone = {"top1": found["encoder_top1"], "top1_std": found["encoder_top1_std"]}
    lines.append(cells("the pose encoders' own classifiers", alone))
    lines += [cells(f"simple baseline: {row['baseline']} on {row['features']}", row) for row in found["baselines"]]
    return "\n".join(lines)


def _of(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row["baseline"] == name)


TABLES: Mapping[str, Callable[[Row], str]] = {
    "encoders": encoder_table,
    "zero-shot": zero_shot_table,
    "demo": demo_table,
}


def table(found: Row) -> str:
    """The lines of one file's table."""
    return TABLES[found.get("kind", "encoders")](found)


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
    for path in PAGES:
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
