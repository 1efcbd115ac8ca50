"""Contract of ALT's learned prompts in training: texts from file to tower, frozen weights, evaluation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipeline.made_systems import DATASET, ENTITIES, made_config
from unialign.errors import UsageError
from unialign.pipeline.config import Config, load_config, with_values
from unialign.pipeline.evaluation.costs import model_costs
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.systems.alt import prompted_words
from unialign.pipeline.training.from_config import train_from_config
from unialign.stages.extraction.text_openclip import load_openclip
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.clip.prompts import PromptedTexts
from unialign.stages.models.clip.text_tower import load_text, text_transformer

PROMPTED = {"train.model": "alt", "train.alt.tower": "frozen", "train.alt.num_prompts": 2}


@pytest.fixture(scope="module")
def config(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    made = made_config(tmp_path_factory.mktemp("work"), weights)
    return with_values(made, {**PROMPTED, "train.backbone_weights": weights, "train.settings.epochs": 1})


def test_only_prompts_and_what_stands_on_the_towers_learn(config: Config, weights: Path) -> None:
    result = train_from_config(config)
    state: dict[str, Any] = torch.load(result.folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    clip = torch.load(weights, weights_only=True)
    for name in ("token_embedding.weight", "transformer.resblocks.0.mlp.c_fc.weight", "text_projection"):
        assert torch.equal(state[f"texts.network.{name}"], clip[name])
    assert torch.equal(state["tower.network.conv1.weight"], clip["visual.conv1.weight"])
    again = train_from_config(with_values(config, {"train.settings.epochs": 2}))
    moved = torch.load(again.folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    for name in ("texts.prompts.0", "tower.prompts.0", "tower.prompts.1", "head.0.weight"):
        assert not torch.equal(moved[name], state[name]), name
    words = state["texts.labels"]
    assert words.shape[1] == len(DATASET.classes)
    assert words.shape[2] < 32  # as long as the longest of them


def test_without_learning_labels_are_those_of_the_text_extraction(config: Config, weights: Path) -> None:
    """Without any prompt: the classes' rows are what `extract text` would have stored."""
    network = config.train.alt.network
    words = prompted_words(
        ALTConfig(network=network, tower="frozen", num_prompts=1), DATASET.classes, ("a clip of {}",), {}
    )
    assert words is not None
    tower = text_transformer(network)
    load_text(tower, torch.load(weights, weights_only=True))
    made = PromptedTexts(network=tower, words=words, num_prompts=0).eval()
    encoder = load_openclip(network, weights, "cpu")
    with torch.no_grad():
        rows = made()[0].numpy()
    for row, name in zip(rows, DATASET.classes, strict=True):
        expected = encoder.encode([f"a clip of {name}"])[0]
        torch.testing.assert_close(torch.from_numpy(row), torch.nn.functional.normalize(torch.tensor(expected), dim=0))


def test_entities_go_through_the_tower_on_request_and_evaluation_needs_no_file(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "entities.tsv"
    file.write_text("".join(f"{name}\tsome {name}\n" for name in ENTITIES[:3]))
    chosen = {"train.alt.prompted_texts": "all", "runs": tmp_path}
    with pytest.raises(UsageError, match=r"needs the entities' texts; name their file as train\.entities"):
        train_from_config(with_values(config, chosen))
    result = train_from_config(with_values(config, {**chosen, "train.entities": file}))
    state = torch.load(result.folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert state["texts.entities"].shape[0] == 3
    file.unlink()
    assert evaluate_run(result.folder, DATASET, cache=config.cache).agrees


def test_a_text_that_leaves_no_room_for_the_prompts_is_told(config: Config, tmp_path: Path) -> None:
    crowded = with_values(config, {"train.alt.num_prompts": 30, "runs": tmp_path})
    with pytest.raises(UsageError, match=r"tokens, but tiny-system-tower reads 32 and 30 of them are learned prompts"):
        train_from_config(crowded)


def test_prompts_are_counted_and_texts_are_not_counted_with_each_view() -> None:
    """145,920 numbers: 10 in each of 12 layers of the text tower and 11 of the image tower."""
    found = {}
    for num_prompts in (0, 10):
        values = [f"train.alt.num_prompts={num_prompts}", "train.alt.tower=frozen"]
        (found[num_prompts],) = model_costs(load_config({}, values, environment={}), ["alt"])["systems"]
    assert found[10]["trained"] - found[0]["trained"] == 10 * (11 * 768 + 12 * 512)
    assert 1.015 < found[10]["gflops_view"] / found[0]["gflops_view"] < 1.02
