"""Contract of training a skeleton encoder: extraction reads what comes out, and unseen classes stay unseen."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.made_stores import CLASSES, made_dataset
from tests.pipeline.made_training import SETTINGS, readers_of
from unialign.errors import UsageError
from unialign.pipeline.training.train import RunResult, train_model
from unialign.stages.extraction.pose_encoder import load_encoder
from unialign.stages.training.settings import settings_from

DATASET = made_dataset()


def encoder(made_caches: Path, runs: Path, protocol: str, epochs: int = 2, lr: float = 0.05, **model: Any) -> RunResult:
    return train_model(
        "stgcn++",
        DATASET,
        protocol=protocol,
        readers=readers_of(made_caches),
        model={"width": 8, "clip_len": 12, **model},
        settings=settings_from({"epochs": epochs, "lr": lr, "batch_size": 6, "checkpoint_batches": 0}, SETTINGS),
        runs=runs,
    )


def test_a_trained_encoder_can_be_read_by_extraction(made_caches: Path, tmp_path: Path) -> None:
    result = encoder(made_caches, tmp_path, "whole")
    assert result.exported == result.folder / "encoder.pt"
    assert {"top1", "mean_class"} <= result.metrics.keys()
    loaded = load_encoder(result.folder / "encoder.pt")
    assert (loaded.name, loaded.layout.name, loaded.recipe, loaded.clip_len) == ("stgcn++", "coco-17", "pyskl-2d", 12)
    assert (loaded.classes, loaded.protocol, loaded.dataset) == (CLASSES, "whole", "tiny")
    kept = torch.load(result.folder / "checkpoints/last.pt")["model"]
    assert all(torch.equal(value, kept[f"network.{name}"]) for name, value in loaded.network.state_dict().items())
    again = encoder(made_caches, tmp_path, "whole")
    assert again.reused
    assert again.exported == result.exported


def test_an_encoder_for_a_zero_shot_protocol_never_sees_unseen_classes(made_caches: Path, tmp_path: Path) -> None:
    result = encoder(made_caches, tmp_path, "seen", epochs=1)
    assert load_encoder(result.folder / "encoder.pt").classes == ("wave left", "wave right")
    assert result.samples["train"]["used"] == 10
    assert result.metrics == {}  # no test sample is of a class that it knows


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"depth": 3}, "unknown key 'train.encoder.depth'; known here: width, dropout, clip_len, crop"),
        ({"width": 2}, "train.encoder.width: input should be greater than or equal to 6, not 2"),
        ({"crop": 0}, "train.encoder.crop: input should be greater than 0, not 0"),
    ],
)
def test_bad_encoder_settings_are_named(made_caches: Path, tmp_path: Path, model: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder(made_caches, tmp_path, "whole", **model)


def test_an_encoder_learns_what_the_poses_tell(made_caches: Path, tmp_path: Path) -> None:
    result = encoder(made_caches, tmp_path, "whole", epochs=9, lr=0.1)
    rows = (result.folder / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert min(losses) < 0.7 * losses[0]  # batches of six are noisy for batch statistics
