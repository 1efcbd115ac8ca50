"""Made-up content of a page, of any size and with the most difficult names."""

from typing import Any

import numpy as np

from unialign.pipeline.evaluation.class_groups import boxes, confusion_groups
from unialign.pipeline.pages.page import packed
from unialign.types import Json

NASTY = (
    "<script>document.documentElement.dataset.broken = 1</script>",
    '</script><img src=x onerror="document.documentElement.dataset.broken = 1">',
    "a & b <!-- \u2028 ${1} `'\"\\",
    "{data}{title}{script}",
)


def made_content(num_classes: int, num_clips: int, num_runs: int = 4) -> dict[str, Json]:
    """A page of two rows with `num_runs` runs, every clip right with probability 0.8."""
    draw = np.random.default_rng(0)
    classes = [*NASTY, *(f"class {number} of many" for number in range(num_classes))][:num_classes]
    labels = np.sort(draw.integers(0, num_classes, num_clips))
    runs: list[dict[str, Any]] = []
    predicted = []
    for number in range(num_runs):
        wrong = draw.random(num_clips) < 0.2
        guesses = np.where(wrong, (labels + draw.integers(1, 4, num_clips)) % num_classes, labels)
        predicted.append(guesses)
        top1 = float((guesses == labels).mean())
        runs.append(
            {"row": number % 2, "seed": number // 2, "label": f"row {number % 2} {NASTY[0]}", "top1": top1}
            | {"low": top1 - 0.01, "high": top1 + 0.01}
        )
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, predicted[0]), 1)
    groups = confusion_groups(confusion)
    rows = [
        {"name": NASTY[row], "mean": 0.8, "deviation": 0.01, "change": 0.01 * row, "low": -0.01, "high": 0.03}
        | {"seeds": [run for run in runs if run["row"] == row]}
        for row in (0, 1)
    ]
    return {
        "title": NASTY[1],
        "subtitle": NASTY[0],
        "verdict": [NASTY[2]],
        "cards": [[NASTY[0], "80.0 %", NASTY[1]]],
        "claims": list(NASTY),
        "rows": rows,
        "baselines": [{"name": NASTY[0], "top1": 0.5, "low": 0.4, "high": 0.6}],
        "table": {"head": ["row", "top-1"], "rows": [[NASTY[0], "80.0"], [NASTY[1], "81.0"]]},
        "over": "seeds and samples",
        "runs": runs,
        "main": 0,
        "classes": classes,
        "order": [label for group in groups for label in group],
        "boxes": [list(box) for box in boxes(groups)],
        "clips": {
            "ids": [f"{NASTY[number % 4]} clip {number:06d}" for number in range(num_clips)],
            "labels": packed(labels.astype(np.uint16)),
            "predicted": [packed(guesses.astype(np.uint16)) for guesses in predicted],
            "confidence": [packed(draw.integers(60, 255, num_clips).astype(np.uint8)) for _ in runs],
            "importance": [None] * num_runs,
        },
        "pairs": [{"true": 0, "predicted": 1, "samples": 3, "share": 0.1, "wrong": None, "right": None}],
        "shown": [],
        "chosen": NASTY[0],
        "layout": None,
        "map": {
            "clips": list(range(min(num_clips, 1200))),
            "views": [{"name": NASTY[0], "points": packed(draw.random(2400).astype(np.float32))}],
            "note": NASTY[0],
        },
        "texts": {
            "similarity": packed(draw.integers(0, 255, num_classes**2).astype(np.uint8)),
            "low": 0.1,
            "high": 1.0,
            "nearest": [[0, 1, 0.9]],
            "note": NASTY[0],
        },
        "coverage": {
            "samples": np.bincount(labels, minlength=num_classes).tolist(),
            "stores": [{"name": "poses", "store": NASTY[0], "by_status": {}, "lacking": [0] * num_classes}],
            "note": NASTY[0],
        },
        "speed": {
            "curves": [{"row": 0, "label": NASTY[0], "clips": [1.0, 2.0], "wait": [0.1, None], "loss": [2.0, 1.0]}],
            "table": {"head": ["run"], "rows": [[NASTY[0]]]},
            "note": NASTY[0],
        },
        "provenance": [{"title": NASTY[0], "open": True, "fields": [[NASTY[0], NASTY[1]]]}],
    }
