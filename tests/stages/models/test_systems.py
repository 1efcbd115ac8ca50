"""Building a system from a configuration: defaults, and one clear sentence for each mistake."""

from dataclasses import fields
from typing import Any

import pytest
import torch

from unialign.cache.errors import UsageError
from unialign.stages.models.systems import SYSTEMS, build_unialign, checked_config
from unialign.stages.models.uni_align import UniAlignConfig

SMALL = {"backbone": "tsm-resnet10", "num_frames": 2, "image_size": 32, "width": 8}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lamda": 1.0}, "unknown setting of unialign: lamda; known: backbone, num_frames"),
        ({"width": "8"}, "setting width must be of type int, not '8'"),
        ({"num_frames": True}, "setting num_frames must be of type int"),
        ({"momentum": 2}, "momentum must lie between 0 and 1, not 2.0"),
        ({"cmsa": "C"}, "cmsa 'C' is unknown; known: A, B, off"),
        ({"bank_form": "ema"}, "bank_form 'ema' is unknown; known: agent, feature"),
        ({"modalities": ["pose"]}, "must hold video"),
        ({"modalities": ["video", "audio"]}, "may hold pose and text"),
        ({"modalities": ["video", "video"]}, "once each"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"temperature": 0.0}, "temperature must be at least 0.01"),
        ({"gamma": float("nan")}, "gamma must be a finite number"),
        ({"width": 0}, "width must be at least 1"),
    ],
)
def test_a_bad_setting_is_one_sentence(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked_config(config)


def test_defaults_and_lists_and_whole_numbers() -> None:
    assert checked_config({}) == UniAlignConfig()
    given = checked_config({"modalities": ["video", "text"], "gamma": 1})
    assert given.modalities == ("video", "text")
    assert given.gamma == 1.0
    assert isinstance(given.gamma, float)
    assert all(field.default is not None for field in fields(UniAlignConfig))


def _build(**changes: Any) -> torch.nn.Module:
    arguments: dict[str, Any] = {"num_classes": 3, "text_bank": torch.randn(2, 3, 4), "pose_width": 5, "config": SMALL}
    return build_unialign(**{**arguments, **changes})


def test_a_modality_without_its_data_is_refused() -> None:
    with pytest.raises(UsageError, match="no text embeddings"):
        _build(text_bank=None)
    with pytest.raises(UsageError, match="no pose features"):
        _build(pose_width=None)
    with pytest.raises(UsageError, match=r"shape \(2, 9, 4\), needed is \(prompts, 3, width\)"):
        _build(text_bank=torch.randn(2, 9, 4))
    empty = torch.randn(2, 3, 4)
    empty[1, 2] = 0.0
    with pytest.raises(UsageError, match="prompt 1, class 2 is empty"):
        _build(text_bank=empty)
    with pytest.raises(UsageError, match="backbone 'x' is unknown"):
        _build(config={**SMALL, "backbone": "x"})


def test_data_of_a_modality_that_is_off_is_left_alone() -> None:
    model = _build(config={**SMALL, "modalities": ["video"]})
    assert not any(name.startswith(("bank", "pose", "cmsa", "log_temp")) for name in model.state_dict())
    _build(text_bank=None, pose_width=None, config={**SMALL, "modalities": ["video"]})


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_builds_runs_and_has_losses(name: str) -> None:
    system = SYSTEMS[name]
    model = system.build(num_classes=3, text_bank=torch.randn(2, 3, 4), pose_width=5, config=SMALL)
    outputs = model({"frames": torch.randn(2, 2, 3, 32, 32), "pose_tokens": torch.randn(2, 4, 5)})
    losses = system.losses(model, outputs, torch.tensor([0, 2]))
    assert all(bool(value.isfinite()) and value.ndim == 0 for value in losses.values())
