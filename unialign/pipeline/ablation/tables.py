"""An ablation as tables: text for the terminal and Markdown, CSV and JSON with all digits, LaTeX."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unialign.cache.atomic import write_text
from unialign.pipeline.ablation.results import Ablation
from unialign.stages.training.metrics import METRICS, Metric
from unialign.types import Json
from unialign.words import counted

FIRST_COLUMNS, LAST_COLUMNS = ("row", "seeds"), ("change", "95 % interval", "seconds", "memory (MB)")
GPU_COLUMN = "GPU memory (MB)"
COSTS = ("seconds", "memory (MB)", GPU_COLUMN)
NOTHING = "-"
NOTE = (
    "Accuracies in percent: mean and standard deviation (n - 1) over seeds. Change: paired difference in top-1 "
    "from the first row, with a bootstrap interval over {over}. Seconds: mean per training run; memory: the largest."
)

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A bracket after the end of a row would be read as its argument.
    "[": "{[}",
    "]": "{]}",
    "±": r"\ensuremath{\pm}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def columns(ablation: Ablation) -> tuple[str, ...]:
    """The names of the columns of `table`."""
    titles = [METRICS[name].title for name in shown_metrics(ablation)]
    return (*FIRST_COLUMNS, *titles, *LAST_COLUMNS, *([GPU_COLUMN] if _on_gpu(ablation) else []))


def shown_metrics(ablation: Ablation) -> list[str]:
    """The metrics that have a column: those of the results, except those that are redundant if no sample is missing."""
    rows = ablation.rows()
    complete = all(row.get("coverage") in (None, 1.0) for row in rows)
    return [
        name
        for name, metric in METRICS.items()
        if not (metric.if_missing and complete) and any(row.get(name) is not None for row in rows)
    ]


def table(ablation: Ablation) -> list[tuple[str, ...]]:
    """The rows as text: accuracies in percent with one decimal, seconds, megabytes of 10^6 bytes."""
    metrics, gpu = shown_metrics(ablation), _on_gpu(ablation)
    rows = [_cells(row, metrics, first=number == 0, gpu=gpu) for number, row in enumerate(ablation.rows())]
    return rows + [_baseline_cells(row, metrics, gpu=gpu) for row in ablation.baselines]


def closing(ablation: Ablation) -> str:
    """The sentences below the table: the meaning of the columns, what was extracted, which stores were read, what
    failed.
    """
    stores = sorted({str(name) for result in ablation.results for name in _stores(result.keys)})
    drawn = sorted({str(row["change_over"]) for row in ablation.rows() if row["change_over"]})
    failed = f" Failed: {counted(len(ablation.failed), 'training run')}." if ablation.failed else ""
    missing = f" {told}" if (told := missing_clips(ablation)) else ""
    return (
        f"{NOTE.format(over=' or '.join(drawn) or 'nothing (one seed, no predictions)')} Samples extracted during the "
        f"sweep: {ablation.extracted}. Read from: {', '.join(stores) or 'no store'}.{missing}{failed}"
    )


def missing_clips(ablation: Ablation) -> str:
    """A sentence if rows, or baselines, were not tested on all clips; "" otherwise."""
    shares = {str(row["row"]): float(row["coverage"]) for row in ablation.rows() if row.get("coverage") is not None}
    if all(share == 1 for share in shares.values()):
        return ""
    if len({*shares.values()}) == 1:
        told = f"All rows were tested on {min(shares.values()):.1%} of the test clips, the others lack features"
    else:
        each = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        told = f"Rows were tested on different clips, by what has features ({each} of the test clips)"
    return f"{told}; compare them by the columns that count missing clips as wrong, and baselines with none of them."


def write_tables(ablation: Ablation, folder: Path) -> None:
    """`ablation.md`, `ablation.csv`, `ablation.tex` and `ablation.json` in a folder."""
    write_text(folder / "ablation.md", markdown(ablation))
    write_text(folder / "ablation.csv", comma_separated(ablation))
    write_text(folder / "ablation.tex", latex(ablation))
    write_text(folder / "ablation.json", json.dumps(ablation.result(), indent=2) + "\n")


def markdown(ablation: Ablation) -> str:
    """The table in GitHub's Markdown."""
    lines = [
        _line(columns(ablation)),
        "|---" + "|---:" * (len(columns(ablation)) - 1) + "|",
        *(_line((re.sub(r"([\\`*_<>|\[\]])", r"\\\1", _flat(name)), *rest)) for name, *rest in table(ablation)),
    ]
    return "\n".join([*lines, "", closing(ablation), ""])


