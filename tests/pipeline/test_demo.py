"""Contract of the demo's own parts: seeds cover the encoder, and the words say what the table shows."""

from pathlib import Path
from typing import Any

import pytest

from unialign.pipeline.ablation.grid import trials
from unialign.pipeline.ablation.results import Ablation
from unialign.pipeline.config import with_values
from unialign.pipeline.demo import FULL, ROWS, SEEDS, Demo, demo_config, demo_grid, encoder_grid


def test_every_seed_has_an_encoder_of_its_own_that_all_its_rows_read() -> None:
    encoders = trials(encoder_grid())
    assert [trial.seed for trial in encoders] == list(SEEDS)
    config = with_values(demo_config(Path("demo")), dict(encoders[1].values))
    assert (config.train.model, config.train.settings.seed) == ("skeleton", 1)
    # What nobody sets is left to the recipe of the encoder, not to the settings of the demo's UniAlign.
    assert "optimizer" not in config.train.settings.model_fields_set
    found = trials(demo_grid({seed: f"skeleton-{seed}" for seed in SEEDS}))
    assert len(found) == len(ROWS) * len(SEEDS)
    assert all(dict(trial.values)["train.stores.pose-features"] == f"skeleton-{trial.seed}" for trial in found)


@pytest.mark.parametrize(
    ("full", "simple", "said"),
    [
        (0.95, 0.90, "beats the best simple classifier, 1-nn on pose-features (90.0)"),
        (0.95, 0.96, "is within one deviation of the best simple classifier"),
        (0.90, 0.96, "does not reach the best simple classifier"),
    ],
)
def test_the_words_compare_the_full_model_with_the_simplest_classifier(full: float, simple: float, said: str) -> None:
    def row(name: str, top1: float) -> dict[str, Any]:
        return {"row": name, "top1": top1, "top1_std": 0.02}

    def made(rows: list[dict[str, Any]], baselines: tuple[dict[str, Any], ...] = ()) -> Ablation:
        return Ablation(name="made", results=(), table=tuple(rows), extracted=0, baselines=baselines)

    table = [row(name, full if name == FULL else 0.4) for name in ROWS]
    baseline = {"baseline": "1-nn", "features": "pose-features", "top1": simple}
    demo = Demo(
        Path("demo"), made([row("pose encoder", 0.9)]), made(table, (baseline,)), (), Path("page.html"), 1.0, 1.0
    )
    text = " ".join(demo.words())
    assert said in text
    assert "Full UniAlign beats video only" in text
    assert "No other set of modalities does better." in text
