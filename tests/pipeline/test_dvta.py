"""Contract of DVTA in the pipeline: zero-shot runs from cached pose features and texts, and what they may claim."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.made_stores import CLASSES, made_dataset, pose_features_store, poses_store, text_store, write_store
from unialign.cache.arrays import ArraySpec
from unialign.errors import UsageError
from unialign.pipeline.ablation.grid import Grid, Row
from unialign.pipeline.ablation.sweep import sweep
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.evaluation.costs import model_costs
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.systems.dvta import dvta_recipe, split_by_class
from unialign.pipeline.training.from_config import cached_readers, train_from_config
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.train import prepare_run
from unialign.stages.datasets.base import Sample, Split
from unialign.stages.datasets.zero_shot_splits import generalised_zero_shot, zero_shot
from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.training.loop import Progress
from unialign.stages.training.settings import TrainSettings, settings_from
from unialign.stages.training.zero_shot import pseudo_unseen_classes

PLAIN = made_dataset(24, 16)


def generalised(samples: Sequence[Sample]) -> Split:
    return generalised_zero_shot((3,), PLAIN.protocols["whole"], samples)


def unseen_pair(samples: Sequence[Sample]) -> Split:
    return zero_shot((1, 3), PLAIN.protocols["whole"], samples)


DATASET = replace(PLAIN, protocols={"pair": unseen_pair, "generalised": generalised, **PLAIN.protocols})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("work")
    features(folder / "cache")
    text_store(folder / "cache")
    save_manifest(DATASET, folder / "cache")
    settings = {"epochs": 2, "batch_size": 5, "lr": 1e-3, "optimizer": "adamw", "device": "cpu", "weight_decay": 0.0}
    return with_values(
        Config(),
        {
            "dataset": "tiny",
            "cache": folder / "cache",
            "runs": folder / "runs",
            "train.model": "dvta",
            "train.settings": {**settings, "checkpoint_batches": 1},
        },
    )


def features(cache: Path, attributes: Mapping[str, Any] | None = None) -> None:
    """Pose features that name the poses which they are made from."""
    poses = poses_store(cache, DATASET)
    pose_features_store(cache, DATASET, attributes=attributes, fields={"poses": poses.store.key.digest})


def trained(config: Config, **values: Any) -> Any:
    return train_from_config(with_values(config, {name.replace("__", "."): value for name, value in values.items()}))


def test_a_stopped_run_goes_on_bit_for_bit_and_is_evaluated(config: Config, tmp_path: Path) -> None:
    whole = train_from_config(config)
    assert (whole.model, whole.protocol, whole.epochs, whole.extracted) == ("dvta", "pair", 2, 0)
    assert set(whole.keys) == {"pose-features", "text"}
    left = [4]

    def stop(progress: Progress) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    elsewhere = with_values(config, {"runs": tmp_path})
    with pytest.raises(KeyboardInterrupt):
        train_from_config(elsewhere, show=stop)
    resumed = train_from_config(elsewhere)
    assert (resumed.key, resumed.metrics, resumed.zero_shot) == (whole.key, whole.metrics, whole.zero_shot)
    first, second = (torch.load(each.folder / "checkpoints" / "last.pt")["model"] for each in (whole, resumed))
    assert all(torch.equal(first[name], value) for name, value in second.items())
    found = evaluate_run(resumed.folder, DATASET, cache=config.cache)
    assert found.agrees
    assert found.largest_change == 0
    assert train_from_config(config).reused


def test_only_unseen_classes_are_chosen_from(config: Config) -> None:
    run = train_from_config(config)
    with np.load(run.folder / "predictions.npz") as stored:
        assert stored["probabilities"].shape == (8, 2)
        assert sorted(set(stored["labels"].tolist())) == [0, 1]  # columns
    found = evaluate_run(run.folder, DATASET, cache=config.cache)
    assert found.classes == ("wave right", "jump")
    assert [row["samples"] for row in found.per_class] == [4, 4]
    assert run.samples["train"]["used"] == 12


def test_the_last_epoch_is_reported_unless_the_published_rule_is_asked_for(config: Config, tmp_path: Path) -> None:
    run = trained(config, runs=tmp_path)
    assert (run.zero_shot["rule"], run.zero_shot["epoch"], run.zero_shot["clean"]) == ("last epoch", 2, True)
    assert run.zero_shot["top1"] == run.metrics["top1"]
    assert run.zero_shot["encoder_clean"] is None  # the store does not tell what its encoder was trained on
    marked = trained(config, runs=tmp_path, train__dvta__published_rule=True)
    assert marked.zero_shot["rule"] == "best epoch on the unseen test classes"
    assert marked.zero_shot["clean"] is False
    assert marked.best == {}  # 12 samples are too few to set some aside
    assert marked.zero_shot["top1"] >= run.metrics["top1"]
    assert marked.metrics == run.metrics
    assert json.loads((marked.folder / "result.json").read_text())["zero_shot"] == marked.zero_shot


def test_generalised_runs_are_calibrated_on_classes_of_the_training(config: Config, tmp_path: Path) -> None:
    base = {"runs": tmp_path, "protocol": "generalised"}
    tuned = trained(config, **base, train__dvta__held_out=1)
    (played,) = tuned.zero_shot["held_out"]
    assert (played,) == pseudo_unseen_classes((0, 1, 2), 1)
    assert tuned.zero_shot["rule"] == "validation"
    assert not {"seen", "unseen", "harmonic"} & tuned.zero_shot.keys()
    value = tuned.zero_shot["calibration"]
    plain = trained(config, **base).zero_shot
    final = trained(config, **base, train__dvta__calibration=value).zero_shot
    assert final["clean"]
    assert final["area"] == plain["area"]
    high = trained(config, **base, train__dvta__calibration=1000.0).zero_shot
    assert (high["seen"], high["harmonic"], high["held_out"]) == (0.0, 0.0, [])
    assert high["unseen"] == 1.0  # only one class is left to choose


def test_no_sample_of_the_test_is_in_a_run_with_held_out_classes() -> None:
    test = set(DATASET.split("generalised").test)
    labels = {sample.id: sample.label for sample in DATASET.samples}
    split, roles = split_by_class(DATASET, "generalised", DVTAConfig(held_out=1))
    assert not set(split.train) & set(split.test)
    assert not test & {*split.train, *split.test}
    assert not {labels[each] for each in split.train} & {*roles.untrained, *roles.unseen}
    assert {labels[each] for each in split.test} == set(roles.candidates)
    assert not set(roles.candidates) & set(roles.unseen)


def test_a_test_among_a_single_class_is_refused() -> None:
    """With one class to choose from every answer would be right."""
    with pytest.raises(UsageError, match="held_out is 1, and among one class every answer is right"):
        split_by_class(DATASET, "pair", DVTAConfig(held_out=1))
    alone = replace(DATASET, protocols={"alone": partial(zero_shot, (3,), PLAIN.protocols["whole"])})
    with pytest.raises(UsageError, match=r"protocol alone of tiny tests on a single class \(jump\)"):
        split_by_class(alone, "alone", DVTAConfig())


def test_features_are_the_view_of_evaluation_on_both_sides(config: Config) -> None:
    readers = cached_readers(("pose-features", "text"), DATASET, config, check=False)
    for choice, views in (("first", [0]), ("mean", [0, 2])):
        made = prepare_run(
            "dvta",
            DATASET,
            protocol="pair",
            readers=readers,
            config=DVTAConfig(),
            settings=settings_from({"pose_test": choice}),
            options=Options(),
        )
        for side, covered in ((made.train, made.train_side), (made.test, made.test_side)):
            batch = side.__getitems__([(3, 1), (3, 0)])
            expected = [
                readers["pose-features"].read_one(covered.samples.ids[index])["feature"][views].mean(axis=0)
                for index in (1, 0)
            ]
            np.testing.assert_allclose(batch["pose_features"].numpy(), np.stack(expected), rtol=1e-6)
            assert batch["labels"].tolist() == [covered.samples.labels[index] for index in (1, 0)]


def test_an_encoder_that_has_seen_an_unseen_class_is_refused(config: Config, tmp_path: Path) -> None:
    trained_on = {"dataset": "tiny", "protocol": "pair"}
    for name, attributes in (
        ("clean", {"trained_on": {**trained_on, "classes": ["wave left", "squat"]}}),
        ("leaky", {"trained_on": {**trained_on, "classes": list(CLASSES)}}),
        ("untrained", {"encoder": "motion", "trained_on": {}}),
    ):
        features(tmp_path / name, attributes=attributes)
        text_store(tmp_path / name)
        save_manifest(DATASET, tmp_path / name)
    chosen = {"runs": tmp_path / "runs", "train.settings.epochs": 1}
    for name in ("clean", "untrained"):
        clean = train_from_config(with_values(config, {**chosen, "cache": tmp_path / name}))
        assert clean.zero_shot["encoder_clean"] is True
    with pytest.raises(UsageError, match=r"trained on 2 classes that pair counts as unseen \(wave right\)"):
        train_from_config(with_values(config, {**chosen, "cache": tmp_path / "leaky"}))


@pytest.mark.parametrize(("dataset", "refused"), [("tiny", True), ("other", False)])
def test_an_encoder_whose_classes_have_other_names_is_not_called_clean(
    config: Config, tmp_path: Path, dataset: str, refused: bool
) -> None:
    """Without its class names a dataset numbers them: "class 1" may well be an unseen one."""
    trained_on = {"dataset": dataset, "protocol": "pair", "classes": ["class 0", "class 1"]}
    features(tmp_path, attributes={"trained_on": trained_on})
    text_store(tmp_path)
    save_manifest(DATASET, tmp_path)
    chosen = with_values(config, {"cache": tmp_path, "runs": tmp_path / "runs", "train.settings.epochs": 1})
    if refused:
        with pytest.raises(UsageError, match=r"trained with other class names \(class 0\); .* same --labels"):
            train_from_config(chosen)
    else:
        assert train_from_config(chosen).zero_shot["encoder_clean"] is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"protocol": "whole"}, "protocol whole of tiny leaves no class unseen, .* take one of generalised"),
        ({"train.settings.flip": 0.5}, "dvta augments nothing"),
        ({"train.dvta.held_out": 2}, "held_out is 2, but only 2 classes are seen"),
        ({"train.dvta.published_rule": True, "protocol": "generalised"}, "a generalised one has no such rule"),
        ({"train.dvta.published_rule": True, "train.dvta.held_out": 1}, "drop one"),
        ({"train.dvta.k": 1}, "unknown key 'train.dvta.k'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(config: Config, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_from_config(with_values(config, values))


def test_texts_without_descriptions_do_without_enhancement(config: Config, tmp_path: Path) -> None:
    features(tmp_path)
    row = np.eye(8, dtype=np.float32)
    values = {f"label|{{}}|{name}": {"embedding": row[place]} for place, name in enumerate(CLASSES)}
    write_store(tmp_path, "text", (ArraySpec("embedding", "float32", (8,), ("channel",)),), values)
    save_manifest(DATASET, tmp_path)
    chosen = with_values(config, {"cache": tmp_path, "runs": tmp_path / "runs", "train.settings.epochs": 1})
    with pytest.raises(UsageError, match=r"no description of class 'wave left' .* set train.dvta.enhancement to false"):
        train_from_config(chosen)
    assert train_from_config(with_values(chosen, {"train.dvta.enhancement": False})).epochs == 1


@pytest.mark.usefixtures("fork_server")
def test_two_rows_are_ablated_without_extraction(config: Config, tmp_path: Path) -> None:
    rows = (Row(name="DVTA"), Row(name="DA", set={"train.dvta.augmented": False}))
    found, _ = sweep(
        Grid(name="parts", set={"train.settings.epochs": 1}, rows=rows), with_values(config, {"runs": tmp_path})
    )
    assert found.extracted == 0
    assert [row["row"] for row in found.rows()] == ["DVTA", "DA"]


def test_its_size_is_that_of_the_published_model() -> None:
    (row,) = model_costs(Config(), ["dvta"])["systems"]
    assert row["parameters"] == row["trained"] == 4_888_195


def test_the_default_recipe_fits_the_number_of_samples_and_leaves_what_is_set() -> None:
    few = TrainSettings().with_unset(dvta_recipe(DVTAConfig(), 263, TrainSettings()))
    assert (few.epochs, few.batch_size, few.lr, few.optimizer, few.weight_decay) == (44, 32, 3e-4, "adamw", 0.0)
    many = TrainSettings().with_unset(dvta_recipe(DVTAConfig(), 37_000, TrainSettings()))
    assert (many.epochs, many.warmup_epochs, many.batch_size, many.lr) == (100, 15.0, 128, 1e-6)
    asked = TrainSettings(epochs=1, lr=0.1)
    own = asked.with_unset(dvta_recipe(DVTAConfig(), 263, asked))
    assert (own.epochs, own.lr) == (1, 0.1)
    assert own.warmup_epochs < own.epochs
