"""Building a system from a configuration: defaults, and one clear sentence for each mistake."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from unialign.errors import UsageError
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.model import TokenShape
from unialign.stages.models.art.model import ARTConfig
from unialign.stages.models.dvta.model import DVTAConfig
from unialign.stages.models.flops import multiply_adds
from unialign.stages.models.systems import SYSTEMS, Parts, build_art, build_dvta, build_unialign, checked_config
from unialign.stages.models.unialign.model import UniAlignConfig

SMALL = {"backbone": "tsm-resnet10", "num_frames": 2, "image_size": 32, "width": 8}
SMALL_OF = {
    "unialign": SMALL,
    "art": {
        "backbone": "tsm-resnet10",
        "num_frames": 2,
        "image_size": 32,
        "latent": 8,
        "num_heads": 2,
        "enhancement_layers": 1,
        "region_layers": 1,
    },
    "alt": {"tower": "cached", "num_frames": 2, "num_blocks": 1, "mlp_ratio": 1, "ffn_ratio": 1},
    "dvta": {},
}


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
        checked_config(UniAlignConfig, config)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (ARTConfig, {"k": 2}, "unknown setting of art: k; known: backbone, num_frames"),
        (ARTConfig, {"num_tracks": 2.0}, "setting num_tracks must be of type int"),
        (ARTConfig, {"mtc": ["spatial", "spatial"]}, "once each"),
        (ALTConfig, {"entities": "x"}, "unknown setting of alt: entities; known: network, num_frames"),
        (ALTConfig, {"tower": "free"}, "tower 'free' is unknown; known: tuned, frozen, cached"),
    ],
)
def test_settings_are_those_of_the_system(kind: type[Any], config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked_config(kind, config)


def test_defaults_and_lists_and_whole_numbers() -> None:
    assert checked_config(UniAlignConfig, {}) == UniAlignConfig()
    given = checked_config(UniAlignConfig, {"modalities": ["video", "text"], "gamma": 1})
    assert given.modalities == ("video", "text")
    assert given.gamma == 1.0
    assert isinstance(given.gamma, float)
    assert all(field.default is not None for field in fields(UniAlignConfig))


def _build(config: Mapping[str, Any] = SMALL, **changes: Any) -> torch.nn.Module:
    parts: dict[str, Any] = {"num_classes": 3, "text_bank": torch.randn(2, 3, 4), "pose_width": 5, **changes}
    return build_unialign(Parts(**parts), checked_config(UniAlignConfig, config))


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


def test_art_refuses_texts_that_are_missing_and_more_tracklets_than_texts() -> None:
    config = checked_config(ARTConfig, {**SMALL_OF["art"], "num_tracks": 4})
    with pytest.raises(UsageError, match="art has no text embeddings"):
        build_art(Parts(3), config)
    with pytest.raises(UsageError, match="prompt 0, class 0 is empty"):
        build_art(Parts(3, torch.zeros(2, 3, 4)), config)
    with pytest.raises(UsageError, match="num_tracks is 4, but there are only 3 classes to choose from"):
        build_art(Parts(3, torch.randn(2, 3, 4)), config)
    build_art(Parts(3, torch.randn(2, 3, 4)), checked_config(ARTConfig, {**SMALL_OF["art"], "num_tracks": 3}))
    with pytest.raises(UsageError, match="only 6 rows"):
        build_art(
            Parts(3, torch.randn(2, 3, 4)),
            checked_config(ARTConfig, {**SMALL_OF["art"], "num_tracks": 7, "selection": "rows"}),
        )


def test_dvta_stacks_the_mean_label_and_the_description_of_each_class() -> None:
    bank, described = torch.randn(2, 3, 4), torch.randn(3, 4)
    model = build_dvta(Parts(3, bank, pose_width=5, descriptions=described), DVTAConfig())
    torch.testing.assert_close(model.class_texts[..., 0], torch.nn.functional.normalize(bank.mean(dim=0), dim=-1))
    torch.testing.assert_close(model.class_texts[..., 1], torch.nn.functional.normalize(described, dim=-1))
    assert build_dvta(Parts(3, bank, pose_width=5), DVTAConfig(enhancement=False)).class_texts.shape == (3, 4, 1)
    with pytest.raises(UsageError, match=r"no descriptions; .* set train.dvta.enhancement to false"):
        build_dvta(Parts(3, bank, pose_width=5), DVTAConfig())
    with pytest.raises(UsageError, match="dvta needs pose features and texts"):
        build_dvta(Parts(3, bank), DVTAConfig(enhancement=False))


def made(name: str, randn: Callable[..., torch.Tensor]) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    system = SYSTEMS[name]
    parts = Parts(3, text_bank=randn(2, 3, 4), pose_width=5, corpus=randn(6, 4), tokens=TokenShape(7, 4))
    parts = replace(parts, descriptions=randn(3, 4))
    model = system.build(parts, checked_config(system.config, SMALL_OF[name]))
    batch = {"frames": randn(2, 2, 3, 32, 32), "pose_tokens": randn(2, 4, 5), "tokens": randn(2, 2, 7, 4)}
    batch |= {"pose_features": randn(2, 5), "labels": torch.tensor([0, 2])}
    return model, batch


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_builds_runs_and_has_losses(name: str) -> None:
    system = SYSTEMS[name]
    model, batch = made(name, torch.randn)
    outputs = model(batch)
    losses = system.losses(model, outputs, torch.tensor([0, 2]))
    assert all(bool(value.isfinite()) and value.ndim == 0 for value in losses.values())
    mean, std = system.pictures(model)
    assert len(mean) == len(std) == 3
    assert {system.rate(model, each) for each, _ in model.named_parameters()} == {1.0}


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "dvta"])
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
    for name in ("unialign", "art"):
        system = SYSTEMS[name]
        parts = Parts(3, text_bank=torch.randn(2, 3, 4), pose_width=5, weights=weights)
        model = system.build(parts, checked_config(system.config, SMALL_OF[name]))
        assert all(
            torch.equal(value, weights[key]) for key, value in model.get_submodule("backbone").state_dict().items()
        )
