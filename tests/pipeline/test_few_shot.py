"""Contract of few-shot training: few samples of each class, from the weights of a run on other classes; and zero-shot
evaluation of such a run on classes that it never saw."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from tests.made_stores import (
    CLASSES,
    TEMPLATES,
    frames_store,
    pose_features_store,
    poses_store,
    text_store,
    write_store,
)
from tests.pipeline.made_systems import DATASET, ENTITIES, SYSTEMS, made_config
from unialign.cache.arrays import ArraySpec
from unialign.cache.reader import StoreReader
from unialign.cli import app
from unialign.errors import DamagedStore, MissingCache, StaleCache, UsageError
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.evaluation.evaluate_elsewhere import evaluate_elsewhere
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.systems.registry import get_system
from unialign.pipeline.training.from_config import cached_readers, train_from_config
from unialign.pipeline.training.initial_weights import finished_run
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.run_folder import read_elsewhere
from unialign.pipeline.training.train import RunResult
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.datasets.splits import few_shots

OTHERS = ("Squat", "roll", "turn", "bow")
OTHER = replace(DATASET, name="other", classes=OTHERS)
ALT = {"train.model": "alt", "train.settings.epochs": 1}
MODELS: dict[str, dict[str, Any]] = {
    "unialign": {"train.settings.epochs": 1},
    "art": {"train.model": "art", "train.settings.epochs": 1},
    "alt": ALT,
}
OF_CLASSES = {
    "unialign": ("head.", "bank.agent", "bank.main"),
    "art": ("head.", "video_head.", "bank.agent", "bank.main"),
    "alt": ("labels", "corpus"),
}


def texts_of_both(cache: Path) -> StoreReader:
    """Texts of both sets of classes, and the entities, in the place of those of one."""
    old = StoreReader(next((cache / "made" / "text").glob("*.zarr")))
    values = {name: old.read_one(name) for name in old.ids}
    for number, name in enumerate(OTHERS):
        row = np.random.default_rng(5000 + number).normal(size=8).astype(np.float32)
        values |= {f"label|{template}|{name}": {"embedding": row} for template in TEMPLATES}
    spec = ArraySpec("embedding", "float32", (8,), ("channel",))
    return write_store(cache, "text", (spec,), values, fields={"both": "yes"})


@pytest.fixture(scope="module")
def config(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    made = made_config(tmp_path_factory.mktemp("work"), weights)
    text = texts_of_both(made.cache)
    save_manifest(OTHER, made.cache)
    return with_values(made, {"train.stores.text": text.path.stem})


@pytest.fixture(scope="module")
def trained(config: Config) -> RunResult:
    """Long enough to tell the classes apart."""
    return train_from_config(with_values(config, {**ALT, "train.settings.epochs": 12}))


def weights_of(result: RunResult) -> dict[str, Tensor]:
    state: dict[str, Any] = torch.load(result.folder / "checkpoints" / "last.pt", weights_only=True)
    return state["model"]  # type: ignore[no-any-return]


def test_shots_are_k_of_each_class_nested_and_by_the_seed() -> None:
    labels = {sample.id: sample.label for sample in DATASET.samples}
    whole = DATASET.split("whole")
    chosen = {}
    for seed in (0, 1):
        for shots in (1, 2, 3):
            split = few_shots(DATASET, shots, seed).split("whole")
            assert split.test == whole.test
            assert set(split.train) <= set(whole.train)
            assert sorted(labels[name] for name in split.train) == sorted([*range(4)] * shots)
            chosen[seed, shots] = set(split.train)
        assert chosen[seed, 1] < chosen[seed, 2] < chosen[seed, 3]
    assert chosen[0, 1] != chosen[1, 1]
    assert few_shots(DATASET, 0, 0) is DATASET
    with pytest.raises(UsageError, match=r"class 'wave left' has 3 training samples, but train\.shots is 4"):
        few_shots(DATASET, 4, 0).split("whole")


def test_a_few_shot_run_trains_on_its_shots_and_is_evaluated_as_any(config: Config) -> None:
    results = [train_from_config(with_values(config, {**ALT, "train.shots": shots})) for shots in (0, 2, 1)]
    assert [each.samples["train"]["used"] for each in results] == [12, 8, 4]
    assert {each.samples["test"]["used"] for each in results} == {8}
    assert len({each.key for each in results}) == 3
    assert evaluate_run(results[1].folder, DATASET, cache=config.cache).agrees


@pytest.mark.parametrize("name", MODELS)
def test_a_run_starts_from_the_weights_of_another_but_for_what_is_of_its_classes(config: Config, name: str) -> None:
    first = train_from_config(with_values(config, MODELS[name]))
    settings = {"train.start": first.folder, "train.settings.lr": 1e-12, "train.shots": 1, "train.settings.seed": 5}
    chosen = with_values(config, {**MODELS[name], **settings})
    second = train_from_config(chosen, OTHER)
    before, after = weights_of(first), weights_of(second)
    assert before.keys() == after.keys()
    for weight, value in before.items():
        if "running" in weight or "num_batches" in weight:
            continue
        # One step at a rate of nothing: what is alike was taken over.
        alike = torch.allclose(value, after[weight], atol=1e-6)
        assert alike != weight.startswith(OF_CLASSES[name]) or weight == "corpus", weight
    assert second.key != train_from_config(with_values(chosen, {"train.start": None}), OTHER).key
    assert train_from_config(chosen, OTHER).reused


def test_what_a_run_cannot_start_from_is_one_sentence(config: Config, trained: RunResult, tmp_path: Path) -> None:
    start = {"train.start": trained.folder}
    for values, error, told in (
        ({"train.start": tmp_path}, MissingCache, "is not a run; `unialign train` makes them"),
        ({"train.model": "art"}, UsageError, r"is a run of alt, which art cannot start from \(train\.start\)"),
        ({"train.alt.num_blocks": 2}, UsageError, r"weights are not those of this model \(blocks\.1\..*config\.yaml"),
        ({"train.alt.mlp_ratio": 2}, UsageError, r"9 weights are not those of this model \(head\.0\.bias"),
    ):
        with pytest.raises(error, match=told):
            train_from_config(with_values(config, {**ALT, **start, **values}))


@pytest.mark.parametrize("added", [{"num_prompts": 2}, {"tower_adapters": "SM"}, {"tower_adapters": "STM"}], ids=str)
def test_adapters_and_prompts_may_be_put_into_a_tower_that_was_tuned(
    config: Config, weights: Path, trained: RunResult, added: dict[str, Any]
) -> None:
    values = {f"train.alt.{name}": value for name, value in {"tower": "frozen", **added}.items()}
    if "num_prompts" in added:  # the text tower's
        values["train.backbone_weights"] = weights
    result = train_from_config(with_values(config, {**ALT, **values, "train.start": trained.folder}))
    before, after = weights_of(trained), weights_of(result)
    tower = [name for name in before if name.startswith("tower.")]
    assert all(torch.equal(before[name], after[name]) for name in tower)
    assert {name.partition(".")[0] for name in after.keys() - before.keys()} <= {"tower", "texts"}
    with pytest.raises(UsageError, match="weights are not those of this model"):
        train_from_config(with_values(config, {**ALT, "train.start": result.folder}))


def test_a_linear_probe_learns_a_classifier_and_nothing_else(config: Config, trained: RunResult) -> None:
    probe = {"train.alt.logits": "probe", "train.start": trained.folder, "train.settings.lr": 0.05}
    result = train_from_config(with_values(config, {**ALT, **probe, "train.settings.epochs": 10}), OTHER)
    before, after = weights_of(trained), weights_of(result)
    assert all(torch.equal(before[name], after[name]) for name in before if name != "labels")
    assert {name for name in after if name not in before} == {"classifier.weight", "classifier.bias"}
    assert result.metrics["top1"] > 0.6
    assert evaluate_run(result.folder, OTHER, cache=config.cache).agrees


def test_what_a_run_has_seen_stays_known_over_all_that_start_from_it(config: Config, trained: RunResult) -> None:
    chain = with_values(config, {**ALT, "train.start": trained.folder})
    second = train_from_config(chain, OTHER)
    third = replace(DATASET, name="third", classes=("roll", "jump", "bow", "turn"))
    found = elsewhere(config, second.folder, third)
    assert found.trained_on == ("other", "tiny")
    assert found.shared == third.classes  # "jump" of the first run, the others of the second
    # Under "seen" the first run's training samples are tested, also behind another run.
    for folder in (trained.folder, second.folder):
        leaking = with_values(config, {**ALT, "train.start": folder, "protocol": "seen"})
        with pytest.raises(UsageError, match=r"was trained \(whole\) on 6 samples that seen of tiny tests \(clip002\)"):
            train_from_config(leaking)


def test_a_run_does_not_start_from_one_that_learned_its_test_samples_under_an_older_split(
    config: Config, trained: RunResult
) -> None:
    made = DATASET.protocols["whole"]

    def swapped(samples: Sequence[Sample]) -> Split:
        split = made(samples)
        return Split(split.test, split.train)

    other = replace(DATASET, protocols={**DATASET.protocols, "whole": swapped})
    with pytest.raises(UsageError, match=r"was trained \(whole\) on \d+ samples that whole of tiny tests \(clip"):
        train_from_config(with_values(config, {**ALT, "train.start": trained.folder}), other)


def test_content_that_was_learned_under_another_name_is_not_tested(config: Config, trained: RunResult) -> None:
    """Names of datasets, ids and splits do not say what samples were made from, and a run in between hides it."""
    made = DATASET.protocols["whole"]
    turned = replace(
        OTHER, name="third", protocols={"whole": lambda samples: Split(made(samples).test[:4], made(samples).test[4:])}
    )
    tests = replace(
        OTHER, name="fourth", protocols={"whole": lambda samples: Split(made(samples).test[4:], made(samples).train)}
    )
    chain = {**ALT, "train.start": trained.folder, "train.val_share": 0, "train.settings.epochs": 1}
    second = train_from_config(with_values(config, chain), turned)
    where = r"trained on the content of \d+ samples that whole of fourth tests \(clip\d+ = tiny/clip"
    for folder in (trained.folder, second.folder):
        with pytest.raises(UsageError, match=where):
            train_from_config(with_values(config, {**ALT, "train.start": folder}), tests)
        with pytest.raises(UsageError, match=where):
            elsewhere(config, folder, tests)
    path = second.folder / "learned.csv"
    before = path.read_text()
    path.write_text("")
    with pytest.raises(DamagedStore, match=r"learned.csv was changed"):
        finished_run(second.folder)
    path.unlink()
    with pytest.raises(MissingCache, match=r"learned.csv does not exist"):
        finished_run(second.folder)
    path.write_text(before)


@pytest.mark.parametrize("name", ["dvta", "stgcn++", "skeleton"])
def test_zero_shot_results_and_their_encoders_start_from_no_run(trained: RunResult, name: str) -> None:
    system = get_system(name)
    with pytest.raises(UsageError, match=rf"{re.escape(name)} starts from no run .* which classes are unseen"):
        system.check(system.config(), Options(start=trained.folder))


def elsewhere(config: Config, folder: Path, dataset: Dataset = OTHER, **given: Any) -> Any:
    readers = cached_readers(("frames", "text"), dataset, config, check=True)
    return evaluate_elsewhere(folder, dataset, readers=readers, cache=config.cache, **given)


def test_other_classes_are_recognised_by_their_texts(config: Config, trained: RunResult, tmp_path: Path) -> None:
    found = elsewhere(config, trained.folder)
    assert (found.trained_on, found.dataset, found.protocol) == (("tiny",), "other", "whole")
    assert [row["name"] for row in found.per_class] == list(OTHERS)
    assert sum(row["samples"] for row in found.per_class) == 8
    assert found.shared == ("Squat",)
    # Among a single class every answer is right.
    (tmp_path / "unseen.txt").write_text("roll\n")
    with pytest.raises(UsageError, match=r"tests on a single class \(roll\), of which every answer is right"):
        elsewhere(config, trained.folder, protocol=f"unseen={tmp_path / 'unseen.txt'}")
    # A protocol that says which classes are tested has only these as candidates.
    (tmp_path / "unseen.txt").write_text("roll\nturn\n")
    one = elsewhere(config, trained.folder, protocol=f"unseen={tmp_path / 'unseen.txt'}")
    assert [row["name"] for row in one.per_class] == ["roll", "turn"]
    assert one.used == sum(row["samples"] for row in one.per_class) < 8
    # The same classes under another name of the dataset: what the run itself has measured.
    same = elsewhere(config, trained.folder, replace(DATASET, name="again"))
    assert same.metrics == trained.metrics
    assert same.shared == CLASSES
    assert same.metrics["top1"] > 0.6
    # Turned round, the texts of the classes decide what comes out.
    turned = elsewhere(config, trained.folder, replace(DATASET, name="again", classes=CLASSES[::-1]))
    assert [row["name"] for row in turned.per_class] == list(CLASSES[::-1])
    assert turned.metrics["top1"] < 0.3


def test_what_cannot_be_evaluated_elsewhere_is_one_sentence(config: Config, trained: RunResult) -> None:
    closed = train_from_config(with_values(config, MODELS["unialign"]))
    with pytest.raises(UsageError, match=r"on tiny, and this unialign knows no other classes; .* or train alt"):
        elsewhere(config, closed.folder)
    probe = train_from_config(with_values(config, {**ALT, "train.alt.logits": "probe", "train.start": trained.folder}))
    with pytest.raises(UsageError, match=r"on tiny, and this alt knows no other classes"):
        elsewhere(config, probe.folder)
    old = next(path.stem for path in (config.cache / "made" / "text").glob("*.zarr") if path.stem not in str(config))
    with pytest.raises(StaleCache, match=r"other settings than the text that .* extract text of other with those"):
        elsewhere(with_values(config, {"train.stores.text": old}), trained.folder)
    with pytest.raises(UsageError, match="has no protocol 'none'"):
        elsewhere(config, trained.folder, protocol="none")


def test_the_command_evaluates_elsewhere(config: Config, trained: RunResult) -> None:
    def call(*words: str) -> Any:
        options = ("--cache", str(config.cache), "--use", f"text={config.train.stores['text']}")
        return CliRunner().invoke(app, ["evaluate", str(trained.folder), *options, *words])

    shown = call("--dataset", "other", "--protocol", "whole")
    assert shown.exit_code == 0, shown.output
    assert "classes of both" in shown.stdout
    found = json.loads(call("--dataset", "other", "--json").stdout.splitlines()[-1])
    assert found["metrics"] == elsewhere(config, trained.folder).metrics
    assert found["shared"] == ["Squat"]
    (kept,) = read_elsewhere(trained.folder)
    assert (kept["dataset"], kept["protocol"], kept["metrics"]) == ("other", "whole", found["metrics"])
    refused = call()
    assert isinstance(refused.exception, UsageError)
    assert "go with another --dataset" in str(refused.exception)


def test_entities_stay_those_of_the_training(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "entities.tsv"
    file.write_text("".join(f"{name}\n" for name in ENTITIES[:2]))
    result = train_from_config(with_values(config, {**ALT, "train.entities": file}))
    assert elsewhere(config, result.folder).metrics["coverage"] == 1


@pytest.mark.parametrize("model", ["unialign", "alt"])
def test_the_split_decides_what_is_chosen_among(config: Config, tmp_path: Path, model: str) -> None:
    """Conventional: the unseen classes alone; generalised: all, with the accuracies of both kinds."""
    path = tmp_path / "unseen.txt"
    path.write_text("squat\njump\n")
    found = train_from_config(with_values(config, {**MODELS[model], "protocol": f"unseen={path}"}))
    stored = np.load(found.folder / "predictions.npz")
    assert set(stored["labels"].tolist()) == {2, 3}
    assert (stored["probabilities"][:, :2] == 0).all()
    np.testing.assert_allclose(stored["probabilities"].sum(axis=1), 1, rtol=1e-5)
    told = found.zero_shot
    assert (told["test"], told["candidates"], told["chance"]) == ("conventional", 2, 0.5)
    assert "harmonic" not in told
    again = evaluate_run(found.folder, DATASET, cache=config.cache, device="cpu")
    assert again.agrees
    assert again.metrics == found.metrics
    whole = train_from_config(with_values(config, {**MODELS[model], "protocol": f"generalised-unseen={path}"}))
    stored = np.load(whole.folder / "predictions.npz")
    assert set(stored["labels"].tolist()) == {0, 1, 2, 3}
    assert (stored["probabilities"] > 0).any(axis=0).all()
    told = whole.zero_shot
    assert (told["test"], told["candidates"], told["split"]) == ("generalised", 4, found.zero_shot["split"])
    right = stored["probabilities"].argmax(axis=1) == stored["labels"]
    is_seen = stored["labels"] < 2
    assert (told["seen"], told["unseen"]) == (right[is_seen].mean(), right[~is_seen].mean())
    assert 0 <= told["area"] <= 1


def test_features_of_an_encoder_that_has_seen_unseen_classes_are_rejected(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    frames_store(cache, DATASET)
    text_store(cache)
    made_of = {"poses": poses_store(cache, DATASET).store.key.digest}
    seen = {"trained_on": {"dataset": "tiny", "classes": list(CLASSES)}}
    pose_features_store(cache, DATASET, attributes=seen, fields=made_of)
    save_manifest(DATASET, cache)
    (tmp_path / "unseen.txt").write_text("squat\njump\n")
    values = {
        "dataset": "tiny",
        "cache": cache,
        "runs": tmp_path / "runs",
        "protocol": f"unseen={tmp_path / 'unseen.txt'}",
        **SYSTEMS,
        "train.unialign": {**SYSTEMS["train.unialign"], "modalities": ["video", "pose", "text"]},
    }
    with pytest.raises(UsageError, match=r"was trained on 2 classes that unseen=.* counts as unseen \(squat\)"):
        train_from_config(with_values(Config(), values))
