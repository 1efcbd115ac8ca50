"""What a page says of its numbers."""

from typing import Any

import pytest

from unialign.pipeline.pages.claims import verdict


def row(name: str, mean: float, deviation: float | None = 0.02, **more: Any) -> dict[str, Any]:
    seed = {"seed": 0, "top1": mean, "low": mean - 0.05, "high": mean + 0.05}
    return {
        "name": name,
        "mean": mean,
        "deviation": deviation,
        "seeds": [seed],
        "change": None,
        "low": None,
        "high": None,
    } | more


SIMPLE = [{"name": "1-nn on poses", "top1": 0.90, "low": 0.8, "high": 0.95}]


@pytest.mark.parametrize(
    ("best", "said"),
    [
        (row("all", 0.80), "answers 90.0 %: it is ahead by 10.0 points."),
        (row("all", 0.89), "answers 90.0 %: it is ahead by 1.0 points, within one deviation over seeds."),
        (row("all", 0.95), "answers 90.0 %: it is behind by 5.0 points."),
        (row("all", 0.90), "answers 90.0 %: it is level."),
        (row("all", 0.93, None), "answers 90.0 %: it is behind by 3.0 points, inside the interval of this run."),
        (row("all", 0.80, None), "answers 90.0 %: it is ahead by 10.0 points."),
    ],
)
def test_a_simple_baseline_is_put_beside_the_best_row_with_what_varies(best: dict[str, Any], said: str) -> None:
    assert said in verdict([row("video", 0.5), best], SIMPLE)[-1]


def test_rows_that_are_level_are_all_named_and_chance_is_said() -> None:
    change = {"change": 0.4, "low": -0.01, "high": 0.8}
    said = verdict([row("video", 0.5), row("pose", 0.9, **change), row("all", 0.9, **change)], [])
    assert said[0].startswith("“pose” and “all” each answer 90.0 %")
    assert said[1].endswith("the interval includes 0, so that it may be chance.")
    assert "No simple baseline was measured" in said[2]
    assert verdict([row("none", 0.5) | {"mean": None}], SIMPLE) == []
