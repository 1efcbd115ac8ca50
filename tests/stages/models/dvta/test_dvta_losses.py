"""The loss of DVTA against literal loops."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from unialign.stages.models.dvta.model import dvta_losses, matching_loss

B = 5
LABELS = torch.tensor([0, 2, 0, 1, 2])


def literal(logits: Tensor) -> float:
    """1/2 the mean over rows of KL(Q_i, p_i), in both directions."""
    total = 0.0
    for scores in (logits, logits.T):
        for i in range(B):
            wanted = [math.exp(10.0 * bool(LABELS[i] == LABELS[j])) for j in range(B)]
            given = [math.exp(float(scores[i, j])) for j in range(B)]
            for want, give in zip(wanted, given, strict=True):
                target, probability = want / sum(wanted), give / sum(given)
                total += target * (math.log(target) - math.log(probability)) / B
    return total / 2


def test_the_loss_equals_literal_loops() -> None:
    torch.manual_seed(0)
    logits = torch.randn(B, B, dtype=torch.float64)
    assert float(matching_loss(logits, LABELS)) == pytest.approx(literal(logits), abs=1e-12)


def test_a_row_with_m_positives_gives_each_nearly_one_mth_and_the_best_logits_no_loss() -> None:
    same = (LABELS[:, None] == LABELS[None]).double()
    assert float(matching_loss(10 * same, LABELS)) == pytest.approx(0.0, abs=1e-12)
    assert float(matching_loss(torch.zeros(B, B), LABELS)) > 0.5


def test_the_separate_direct_loss_is_there_when_asked_for() -> None:
    torch.manual_seed(1)
    outputs = {"pair_logits": torch.randn(B, B), "direct_logits": torch.randn(B, B)}
    assert set(dvta_losses(SimpleNamespace(direct_loss=False), outputs, LABELS)) == {"alignment"}
    both = dvta_losses(SimpleNamespace(direct_loss=True), outputs, LABELS)
    assert float(both["alignment"]) == pytest.approx(literal(outputs["pair_logits"]), abs=1e-5)
    assert float(both["direct"]) == pytest.approx(literal(outputs["direct_logits"]), abs=1e-5)


def test_half_precision_logits_are_scored_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = matching_loss(torch.randn(B, B, dtype=torch.bfloat16), LABELS)
    assert loss.dtype == torch.float32
