"""What `unialign run` decides before it works: which steps, and how the skeleton encoder is trained."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.made_stores import made_dataset
from unialign.errors import UsageError
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.end_to_end import check_inputs, encoder_config, end_to_end, tests_unseen, with_inputs
from unialign.stages.datasets.base import Dataset, Split

tests_unseen.__test__ = False  # type: ignore[attr-defined] # its name is not that of a test


def with_split(split: Split) -> Dataset:
    made = made_dataset()
    return replace(made, protocols={"own": lambda samples: split})


def test_every_modality_comes_after_what_it_is_made_from_and_once() -> None:
    assert with_inputs(["frames", "pose-features", "text"]) == ["frames", "poses", "pose-features", "text"]
    assert with_inputs(["tokens", "frames"]) == ["frames", "tokens"]


def test_the_encoder_has_its_own_recipe_and_only_seed_device_and_the_like_of_the_models_settings() -> None:
    given = {"epochs": 7, "lr": 0.5, "seed": 3, "device": "cpu", "log_every": 2}
    config = with_values(Config(), {"train.settings": given, "train.start": "elsewhere", "train.shots": 5})
    made = encoder_config(config).train
    assert made.model == "skeleton"
    assert made.settings.model_fields_set == {"seed", "device", "log_every", "checkpoint_every"}
    assert (made.settings.seed, made.settings.device, made.start, made.shots) == (3, "cpu", None, 5)
    assert encoder_config(with_values(config, {"train.encoder_epochs": 9})).train.settings.epochs == 9


def test_unseen_tested_classes_are_noticed() -> None:
    first = made_dataset().samples[0]
    other = next(sample for sample in made_dataset().samples if sample.label != first.label)
    assert tests_unseen(with_split(Split((first.id,), (other.id,))), "own")
    assert not tests_unseen(with_split(Split((first.id, other.id), (other.id,))), "own")


def test_without_weights_or_videos_the_sentence_says_what_to_do() -> None:
    with pytest.raises(
        UsageError, match=r"give --weights yolo11n-pose.pt .* train\.unialign\.modalities=\[video,text\]"
    ):
        check_inputs(["poses"], made_dataset(), Config())
    with pytest.raises(UsageError, match=r"has no videos, .*: train\.model=skeleton"):
        check_inputs(["frames"], made_dataset(), Config())


def test_nothing_is_extracted_before_all_is_known_to_be_there(tmp_path: Path) -> None:
    config = with_values(Config(), {"cache": tmp_path / "cache", "runs": tmp_path / "runs"})
    with pytest.raises(UsageError, match="poses need the weights"):
        next(end_to_end(made_dataset(), config))
    assert not list(tmp_path.iterdir())
