"""ART's losses, equations 5 to 8, 10, 11 and 14 to 18, against literal loops in float64."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from unialign.stages.models.art.config import ARTConfig
from unialign.stages.models.art.losses import art_losses, spatial_term, temporal_term, tracklet_term

B, T, K, D, L = 2, 4, 3, 5, 3
LABELS = torch.tensor([2, 0])


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second / (first.norm() * second.norm()))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _cross_entropy(logits: Tensor, labels: list[int]) -> float:
    return _mean(
        [math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(logits.tolist(), labels, strict=True)]
    )


def _spatial(regions: Tensor) -> float:
    return _mean(
        [
            _cosine(regions[b, t, k], regions[b, t, other])
            for b in range(len(regions))
            for t in range(T)
            for k in range(K)
            for other in range(K)
            if k != other
        ]
    )


def _temporal(regions: Tensor, target: float, form: str) -> float:
    forms = {"hinge": lambda gap: max(0.0, gap), "abs": abs, "square": lambda gap: gap * gap}
    return _mean(
        [
            forms[form](target - _cosine(regions[b, t, k], regions[b, t + 1, k]))
            for b in range(len(regions))
            for t in range(T - 1)
            for k in range(K)
        ]
    )


def _tracklet(regions: Tensor) -> float:
    tracks = [[torch.cat([regions[b, t, k] for t in range(T)]) for k in range(K)] for b in range(len(regions))]
    return _mean([_cosine(rows[k], rows[o]) for rows in tracks for k in range(K) for o in range(K) if k != o])


@pytest.mark.parametrize("seed", range(3))
def test_equations_5_to_7_equal_literal_loops(seed: int) -> None:
    regions = _random(B, T, K, D, seed=seed)
    assert float(spatial_term(regions)) == pytest.approx(_spatial(regions), abs=1e-12)
    assert float(tracklet_term(regions)) == pytest.approx(_tracklet(regions), abs=1e-12)
    for form in ("hinge", "abs", "square"):
        assert float(temporal_term(regions, 0.6, form)) == pytest.approx(_temporal(regions, 0.6, form), abs=1e-12)


def test_the_terms_push_and_pull_as_meant() -> None:
    same = _random(1, 1, 1, D).expand(1, T, K, D)  # all regions of all frames alike
    assert float(spatial_term(same)) == pytest.approx(1.0)
    assert float(tracklet_term(same)) == pytest.approx(1.0)
    assert float(temporal_term(same, 0.6, "hinge")) == 0.0
    assert float(temporal_term(same, 0.6, "abs")) == pytest.approx(0.4)
    apart = torch.eye(K, D, dtype=torch.float64).expand(1, T, K, D)
    assert float(spatial_term(apart)) == pytest.approx(0.0)


def _outputs(frames: int = T, tracks: int = K) -> dict[str, Tensor]:
    return {
        "logits": _random(B, L, seed=1).log_softmax(dim=-1),
        "video_logits": _random(B, L, seed=2),
        "regions": _random(B, frames, tracks, D, seed=3),
        "bank_video_logits": _random(B, L, seed=4),
        "bank_prototype_logits": _random(L, L, seed=5),
    }


def _model(**settings: Any) -> SimpleNamespace:
    return SimpleNamespace(config=ARTConfig(**settings))


@pytest.mark.parametrize("mtc", [(), ("spatial",), ("temporal",), ("tracklet",), ("spatial", "temporal", "tracklet")])
def test_the_total_is_equation_18(mtc: tuple[str, ...]) -> None:
    outputs = _outputs()
    model = _model(mtc=mtc, gamma_mtc=3.0, gamma_bank=4.0, temporal_form="square", temporal_target=0.2)
    losses = art_losses(model, outputs, LABELS)
    labels = LABELS.tolist()
    terms = {
        "spatial": _spatial(outputs["regions"]),
        "temporal": _temporal(outputs["regions"], 0.2, "square"),
        "tracklet": _tracklet(outputs["regions"]),
    }
    expected = {
        "classification": _cross_entropy(outputs["video_logits"], labels),
        "final": _cross_entropy(outputs["logits"], labels),
        "bank_video": 4.0 * _cross_entropy(outputs["bank_video_logits"], labels),
        "bank_prototype": 4.0 * _cross_entropy(outputs["bank_prototype_logits"], list(range(L))),
    } | {f"mtc_{name}": 3.0 * terms[name] for name in mtc}
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, abs=1e-5), name
    assert float(torch.stack(list(losses.values())).sum()) == pytest.approx(sum(expected.values()), abs=1e-4)


def test_terms_without_pairs_are_left_out() -> None:
    assert {key for key in art_losses(_model(), _outputs(tracks=1), LABELS) if "mtc" in key} == {"mtc_temporal"}
    assert {key for key in art_losses(_model(), _outputs(frames=1), LABELS) if "mtc" in key} == {
        "mtc_spatial", "mtc_tracklet",
    }  # fmt: skip
    assert set(art_losses(_model(), {"video_logits": _random(B, L)}, LABELS)) == {"classification"}


def test_half_precision_outputs_are_scored_in_float32() -> None:
    outputs = {key: value.to(torch.bfloat16) for key, value in _outputs().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = art_losses(_model(), outputs, LABELS)
    assert {value.dtype for value in losses.values()} == {torch.float32}
