"""The whole model: every switch, its gradients, its state, and that it learns."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from unialign.stages.models.unialign.config import UniAlignConfig
from unialign.stages.models.unialign.losses import uni_align_losses
from unialign.stages.models.unialign.model import UniAlign, build_unialign

B, T, SIDE, NP, DP, K, L, C = 4, 2, 32, 5, 7, 2, 3, 6
LABELS = torch.tensor([0, 1, 0, 2])
V, VP, VT, VPT = ("video",), ("video", "pose"), ("video", "text"), ("video", "pose", "text")
SWITCHES = [
    (modalities, cmsa, form)
    for modalities, cmsa, form in itertools.product((V, VP, VT, VPT), ("A", "B", "off"), ("agent", "feature"))
    if (modalities != V or cmsa == "A") and ("text" in modalities or form == "agent")
]


def _model(seed: int = 0, **config: Any) -> UniAlign:
    torch.manual_seed(seed)
    defaults = {"backbone": "tsm-resnet10", "num_frames": T, "image_size": SIDE, "width": 16, "dropout": 0.0}
    settings = UniAlignConfig(**{**defaults, **config})
    return build_unialign(settings, num_classes=L, text_bank=torch.randn(K, L, C), pose_width=DP)


def _batch(seed: int = 1) -> dict[str, Tensor]:
    """Clip 1 has two pose tokens, clip 3 none; what is masked is NaN, as in a store."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(B, NP, dtype=torch.bool)
    mask[1, 2:], mask[3] = False, False
    pose = torch.randn(B, NP, DP, generator=generator).masked_fill(~mask.unsqueeze(-1), float("nan"))
    return {"frames": torch.randn(B, T, 3, SIDE, SIDE, generator=generator), "pose_tokens": pose, "pose_mask": mask}


