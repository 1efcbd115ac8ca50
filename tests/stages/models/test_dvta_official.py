"""DVTA beside its official modules, where a checkout of them is at hand.

    UNIALIGN_DVTA_CODE=<checkout of jidongkuang/DVTA> python -m pytest tests/stages/models/test_dvta_official.py

The modules need the package einops.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.models.dvta.model import DVTA, matching_loss

VARIABLE = "UNIALIGN_DVTA_CODE"
CLASSES, POSE, TEXT, BATCH = 60, 256, 768, 48


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    path = os.environ.get(VARIABLE)
    if not path:
        pytest.skip(f"set {VARIABLE} to a checkout of jidongkuang/DVTA to compare with it")
    pytest.importorskip("einops", reason="the official modules need einops")
    assert (Path(path) / "model.py").is_file(), f"{VARIABLE}={path} holds no model.py"
    sys.path.insert(0, path)
    try:
        return {name: importlib.import_module(name) for name in ("model", "KLLoss", "utils")}
    finally:
        sys.path.remove(path)


def both(modules: dict[str, Any], seed: int, dtype: torch.dtype) -> tuple[nn.Module, DVTA, Tensor]:
    """The two models with equal weights, spread so that the metric network has scores of both signs; class texts."""
    torch.manual_seed(seed)
    texts = torch.randn(CLASSES, TEXT, 2, dtype=dtype)
    theirs: nn.Module = modules["model"].DVTA(POSE, TEXT, 0.1, 0.01).to(dtype)
    ours = DVTA(config=DVTAConfig(), class_texts=texts, pose_width=POSE).to(dtype)
    ours.class_texts.copy_(nn.functional.normalize(texts, dim=1))
    layers = [[each for each in model.modules() if isinstance(each, nn.Linear)] for model in (theirs, ours)]
    with torch.no_grad():
        for source, target in zip(*layers, strict=True):
            source.weight.mul_(2 if seed else 1)
            target.load_state_dict(source.state_dict())
    return theirs, ours, texts


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str)
def test_logits_loss_and_gradients_are_those_of_the_official_code(
    official: dict[str, Any], seed: int, dtype: torch.dtype, limit: float
) -> None:
    theirs, ours, texts = both(official, seed, dtype)
    features, labels = torch.randn(BATCH, POSE, dtype=dtype), torch.randint(0, CLASSES, (BATCH,))
    direct, _, augmented, turned = theirs(features, texts[labels], is_inference=False)
    criterion, target = official["KLLoss"].KLLoss(), official["utils"].create_ground_truth_matrix(labels).to(dtype)
    expected = (criterion(direct + augmented, target) + criterion(direct.T + turned, target.T)) / 2
    outputs = ours.train()({"pose_features": features, "labels": labels})
    loss = matching_loss(outputs["pair_logits"], labels)
    # Logits reach 10 (cosines over 0.1): relative to that.
    for name, value in (
        ("direct_logits", direct),
        ("augmented_logits", augmented),
        ("pair_logits", direct + augmented),
    ):
        assert float((outputs[name] - value).detach().abs().max()) <= 10 * limit, name
    assert float((loss - expected).detach().abs()) <= limit * max(1.0, float(expected.detach()))
    candidates = torch.tensor([10, 11, 19, 26, 56])
    with torch.no_grad():
        scores = theirs.eval()(features, texts[candidates], is_inference=True)
        found = ours.eval()({"pose_features": features, "candidates": candidates})["logits"]
    assert float((scores - found).abs().max()) <= 10 * limit
    if dtype == torch.float64:
        expected.backward()
        loss.backward()
        ends = [
            [each.weight.grad for each in model.modules() if isinstance(each, nn.Linear)] for model in (theirs, ours)
        ]
        for first, second in zip(*ends, strict=True):
            assert first is not None
            assert second is not None
            assert float((first - second).abs().max()) <= 1e-8 * float(first.abs().max())
