"""The rows of an ablation as a drawing or a page shows them: each seed with an interval, simple classifiers too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unialign.pipeline.ablation.results import Ablation, TrialResult, hits_of
from unialign.pipeline.evaluation.intervals import wilson_interval


def charted_rows(rows: Sequence[Mapping[str, Any]], ablation: Ablation) -> list[dict[str, Any]]:
    """For some rows of `ablation.rows()`: name; mean and deviation of top-1 over seeds; change from the first row with
    low and high; seeds, see `_seed`. None where there is nothing.
    """
    return [
        {
            "name": str(row["row"]),
            "mean": row.get("top1"),
            "deviation": row.get("top1_std"),
            "change": row.get("change"),
            "low": row.get("change_low"),
            "high": row.get("change_high"),
            "seeds": [_seed(result) for result in ablation.results if result.trial.row == row["row"]],
        }
        for row in rows
    ]


def _seed(result: TrialResult) -> dict[str, Any]:
    """seed, top1, and the Wilson interval low to high over its test samples; both None without predictions."""
    hits, top1 = hits_of(Path(result.run)), result.metrics["top1"]
    low, high = (None, None) if hits is None else wilson_interval(sum(hits.values()), len(hits))
    return {"seed": result.trial.seed, "top1": top1, "low": low, "high": high}


def charted_baselines(ablation: Ablation) -> list[dict[str, Any]]:
    """The simple classifiers: name, top1, and the Wilson interval over as many test samples as the first run has.

    Of several stores it is that of their mean, as if it had been measured once.
    """
    hits = hits_of(Path(ablation.results[0].run)) if ablation.results else None
    return [baseline_row(row, len(hits) if hits else 0) for row in ablation.baselines]


def baseline_row(row: Mapping[str, Any], samples: int) -> dict[str, Any]:
    """See `charted_baselines`; low and high are None for an unknown number of samples."""
    several = f" (mean over {row['seeds']} stores)" if row.get("seeds") else ""
    low, high = wilson_interval(row["top1"] * samples, samples) if samples else (None, None)
    return {"name": f"{row['baseline']} on {row['features']}{several}", "top1": row["top1"], "low": low, "high": high}
