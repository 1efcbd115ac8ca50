"""The losses against literal loops."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from unialign.stages.models.unialign.losses import divergence, pair_loss, uni_align_losses

B, L, TAU = 5, 4, 0.5
LABELS = torch.tensor([0, 2, 0, 1, 2])
HAS_POSE = torch.tensor([True, True, True, False, False])


def _literal_cross_entropy(logits: Tensor, labels: list[int]) -> float:
    total = 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        total -= row[label] - math.log(sum(math.exp(value) for value in row))
    return total / len(labels)


def _literal_divergence(logits: Tensor, rows: list[int], columns: list[int]) -> float:
    """Mean over rows with positives of sum_j G_ij log(G_ij / p_ij)."""
    values = []
    for i in rows:
        positives = [j for j in columns if LABELS[j] == LABELS[i]]
        if not positives:
            continue
        total = sum(math.exp(float(logits[i, j])) for j in columns)
        share = 1 / len(positives)
        values.append(
            sum(share * (math.log(share) - math.log(math.exp(float(logits[i, j])) / total)) for j in positives)
        )
    return sum(values) / len(values) if values else 0.0


def _outputs() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {
        "video_logits": torch.randn(B, L, dtype=torch.float64),
        "align_logits": torch.randn(B, L, dtype=torch.float64),
        "similarity_vp": torch.randn(B, B, dtype=torch.float64),
        "similarity_vt": torch.randn(B, B, dtype=torch.float64),
        "similarity_pt": torch.randn(B, B, dtype=torch.float64),
        "has_pose": HAS_POSE,
        "bank_video_logits": torch.randn(B, L, dtype=torch.float64),
        "bank_prototype_logits": torch.randn(L, L, dtype=torch.float64),
    }


MODEL = SimpleNamespace(gamma=5.0, lambda_vp=0.7, temperature=torch.tensor(TAU))


def test_every_term_equals_literal_loops() -> None:
    outputs = _outputs()
    losses = uni_align_losses(MODEL, outputs, LABELS)
    labels = LABELS.tolist()
    everyone, posed = list(range(B)), [0, 1, 2]
    expected = {
        "classification": _literal_cross_entropy(outputs["video_logits"], labels),
        "alignment": _literal_cross_entropy(outputs["align_logits"], labels),
        "bank_video": 5.0 * _literal_cross_entropy(outputs["bank_video_logits"], labels),
        "bank_prototype": 5.0 * _literal_cross_entropy(outputs["bank_prototype_logits"], list(range(L))),
    }
    for pair in ("vp", "vt", "pt"):
        rows, columns = (posed if modality == "p" else everyone for modality in pair)
        logits = outputs[f"similarity_{pair}"] / TAU
        both = _literal_divergence(logits, rows, columns) + _literal_divergence(logits.T, columns, rows)
        expected[f"similarity_{pair}"] = 0.7 * 0.5 * both
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, abs=1e-5), name


def test_only_the_terms_that_the_model_has() -> None:
    outputs = {"video_logits": torch.randn(B, L)}
    assert set(uni_align_losses(MODEL, outputs, LABELS)) == {"classification"}


def test_divergence_is_zero_at_the_target_and_positive_elsewhere() -> None:
    same = LABELS[:, None] == LABELS[None, :]
    everyone = torch.ones(B, dtype=torch.bool)
    exact = torch.where(same, 0.0, -100.0)
    assert float(divergence(exact, same, everyone, everyone)) == pytest.approx(0.0, abs=1e-6)
    assert float(divergence(torch.randn(B, B), same, everyone, everyone)) > 0


def test_one_clip_per_class_gives_the_symmetric_infonce() -> None:
    logits = torch.randn(B, B, dtype=torch.float64)
    everyone = torch.ones(B, dtype=torch.bool)
    loss = pair_loss(logits, torch.eye(B, dtype=torch.bool), everyone, everyone)
    expected = _literal_cross_entropy(logits, list(range(B))) + _literal_cross_entropy(logits.T, list(range(B)))
    assert float(loss) == pytest.approx(expected / 2)


def test_a_batch_without_any_pose_gives_zero_and_finite_gradients() -> None:
    logits = torch.randn(B, B, requires_grad=True)
    same = LABELS[:, None] == LABELS[None, :]
    nobody = torch.zeros(B, dtype=torch.bool)
    loss = pair_loss(logits, same, ~nobody, nobody)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not bool(logits.grad.any())


def test_half_precision_outputs_are_scored_in_float32() -> None:
    outputs = {key: value if key == "has_pose" else value.to(torch.bfloat16) for key, value in _outputs().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = uni_align_losses(MODEL, outputs, LABELS)
    assert {value.dtype for value in losses.values()} == {torch.float32}
