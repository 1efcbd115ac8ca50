"""Contract of metrics: one row of `METRICS` appears in every result, log, table and report."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from tests.made_stores import made_dataset
from tests.pipeline.made_training import tiny_training, validated_dataset
from unialign.cli import app
from unialign.pipeline.ablation.grid import Trial
from unialign.pipeline.ablation.results import Ablation, TrialResult, rows_of
from unialign.pipeline.ablation.tables import columns, comma_separated, latex, markdown, table
from unialign.pipeline.evaluation.compare_runs import compare_runs
from unialign.pipeline.manifest import save_manifest
from unialign.stages.training.metrics import METRICS, Metric, Scored


def certainty(scored: Scored) -> float:
    """Mean probability of the best class."""
    return float(scored.scores.max(axis=1).mean())


def share_of_guesses(scored: Scored) -> np.ndarray:
    """How often each class is guessed."""
    return np.bincount(scored.guesses, minlength=scored.scores.shape[1]) / len(scored.guesses)


def test_a_new_metric_is_everywhere(made_caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "certainty", Metric("mean certainty", certainty, percent=False))
    monkeypatch.setitem(METRICS, "guessed", Metric("share of guesses", share_of_guesses, per_class=True))
    result = tiny_training(made_caches, tmp_path, dataset=validated_dataset(8, 4), epochs=1)
    value = result.metrics["certainty"]
    assert 0.25 < value <= 1
    stored = json.loads((result.folder / "result.json").read_text())
    assert stored["metrics"]["certainty"] == value
    assert sum(stored["per_class"]["guessed"].values()) == pytest.approx(1)
    assert stored["best"]["val"]["certainty"] > 0
    (epoch,) = csv.DictReader((result.folder / "metrics.csv").read_text().splitlines())
    assert (float(epoch["certainty"]), float(epoch["val_certainty"])) == (value, stored["best"]["val"]["certainty"])
    curves = EventAccumulator(str(result.folder / "tensorboard")).Reload()
    assert curves.Scalars("epoch/certainty")[0].value == pytest.approx(value)
    other = tiny_training(made_caches, tmp_path, dataset=validated_dataset(8, 4), epochs=1, seed=1)
    assert "last.certainty" in {row["field"] for row in compare_runs(result.folder, other.folder)["metrics"]}

    trials = [
        TrialResult(Trial("row", seed, ()), str(each.folder), each.metrics, 1.0, each.keys, reused=False)
        for seed, each in enumerate((result, other))
    ]
    found = Ablation("test", tuple(trials), rows_of(["row"], trials), 0)
    place = columns(found).index("mean certainty")
    mean = np.mean([value, other.metrics["certainty"]])
    assert table(found)[0][place].startswith(f"{mean:.3f} ± ")
    assert "mean certainty" in markdown(found)
    assert "mean certainty" in latex(found)
    (row,) = csv.DictReader(comma_separated(found).splitlines())
    assert float(row["certainty"]) == pytest.approx(mean)
    assert found.result()["trials"][0]["certainty"] == value


def test_it_is_shown_by_the_commands(made_caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "certainty", Metric("mean certainty", certainty))
    monkeypatch.setitem(METRICS, "guessed", Metric("share of guesses", share_of_guesses, per_class=True))
    # Pictures know nothing of metrics and take longest.
    monkeypatch.setattr("unialign.pipeline.evaluation.gallery.draw_run", lambda *_, **__: [])
    save_manifest(made_dataset(), made_caches)
    monkeypatch.chdir(tmp_path)
    small = "{backbone: tsm-resnet10, num_frames: 2, image_size: 16, width: 16, modalities: [video]}"
    words = ["--dataset", "tiny", "--cache", str(made_caches)]
    train = ["train", *words, f"train.unialign={small}", "train.settings.epochs=1", "train.settings.device=cpu"]
    trained = CliRunner().invoke(app, train, catch_exceptions=False)
    assert "mean certainty" in trained.output
    (run,) = Path("runs").glob("tiny-*")
    shown = CliRunner().invoke(app, ["evaluate", str(run), "--cache", str(made_caches)], catch_exceptions=False)
    assert "mean certainty" in shown.output
    assert "share of guesses" in shown.output
    asked = ["evaluate", str(run), "--cache", str(made_caches), "--json"]
    found = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout.splitlines()[-1])
    assert found["agrees"]
    assert sum(row["guessed"] for row in found["per_class"]) == pytest.approx(1)
