"""Building a system from its settings: defaults, and one clear sentence for each mistake."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from tests.pipeline import made_systems
from unialign.errors import UsageError
from unialign.pipeline.systems.registry import SYSTEMS, get_system
from unialign.settings import Settings, checked
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.model import TokenShape
from unialign.stages.models.art.config import ARTConfig
from unialign.stages.models.art.model import build_art
from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.models.dvta.model import build_dvta
from unialign.stages.models.flops import multiply_adds
from unialign.stages.models.unialign.config import UniAlignConfig
from unialign.stages.models.unialign.model import build_unialign

SMALL = {"backbone": "tsm-resnet10", "num_frames": 2, "image_size": 32, "width": 8}
SMALL_OF = {
    "unialign": SMALL,
    "art": made_systems.SYSTEMS["train.art"],
    "alt": {"tower": "cached", "num_frames": 2, "num_blocks": 1, "mlp_ratio": 1, "ffn_ratio": 1},
    "dvta": {},
    "stgcn++": {"width": 8},
    "skeleton": {"width": 8},
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lamda_vp": 1.0}, "unknown key 'train.unialign.lamda_vp'; did you mean train.unialign.lambda_vp\\?"),
        ({"zzz": 1.0}, "unknown key 'train.unialign.zzz'; known here: backbone, num_frames"),
        ({"width": "8"}, "train.unialign.width: input should be a valid integer, not '8'"),
        ({"num_frames": True}, "num_frames: should be a number, not true"),
        ({"momentum": 2}, "momentum: input should be less than or equal to 1, not 2"),
        ({"cmsa": "C"}, "cmsa: input should be 'A', 'B' or 'off', not 'C'"),
        ({"bank_form": "ema"}, "bank_form: input should be 'agent' or 'feature', not 'ema'"),
        ({"modalities": ["pose"]}, "must hold video"),
        ({"modalities": ["video", "audio"]}, "modalities.1: input should be 'video', 'pose' or 'text', not 'audio'"),
        ({"modalities": ["video", "video"]}, "once each"),
        ({"modalities": "video"}, "modalities: input should be a valid list, not 'video'"),
        ({"dropout": 1.0}, "dropout: input should be less than 1, not 1.0"),
        ({"temperature": 0.0}, "temperature: input should be greater than or equal to 0.01"),
        ({"gamma": float("nan")}, "gamma: input should be a finite number"),
        ({"width": 0, "dropout": 2}, "width: .* not 0; train.unialign.dropout: .* not 2"),
    ],
)
def test_a_bad_setting_is_one_sentence(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked(UniAlignConfig, config, "train.unialign")


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (ARTConfig, {"k": 2}, "unknown key 'x.k'; known here: backbone, num_frames"),
        (ARTConfig, {"num_tracks": 2.0}, "num_tracks: input should be a valid integer, not 2.0"),
        (ARTConfig, {"mtc": ["spatial", "spatial"]}, "once each"),
        (ALTConfig, {"entities": "x"}, "unknown key 'x.entities'"),
        (ALTConfig, {"tower": "free"}, "tower: input should be 'tuned', 'frozen' or 'cached', not 'free'"),
    ],
)
def test_settings_are_those_of_the_system(kind: type[Settings], config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked(kind, config, "x")


def test_defaults_and_lists_and_whole_numbers() -> None:
    assert checked(UniAlignConfig, {}, "") == UniAlignConfig()
    given = checked(UniAlignConfig, {"modalities": ["video", "text"], "gamma": 1}, "")
    assert given.modalities == ("video", "text")
    assert given.gamma == 1.0
    assert isinstance(given.gamma, float)


def _build(config: Mapping[str, Any] = SMALL, **changes: Any) -> torch.nn.Module:
    parts: dict[str, Any] = {"num_classes": 3, "text_bank": torch.randn(2, 3, 4), "pose_width": 5, **changes}
    return build_unialign(UniAlignConfig(**config), **parts)


def test_a_modality_without_its_data_is_rejected() -> None:
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


def test_art_refuses_texts_that_are_missing_and_more_tracklets_than_texts() -> None:
    config, bank = ARTConfig(**{**SMALL_OF["art"], "num_tracks": 4}), torch.randn(2, 3, 4)
    with pytest.raises(UsageError, match="art has no text embeddings"):
        build_art(config, num_classes=3, text_bank=None)
    with pytest.raises(UsageError, match="prompt 0, class 0 is empty"):
        build_art(config, num_classes=3, text_bank=torch.zeros(2, 3, 4))
    with pytest.raises(UsageError, match="num_tracks is 4, but there are only 3 classes to choose from"):
        build_art(config, num_classes=3, text_bank=bank)
    build_art(config.replaced(num_tracks=3), num_classes=3, text_bank=bank)
    with pytest.raises(UsageError, match="only 6 rows"):
        build_art(config.replaced(num_tracks=7, selection="rows"), num_classes=3, text_bank=bank)


def test_dvta_stacks_the_mean_label_and_the_description_of_each_class() -> None:
    bank, described = torch.randn(2, 3, 4), torch.randn(3, 4)
    plain: dict[str, Any] = {"num_classes": 3, "text_bank": bank, "pose_width": 5}
    model = build_dvta(DVTAConfig(), **plain, descriptions=described)
    torch.testing.assert_close(model.class_texts[..., 0], torch.nn.functional.normalize(bank.mean(dim=0), dim=-1))
    torch.testing.assert_close(model.class_texts[..., 1], torch.nn.functional.normalize(described, dim=-1))
    assert build_dvta(DVTAConfig(enhancement=False), **plain).class_texts.shape == (3, 4, 1)
    with pytest.raises(UsageError, match=r"no descriptions; .* set train.dvta.enhancement to false"):
        build_dvta(DVTAConfig(), **plain)
    with pytest.raises(UsageError, match="dvta needs pose features and texts"):
        build_dvta(DVTAConfig(enhancement=False), num_classes=3, text_bank=bank, pose_width=None)


def made(name: str, randn: Callable[..., torch.Tensor]) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    system = get_system(name)
    texts = {"num_classes": 3, "text_bank": randn(2, 3, 4)}
    parts: dict[str, dict[str, Any]] = {
        "unialign": {**texts, "pose_width": 5},
        "art": texts,
        "alt": {**texts, "corpus": randn(6, 4), "tokens": TokenShape(7, 4)},
        "dvta": {**texts, "pose_width": 5, "descriptions": randn(3, 4)},
        "stgcn++": {"num_classes": 3, "layout": "coco-17"},
        "skeleton": {"num_classes": 3, "layout": "coco-17", "coordinates": 2},
    }
    model = system.build(system.config(**SMALL_OF[name]), **parts[name])
    batch = {"frames": randn(2, 2, 3, 32, 32), "pose_tokens": randn(2, 4, 5), "tokens": randn(2, 2, 7, 4)}
    batch |= {"pose_features": randn(2, 5), "labels": torch.tensor([0, 2])}
    # Keypoints in body space have the way of the body too.
    channels = 5 if name == "skeleton" else 3
    batch |= {"keypoints": randn(2, 2, 8, 17, channels), "present": torch.ones(2, 2, dtype=torch.bool)}
    return model, batch


@pytest.mark.parametrize("name", SYSTEMS.own)
def test_every_system_builds_runs_and_has_losses(name: str) -> None:
    system = get_system(name)
    assert system.config is SYSTEMS[name].config
    model, batch = made(name, torch.randn)
    outputs = model(batch)
    losses = system.losses(model, outputs, torch.tensor([0, 2]))
    assert all(bool(value.isfinite()) and value.ndim == 0 for value in losses.values())
    mean, std = system.normalization(model)
    assert len(mean) == len(std) == 3
    assert {system.rate(model, each) for each, _ in model.named_parameters()} == {1.0}


@pytest.mark.parametrize("name", [name for name in SYSTEMS.own if name not in ("dvta", "stgcn++", "skeleton")])
def test_the_cost_of_a_system_is_the_same_without_memory(name: str) -> None:
    model, batch = made(name, torch.randn)
    with torch.device("meta"):
        empty, nothing = made(name, torch.zeros)
        assert multiply_adds(empty.eval(), nothing) == multiply_adds(model.eval(), batch) > 0


def test_the_cost_of_dvta_is_the_most_that_it_can_be() -> None:
    model, batch = made("dvta", torch.randn)
    with torch.device("meta"):
        empty, nothing = made("dvta", torch.zeros)
        assert multiply_adds(empty.eval(), nothing) >= multiply_adds(model.eval(), batch) > 0


def test_weights_go_into_the_backbone() -> None:
    source, _ = made("art", torch.randn)
    weights = source.get_submodule("backbone").state_dict()
    texts: dict[str, Any] = {"num_classes": 3, "text_bank": torch.randn(2, 3, 4), "weights": weights}
    for model in (
        build_unialign(UniAlignConfig(**SMALL_OF["unialign"]), **texts, pose_width=5),
        build_art(ARTConfig(**SMALL_OF["art"]), **texts),
    ):
        assert all(
            torch.equal(value, weights[key]) for key, value in model.get_submodule("backbone").state_dict().items()
        )
