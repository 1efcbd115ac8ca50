"""Sentences of a page that say what its numbers show, and what they cannot."""

from collections.abc import Mapping, Sequence
from typing import Any

from unialign.pipeline.pages.answers import Answers
from unialign.types import Json
from unialign.words import counted


def verdict(rows: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The result in one to three sentences: the best row, its distance from the first, and from simple classifiers.

    rows, baselines: those of a page, see `report.py`.
    """
    known = [row for row in rows if row["mean"] is not None]
    if not known:
        return []
    best = max(known, key=lambda row: row["mean"])
    level = [f"“{row['name']}”" for row in known if row["mean"] == best["mean"]]
    answer = "answers" if len(level) == 1 else "each answer"
    said = [f"{_listed(level)} {answer} {_percent(best['mean'])} % of the test clips correctly{_over(best)}."]
    first = rows[0]
    if best is not first and best["change"] is not None:
        low, high = best["low"], best["high"]
        surely = "" if low is None else f" (95 % interval {_points(low)} to {_points(high)})"
        differs = "" if low is None or low > 0 else "; the interval includes 0, so that it may be chance"
        said.append(f"That is {_points(best['change'])} points from “{first['name']}”{surely}{differs}.")
    if baselines:
        simple = max(baselines, key=lambda row: row["top1"])
        gap = best["mean"] - simple["top1"]
        place = "ahead" if gap < 0 else "level" if gap == 0 else "behind"
        said.append(
            f"The best simple baseline, {simple['name']}, answers {_percent(simple['top1'])} %: it is {place}"
            f"{'' if gap == 0 else f' by {abs(100 * gap):.1f} points'}{_certainty(best, simple['top1'])}."
        )
    else:
        said.append("No simple baseline was measured beside it: `unialign baseline` makes some.")
    return said


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _certainty(row: Mapping[str, Any], other: float) -> str:
    """A remark where the distance of a row from another accuracy is within what seeds or clips vary by."""
    gap = abs(row["mean"] - other)
    if gap and row["deviation"] is not None:
        return ", within one deviation over seeds" if gap <= row["deviation"] else ""
    intervals = [(seed["low"], seed["high"]) for seed in row["seeds"] if seed["low"] is not None]
    return ", inside the interval of this run" if gap and any(low <= other <= high for low, high in intervals) else ""


def claims(
    rows: Sequence[Mapping[str, Any]], runs: Sequence[Answers], baselines: Sequence[Mapping[str, Any]], over: str
) -> list[str]:
    """What each kind of number on the page may claim."""
    main = runs[0]
    total, seeds = len(main.labels), max((len(row["seeds"]) for row in rows), default=1)
    said = [
        f"{counted(total, 'test clip')} of {counted(len(main.classes), 'class', 'classes')}: one clip is "
        f"{100 / total:.2g} points. The interval of a seed (Wilson, 95 %) is about other clips of the same kind, taken "
        "as independent; clips of one person or one video are alike, and then it is too narrow.",
        f"Deviations are over {counted(seeds, 'seed')} of training (n - 1)"
        + (": they say how much training varies, not how much another test set would." if seeds > 1 else ", so none."),
    ]
    if len(rows) > 1:
        said.append(
            f"Changes are paired: the same seeds and clips in both rows; their intervals are bootstrap intervals over "
            f"{over or 'samples'}. With few seeds they are narrower than they should be, and they are not corrected "
            f"for the {counted(len(rows) - 1, 'comparison')} on this page."
        )
    said.append(_epoch(main))
    missing = main.result["samples"].get("test", {}).get("missing", 0)
    if missing:
        said.append(
            f"{counted(missing, 'test sample')} without features in the stores have no answer and are left out of "
            "top-1; “missing as wrong” counts them as wrong."
        )
    if baselines:
        said.append(
            "Simple baselines are fitted on the same training samples and cached features, once, with settings that "
            "were chosen without test samples; their interval is that of one measurement."
        )
    duplicates = main.result.get("data", {}).get("duplicates")
    if duplicates:
        said.append("Some samples have the same content in two parts of the split; see Provenance.")
    said += [
        "The clips with frames are chosen, wrong answers first: they show what goes wrong, not how often.",
        "The figures are of this split, these stores and these settings. Papers' figures on the same dataset can "
        "differ in all three; `unialign results` lists them side by side.",
    ]
    return said


def _epoch(run: Answers) -> str:
    validation = run.result.get("data", {}).get("validation")
    why = validation.get("why") if isinstance(validation, Mapping) else None
    if run.result.get("best"):
        return "Figures are of the last epoch; the best one was chosen on val, and no test clip chose anything."
    return f"Figures are of the last epoch; no epoch was chosen{f' ({why})' if why else ''}, by no test clip."


def _over(row: Mapping[str, Any]) -> str:
    seeds = len(row["seeds"])
    if row["deviation"] is None:
        return " (one seed)"
    return f" (mean over {counted(seeds, 'seed')}, deviation {_percent(row['deviation'])})"


def cards(rows: Sequence[Mapping[str, Any]], runs: Sequence[Answers], baselines: Sequence[Json]) -> list[list[str]]:
    """The numbers at the top: name, value, note."""
    known = [row for row in rows if row["mean"] is not None]
    if not known:
        return []
    best, main = max(known, key=lambda row: row["mean"]), runs[0]
    found = [
        ["best row, top-1", f"{_percent(best['mean'])} %", f"{best['name']}{_over(best)}"],
    ]
    if baselines:
        simple = max(baselines, key=lambda row: row["top1"])
        found.append(["best simple baseline", f"{_percent(simple['top1'])} %", str(simple["name"])])
    sizes = main.result["samples"]
    found.append(["chance", f"{100 / len(main.classes):.1f} %", f"{counted(len(main.classes), 'class', 'classes')}"])
    found.append(
        [
            "test clips",
            f"{len(main.labels):,}",
            f"trained on {counted(int(sizes.get('train', {}).get('used', 0)), 'clip')}; {main.result['protocol']}",
        ]
    )
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(difference: float) -> str:
    return f"{round(100 * difference, 1) + 0.0:+.1f}"
