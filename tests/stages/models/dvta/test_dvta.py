"""DVTA against a slow literal form in float64, its size, its gradients, and its settings."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.models.dvta.model import DVTA, leaky_sigmoid

B, L, P, D = 6, 5, 7, 9
LABELS = torch.tensor([0, 2, 0, 4, 2, 1])
CHANGES: list[dict[str, Any]] = [
    {},
    {"attention_scale": True},
    {"text_order": "project-first"},
    {"combine": "mean"},
    {"direct_loss": True},
    {"detach_augmented": False},
    {"activation": "sigmoid"},
    {"activation": "none"},
    {"leak": 0.2},
    {"projector_depth": 1},
    {"projector_depth": 2},
    {"projector_depth": 3},
    {"enhancement": False},
    {"enhancement": False, "text_order": "project-first"},
    {"augmented": False},
    {"direct": False, "detach_augmented": False},
    {"text_order": "project-first", "attention_scale": True, "combine": "mean", "direct_loss": True},
]


def made(seed: int = 0, **changes: Any) -> DVTA:
    """A small model in float64, with weights large enough that the metric network scores both sides of 0."""
    torch.manual_seed(seed)
    texts = torch.randn(L, D, 2, dtype=torch.float64)
    model = DVTA(config=DVTAConfig(**changes), class_texts=texts, pose_width=P).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.mul_(2)
        if model.metric is not None:
            model.augmented_temperature.fill_(0.3)
            visual = model.visual_projector(torch.nn.functional.normalize(poses(), dim=-1))
            scores = model.metric(visual, model.text_projector(model.class_texts[..., :1].transpose(1, 2)))
            # Not the median: a score of exactly 0 lies on the jump.
            model.metric.last.bias.sub_(scores.quantile(0.47))
    return model


def poses(seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(B, P, dtype=torch.float64)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.pow(2).sum().sqrt()


def linear(layer: nn.Linear, vector: Tensor) -> Tensor:
    return layer.weight @ vector + layer.bias


def literal_pose(model: DVTA, feature: Tensor) -> Tensor:
    value, projector = unit(feature), model.visual_projector
    if projector.residual is not None:
        value = (linear(projector.residual, value) + value).clamp(min=0)
    for layer in projector.hidden:
        assert isinstance(layer, nn.Linear)
        value = linear(layer, value).clamp(min=0)
    return linear(projector.last, value)


def literal_text(model: DVTA, pose: Tensor, label: int) -> Tensor:
    """The text of a class as one pose mixes it."""
    config = model.config
    pieces = [unit(model.class_texts[label, :, piece]) for piece in range(model.class_texts.shape[2])]
    if not config.enhancement:
        return linear(model.text_projector, pieces[0])
    if config.text_order == "project-first":
        pieces[0] = linear(model.text_projector, pieces[0])
    scale = math.sqrt(D) if config.attention_scale else 1.0
    powers = [math.exp(float(pose @ piece) / scale) for piece in pieces]
    mixed = sum((power / sum(powers) * piece for power, piece in zip(powers, pieces, strict=True)), torch.zeros(D))
    return mixed if config.text_order == "project-first" else linear(model.text_projector, mixed)


def literal_parts(model: DVTA, pose: Tensor, text: Tensor) -> dict[str, float]:
    config, parts = model.config, {}
    if config.direct:
        parts["direct_logits"] = float(unit(pose) @ unit(text) / model.direct_temperature)
    if model.metric is not None:
        hidden = linear(model.metric.first, torch.cat([pose, text])).clamp(min=0)
        score = float(linear(model.metric.last, linear(model.metric.second, hidden).clamp(min=0)))
        if config.activation == "sigmoid" or (config.activation == "leaky-sigmoid" and score > 0):
            score = 1 / (1 + math.exp(-score))
        elif config.activation == "leaky-sigmoid":
            score = config.leak * math.exp(config.leak * score)
        parts["augmented_logits"] = score / float(model.augmented_temperature)
    mean = config.combine == "mean" and len(parts) == 2
    parts["pair_logits"] = sum(parts.values()) / (2 if mean else 1)
    return parts


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@torch.no_grad()
def test_every_score_equals_the_literal_form(changes: dict[str, Any]) -> None:
    model = made(**changes)
    features = [literal_pose(model, feature) for feature in poses()]
    own = [literal_text(model, pose, int(label)) for pose, label in zip(features, LABELS, strict=True)]
    outputs = model.train()({"pose_features": poses(), "labels": LABELS})
    for i, j in product(range(B), range(B)):
        expected = literal_parts(model, features[i], own[j])
        assert {name: float(value[i, j]) for name, value in outputs.items()} == pytest.approx(expected, abs=1e-10)
    candidates = torch.tensor([3, 0, 4])
    logits = model.eval()({"pose_features": poses(), "candidates": candidates})["logits"]
    for i, u in product(range(B), range(len(candidates))):
        text = literal_text(model, features[i], int(candidates[u]))
        expected = literal_parts(model, features[i], text)
        assert float(logits[i, u]) == pytest.approx(expected["pair_logits"], abs=1e-10)


@torch.no_grad()
def test_the_literal_form_sees_both_branches_of_the_activation() -> None:
    scores = made(activation="none")({"pose_features": poses(), "labels": LABELS})["augmented_logits"]
    assert 0.2 < float((scores > 0).double().mean()) < 0.8


def test_texts_are_kept_at_unit_length() -> None:
    texts = torch.randn(L, D, 2, dtype=torch.float64)
    kept = DVTA(config=DVTAConfig(), class_texts=texts, pose_width=P).class_texts
    assert torch.allclose(kept[2, :, 1], unit(texts[2, :, 1]), rtol=1e-12)
    assert DVTA(config=DVTAConfig(), class_texts=texts.half(), pose_width=P).class_texts.dtype == torch.float32


@torch.no_grad()
def test_without_candidates_all_classes_are_scored_in_order() -> None:
    model = made().eval()
    every = model({"pose_features": poses()})["logits"]
    assert every.shape == (B, L)
    picked = torch.tensor([4, 1])
    some = model({"pose_features": poses(), "candidates": picked})["logits"]
    assert torch.allclose(every[:, picked], some, rtol=1e-12)


def test_the_published_sizes_give_the_published_number_of_parameters() -> None:
    model = DVTA(config=DVTAConfig(), class_texts=torch.randn(3, 768, 2), pose_width=256)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_888_195
    assert [tuple(model.state_dict()[f"visual_projector.{name}.weight"].shape) for name in ("hidden.0", "last")] == [
        (384, 256),
        (768, 512),
    ]


GROUPS = ("visual_projector", "text_projector", "metric", "direct_temperature", "augmented_temperature")


def moved(model: DVTA, output: str) -> set[str]:
    """The parts of the model that a gradient of one output reaches."""
    model.zero_grad()
    value = model.train()({"pose_features": poses(), "labels": LABELS})[output]
    (value * torch.randn(B, B, dtype=torch.float64)).sum().backward()
    named = {name: each for name, each in model.named_parameters() if each.grad is not None and bool(each.grad.any())}
    return {group for group in GROUPS if any(name.startswith(group) for name in named)}


def test_gradients_stop_where_they_should() -> None:
    projectors = {"visual_projector", "text_projector"}
    model = made()
    assert moved(model, "direct_logits") == {*projectors, "direct_temperature"}
    assert moved(model, "augmented_logits") == {"metric", "augmented_temperature"}
    assert moved(model, "pair_logits") == set(GROUPS)
    joint = made(detach_augmented=False)
    assert moved(joint, "augmented_logits") == {*projectors, "metric", "augmented_temperature"}
    assert moved(made(augmented=False), "pair_logits") == {*projectors, "direct_temperature"}
    alone = made(direct=False, detach_augmented=False)
    assert moved(alone, "pair_logits") == {*projectors, "metric", "augmented_temperature"}


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_parameter_gets_a_gradient_and_the_texts_none(changes: dict[str, Any]) -> None:
    model = made(**changes).train()
    before = model.class_texts.clone()
    value = model({"pose_features": poses(), "labels": LABELS})["pair_logits"]
    (value * torch.randn(B, B, dtype=torch.float64)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    assert not model.class_texts.requires_grad
    model.update({}, LABELS)
    assert torch.equal(before, model.class_texts)


def test_leaky_sigmoid_jumps_at_zero_and_its_gradient_is_finite_everywhere() -> None:
    values = torch.tensor([-1e5, -3.0, 0.0, 1e-9, 3.0, 1e5], requires_grad=True)
    out = leaky_sigmoid(values, 0.01)
    out.sum().backward()
    expected = [0.0, 0.01 * math.exp(-0.03), 0.01, 0.5, 1 / (1 + math.exp(-3)), 1.0]
    assert out.tolist() == pytest.approx(expected, abs=1e-7)
    assert values.grad is not None
    assert bool(values.grad.isfinite().all())
    assert float(values.grad[1]) == pytest.approx(1e-4 * math.exp(-0.03), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_order": "last"}, "text_order\n  Input should be 'attend-first' or 'project-first'"),
        ({"combine": "max"}, "'sum' or 'mean'"),
        ({"activation": "relu"}, "'leaky-sigmoid', 'sigmoid' or 'none'"),
        ({"leak": 0.0}, "leak\n  Input should be greater than 0"),
        ({"temperature": math.nan}, "temperature\n  Input should be a finite number"),
        ({"projector_depth": 5}, "less than or equal to 4"),
        ({"direct": False, "augmented": False}, "one of the alignments must be on"),
        ({"direct": False}, "set detach_augmented to false"),
        ({"augmented": False, "direct_loss": True}, "needs both direct and augmented"),
    ],
)
def test_a_bad_setting_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DVTAConfig(**changes)


def test_class_texts_that_cannot_be_used_are_rejected() -> None:
    empty = torch.randn(L, D, 2)
    empty[1, :, 1] = 0
    for texts in (torch.randn(L, D), torch.randn(L, D, 1), empty, torch.full((L, D, 2), math.nan)):
        with pytest.raises(ValueError, match="class texts"):
            DVTA(config=DVTAConfig(), class_texts=texts, pose_width=P)
    label_only = DVTA(config=DVTAConfig(enhancement=False), class_texts=torch.randn(L, D, 1), pose_width=P)
    assert label_only.class_texts.shape == (L, D, 1)
    assert torch.allclose(label_only.class_texts.norm(dim=1), torch.ones(L, 1))


@torch.no_grad()
def test_half_precision_scores_are_float32_and_near() -> None:
    model = made().float()
    batch = {"pose_features": poses().float(), "labels": LABELS}
    for mode in (True, False):
        model.train(mode)
        exact = model(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(batch)
        assert {value.dtype for value in rounded.values()} == {torch.float32}
        name = "direct_logits" if mode else "logits"
        assert float((rounded[name] - exact[name]).abs().median()) < 0.2