def comma_separated(ablation: Ablation) -> str:
    """Every number of `Ablation.rows` unrounded: fractions of 1, bytes; empty for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(ablation.rows()[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(ablation.rows())
    return text.getvalue()


def latex(ablation: Ablation) -> str:
    r"""A `table` with its caption and label (tab:<name>) to \input; it needs \usepackage{booktabs}.

    The first row and simple baselines are set apart by rules. Signs that LaTeX would read as commands are escaped.
    Seconds and memory are left to the other tables: a page has room for accuracies.
    """
    titles = columns(ablation)
    kept = [place for place, title in enumerate(titles) if title not in COSTS]
    titles = tuple(titles[place] for place in kept)
    rows = [[cells[place] for place in kept] for cells in table(ablation)]
    own = len(ablation.rows())
    lines = [
        *(f"% {sentence}" for sentence in re.split(r"(?<=\.) ", closing(ablation))),
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(_caption(ablation))}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', ablation.name)}}}",
        r"\begin{tabular}{l" + "r" * (len(titles) - 1) + "}",
        r"\toprule",
        " & ".join(escaped(title) for title in titles) + r" \\",
        r"\midrule",
        *_latex_rows(rows[:own]),
        *([r"\midrule", *_latex_rows(rows[own:])] if rows[own:] else []),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _latex_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        " & ".join([escaped(name), *(cell if cell == NOTHING else _number(cell) for cell in cells)]) + r" \\"
        for name, *cells in rows
    ]


def _caption(ablation: Ablation) -> str:
    """What the columns of the table are, for a paper."""
    seeds = max((int(row["seeds"]) for row in ablation.rows()), default=0)
    over = " or ".join(sorted({str(row["change_over"]) for row in ablation.rows() if row["change_over"]}))
    spread = f"mean and standard deviation over {counted(seeds, 'seed')}" if seeds > 1 else "one seed"
    change = (
        f" Change: paired difference in top-1 from the first row, 95 % bootstrap interval over {over}." if over else ""
    )
    simple = " Baselines: simple classifiers on the same features." if ablation.baselines else ""
    missing = f" {told}" if (told := missing_clips(ablation)) else ""
    return f"Ablation {ablation.name}: accuracies in percent, {spread}.{change}{simple}{missing}"


def escaped(text: str) -> str:
    """Text that LaTeX prints literally, on one line; non-ASCII letters stay (LaTeX reads UTF-8)."""
    plain = "".join(LATEX.get(sign, sign) for sign in _flat(text))
    # Two hyphens would become a dash, two quotes another quote.
    return re.sub(r"([-`',!?])(?=[-`'])", r"\1{}", plain)


def _number(cell: str) -> str:
    return "$" + cell.replace("±", r"\pm") + "$"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _on_gpu(ablation: Ablation) -> bool:
    return any(row["gpu_memory"] is not None for row in ablation.rows())


def _cells(row: Mapping[str, Any], metrics: Sequence[str], *, first: bool, gpu: bool) -> tuple[str, ...]:
    interval = NOTHING
    if row["change_low"] is not None:
        interval = f"[{_points(row['change_low'])}, {_points(row['change_high'])}]"
    cells = (
        str(row["row"]),
        str(row["seeds"]),
        *(_spread(METRICS[name], row[name], row[f"{name}_std"]) for name in metrics),
        NOTHING if first or row["change"] is None else _points(row["change"]),
        interval,
        NOTHING if row["seconds"] is None else f"{row['seconds']:.1f}",
        _megabytes(row["memory"]),
    )
    return (*cells, _megabytes(row["gpu_memory"])) if gpu else cells


def _baseline_cells(row: Mapping[str, Any], metrics: Sequence[str], *, gpu: bool) -> tuple[str, ...]:
    values = [_spread(METRICS[name], row.get(name), row.get(f"{name}_std")) for name in metrics]
    name = f"baseline: {row['baseline']} on {row['features']}"
    cells = (name, str(row.get("seeds", NOTHING)), *values, NOTHING, NOTHING, f"{row['seconds']:.1f}", NOTHING)
    return (*cells, NOTHING) if gpu else cells


def _points(difference: float) -> str:
    # Never "-0.0".
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def _spread(metric: Metric, mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return NOTHING
    # How much is missing does not depend on the seed.
    if deviation is None or (deviation == 0 and metric is METRICS["coverage"]):
        return metric.text(mean)
    return f"{metric.text(mean)} ± {metric.text(deviation)}"


def _megabytes(size: int | None) -> str:
    return NOTHING if size is None else f"{size / 1e6:.0f}"


def _stores(keys: Mapping[str, Json]) -> list[str]:
    return [f"{modality} {str(found['key'])[:12]}" for modality, found in keys.items() if isinstance(found, Mapping)]