def _step(model: UniAlign, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    outputs = model(batch)
    loss = sum(uni_align_losses(model, outputs, LABELS).values(), torch.zeros(()))
    loss.backward()
    optimizer.step()
    model.update(outputs, LABELS)
    return float(loss.detach())


@pytest.mark.parametrize(("modalities", "cmsa", "form"), SWITCHES)
def test_every_switch_runs_and_moves_what_should_move(modalities: tuple[str, ...], cmsa: str, form: str) -> None:
    model = _model(modalities=modalities, cmsa=cmsa, bank_form=form, momentum=0.5)
    outputs = model(_batch())
    losses = uni_align_losses(model, outputs, LABELS)
    sum(losses.values(), torch.zeros(())).backward()
    assert outputs["logits"].shape == (B, L)
    assert torch.allclose(outputs["logits"].exp().sum(dim=1), torch.ones(B), atol=1e-5)
    for key, value in outputs.items():
        assert bool(value.isfinite().all()), key
    for name, loss in losses.items():
        assert bool(loss.isfinite()), name
    expected = {"classification"}
    if modalities != V:
        expected.add("alignment")
    if "pose" in modalities:
        expected.add("similarity_vp")
    if cmsa == "B":
        expected |= {f"similarity_{pair}" for pair in ("vt", "pt") if "text" in modalities and pair[0] in "vp"}
        expected -= set() if "pose" in modalities else {"similarity_pt"}
    if "text" in modalities and form == "agent":
        expected |= {"bank_video", "bank_prototype"}
    assert set(losses) == expected
    still = {name for name, value in model.named_parameters() if value.grad is None or not bool(value.grad.any())}
    assert still == set()
    assert all(bool(value.grad.isfinite().all()) for value in model.parameters() if value.grad is not None)
    if model.bank is not None:
        assert not model.bank.main.requires_grad
        before = model.bank.main.clone()
        model.update(outputs, LABELS)
        assert model.bank.main.shape == before.shape
        assert torch.equal(model.bank.main, before) == (form == "agent")  # the agent has not moved yet


@pytest.mark.parametrize(("modalities", "cmsa", "form"), SWITCHES)
def test_importances_are_in_the_outputs_and_sum_to_one(modalities: tuple[str, ...], cmsa: str, form: str) -> None:
    model = _model(modalities=modalities, cmsa=cmsa, bank_form=form).eval()
    with torch.no_grad():
        outputs = model(_batch())
    assert outputs["importance"].shape == (B, len(model.importance_names))
    assert outputs["token_importance_video"].shape == (B, T)
    assert ("token_importance_pose" in outputs) == ("pose" in modalities)
    for key in ("importance", "token_importance_video", "token_importance_pose"):
        if key in outputs:
            assert torch.allclose(outputs[key].sum(dim=1), torch.ones(B), atol=1e-6)
    if "pose" in modalities:
        column = model.importance_names.index("pose")
        assert float(outputs["importance"][3, column]) == 0.0
        assert float(outputs["importance"][0, column]) > 0.0


def test_the_prediction_is_the_mean_of_both_branches() -> None:
    model = _model().eval()
    with torch.no_grad():
        outputs = model(_batch())
    for clip in range(B):
        branches = [outputs["video_logits"][clip].double(), outputs["align_logits"][clip].double()]
        probabilities = [[math.exp(x) / sum(map(math.exp, row.tolist())) for x in row.tolist()] for row in branches]
        for label in range(L):
            mean = (probabilities[0][label] + probabilities[1][label]) / 2
            assert float(outputs["logits"][clip, label].exp()) == pytest.approx(mean, abs=1e-5)


def test_video_alone_predicts_by_the_classifier() -> None:
    model = _model(modalities=V).eval()
    with torch.no_grad():
        outputs = model({"frames": _batch()["frames"]})
    assert torch.allclose(outputs["logits"], outputs["video_logits"].log_softmax(dim=1))
    assert "align_logits" not in outputs


def test_a_clip_without_a_pose_is_scored_as_if_there_were_only_video_and_text() -> None:
    model = _model(cmsa="A").eval()
    alone = _model(cmsa="A", modalities=VT).eval()
    shared = {key: value for key, value in model.state_dict().items() if key in alone.state_dict()}
    assert alone.load_state_dict(shared).missing_keys == []
    with torch.no_grad():
        assert torch.allclose(model(_batch())["logits"][3], alone(_batch())["logits"][3], atol=1e-6)


def test_a_batch_without_any_pose_trains() -> None:
    model = _model()
    batch = _batch()
    batch["pose_mask"] = torch.zeros_like(batch["pose_mask"])
    batch["pose_tokens"] = torch.full_like(batch["pose_tokens"], float("nan"))
    outputs = model(batch)
    losses = uni_align_losses(model, outputs, LABELS)
    sum(losses.values(), torch.zeros(())).backward()
    assert float(losses["similarity_vp"].detach()) == 0.0
    assert all(bool(value.grad.isfinite().all()) for value in model.parameters() if value.grad is not None)


def test_no_mask_means_all_tokens_are_real() -> None:
    model = _model().eval()
    batch = _batch()
    batch["pose_tokens"] = torch.nan_to_num(batch["pose_tokens"])
    batch["pose_mask"] = torch.ones_like(batch["pose_mask"])
    with torch.no_grad():
        masked = model(batch)["logits"]
        del batch["pose_mask"]
        assert torch.equal(model(batch)["logits"], masked)


def test_the_bank_losses_train_the_bank_only_unless_asked() -> None:
    for detach in (True, False):
        model = _model(modalities=VT, detach_video=detach, detach_prototypes=detach)
        outputs = model(_batch())
        losses = uni_align_losses(model, outputs, LABELS)
        (losses["bank_video"] + losses["bank_prototype"]).backward()
        assert model.bank is not None
        assert model.bank.agent is not None
        assert model.bank.agent.grad is not None
        assert bool(model.bank.agent.grad.any())
        reached = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
        assert reached == ({"bank"} if detach else {"bank", "backbone", "video_projection", "head"})


def test_the_alignment_never_trains_the_agent() -> None:
    model = _model()
    outputs = model(_batch())
    functional.cross_entropy(outputs["align_logits"], LABELS).backward()
    assert model.bank is not None
    assert model.bank.agent is not None
    assert model.bank.agent.grad is None


@pytest.mark.parametrize("form", ["agent", "feature"])
def test_the_state_comes_back_from_a_file_and_training_goes_on_the_same(form: str, tmp_path: Path) -> None:
    model, other = _model(bank_form=form), _model(seed=9, bank_form=form)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        _step(model, _batch(), optimizer)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert model.bank is not None
    assert other.bank is not None
    assert torch.equal(model.bank.main, other.bank.main)
    losses = [_step(m, _batch(), torch.optim.SGD(m.parameters(), lr=0.05)) for m in (model, other)]
    assert losses[0] == losses[1]


def test_a_frozen_temperature_is_no_parameter_and_a_learned_one_stays_above_the_limit() -> None:
    assert "log_temperature" not in dict(_model(learn_temperature=False).named_parameters())
    model = _model()
    assert float(model.temperature.detach()) == pytest.approx(0.07)
    with torch.no_grad():
        model.log_temperature.fill_(-20.0)
    model.update(model(_batch()), LABELS)
    assert float(model.temperature.detach()) == pytest.approx(0.01)


def test_without_learned_importance_nothing_scores_tokens() -> None:
    model = _model(learn_importance=False).eval()
    assert not any("scorer" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        outputs = model(_batch())
    assert outputs["importance"].tolist() == [[0.5, 0.5]] * 3 + [[1.0, 0.0]]


def test_mixed_precision_keeps_the_scores_in_float32() -> None:
    model = _model().eval()
    with torch.no_grad():
        exact = model(_batch())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(_batch())
            losses = uni_align_losses(model, mixed, LABELS)
    assert {key for key, value in mixed.items() if value.dtype != torch.float32} == {"has_pose"}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert torch.allclose(mixed["importance"], exact["importance"], atol=0.05)


@pytest.mark.parametrize("modalities", [V, VP, VT, VPT])
@pytest.mark.parametrize("cmsa", ["A", "B", "off"])
def test_a_few_steps_reduce_the_loss_and_fit_four_clips(modalities: tuple[str, ...], cmsa: str) -> None:
    model = _model(modalities=modalities, cmsa=cmsa, momentum=0.9)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    losses = [_step(model, _batch(), optimizer) for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        assert model(_batch())["logits"].argmax(dim=1).tolist() == LABELS.tolist()
