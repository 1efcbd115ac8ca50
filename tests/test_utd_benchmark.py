"""Contract of benchmarks/utd_mhad.py: its settings are ones that the program takes, its tables say what runs found."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.utd_mhad import CONFIG, GENERALISED, answers, class_table, generalised_table, grid_of, zero_shot_table
from unialign.pipeline.ablation.grid import Grid, read_grid, trials
from unialign.pipeline.config import load_config, with_values
from unialign.stages.extraction.text import read_descriptions


def test_the_program_takes_the_settings() -> None:
    config = load_config({}, file=CONFIG / "utd_mhad.yaml", environment={})
    assert config.extract.text.descriptions is not None
    assert len(read_descriptions(CONFIG.parent.parent / config.extract.text.descriptions, 27)) == 27
    for name in ("zero_shot", "rates"):
        for trial in trials(read_grid(CONFIG / f"{name}.yaml")):
            chosen = with_values(config, dict(trial.values)).train
            # One evaluation, at the end, and no epoch that could be chosen.
            assert chosen.settings.eval_every == chosen.settings.epochs


def test_a_grid_keeps_the_named_rows_with_their_values() -> None:
    base = yaml.safe_load((CONFIG / "zero_shot.yaml").read_text(encoding="utf-8"))
    made = Grid.model_validate(grid_of(base, "held-out", 2, {name: {"train.dvta.held_out": 5} for name in GENERALISED}))
    assert [row.name for row in made.rows] == list(GENERALISED)
    assert made.seeds == (0, 1)
    assert all(row.set["train.dvta.held_out"] == 5 for row in made.rows)
    assert made.rows[1].set["train.dvta.projector_depth"] == 1
    assert made.set == base["set"]


def test_answers_are_labels_of_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("candidates: [4, 10, 16]\n")
    scores = np.array([[0.1, 0.7, 0.2], [0.8, 0.1, 0.1]])
    np.savez(tmp_path / "predictions.npz", labels=np.array([1, 2]), probabilities=scores)
    assert answers(tmp_path) == [[10, 10], [16, 4]]


def test_differences_are_of_the_same_split_and_seed() -> None:
    top1 = {("DVTA", 1): (0.2, 0.4), ("DVTA", 2): (0.6, 0.8), ("plain", 1): (0.1, 0.3), ("plain", 2): (0.5, 0.7)}
    rows = [
        {"row": name, "split": split, "seed": seed, "top1": value}
        for (name, split), found in top1.items()
        for seed, value in enumerate(found)
    ]
    head, _, first, last = zero_shot_table(rows)
    assert head == "| zero-shot, chance 20.0 | all | split 1 | split 2 | less plain |"
    assert first == "| DVTA | 50.0 ± 25.8 | 30.0 ± 14.1 | 70.0 ± 14.1 | 10.0 ± 0.0 |"
    assert last.startswith("| plain | 40.0 ± 25.8 |")
    assert last.endswith("|  |")


def test_each_unseen_class_has_its_share_and_the_most_frequent_mistake() -> None:
    rows = [
        {"row": "DVTA", "split": 1, "answers": [[0, 0], [0, 1], [0, 1], [0, 2]]},
        {"row": "plain projection", "split": 1, "answers": [[0, 0], [0, 0], [0, 0], [0, 2]]},
        {"row": "DVTA", "split": 2, "answers": [[2, 2]]},
        {"row": "plain projection", "split": 2, "answers": [[2, 0]]},
    ]
    _, _, *lines = class_table(rows, ("throw", "draw", "serve"), GENERALISED)
    assert lines == ["| throw | 1 | 25 | 75 | draw, 50 |", "| serve | 2 | 100 | 0 |  |"]


@pytest.mark.parametrize("measure", ["seen", "unseen", "harmonic", "area"])
def test_generalised_rows_have_every_measure(measure: str) -> None:
    values = dict.fromkeys(("seen", "unseen", "harmonic", "area"), 0.0)
    head, _, line = generalised_table([{"row": "DVTA", **values, measure: share} for share in (0.25, 0.75)])
    place = head.split(" | ").index(measure if measure != "area" else "area |")
    assert line.split(" | ")[place].startswith("50.0 ± 35.4")
