"""The whole of ART: every switch, its gradients, its bank, its state, and that it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from pydantic import ValidationError
from torch import Tensor, nn

from unialign.stages.models.art.config import ARTConfig
from unialign.stages.models.art.losses import art_losses
from unialign.stages.models.art.model import ART
from unialign.stages.models.backbones.registry import build_backbone
from unialign.stages.models.backbones.uniformer_v2 import UniFormerV2

B, T, SIDE, N, L, C_T, C, K = 4, 3, 16, 2, 3, 6, 10, 2
LABELS = torch.tensor([0, 1, 0, 2])
SWITCHES: list[dict[str, Any]] = [
    {},
    {"regions": False},
    {"regions": False, "bank_tuning": "none"},
    {"enhancement": False},
    {"aggregation": "sum"},
    {"similarity": "cosine"},
    {"integration": "concat"},
    {"selection": "rows"},
    {"mtc": ()},
    *[{"mtc": (name,)} for name in ("spatial", "temporal", "tracklet")],
    *[{"temporal_form": form} for form in ("abs", "square")],
    *[{"bank_tuning": name} for name in ("none", "video", "prototype")],
    *[{"num_tracks": number} for number in (1, 3)],
    {"prototypes": "final"},
    {"detach_video": False, "detach_prototypes": False},
    {"detach_video": False, "detach_prototypes": False, "prototypes": "final"},
]


class Patches(nn.Module):
    """The smallest backbone: patches of 8 x 8, one linear map; the class feature is another one's mean."""

    width = C
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, C, kernel_size=8, stride=8)
        self.classes = nn.Linear(C, C)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        maps = self.patches(frames.flatten(0, 1)).tanh()
        grid = maps.permute(0, 2, 3, 1).unflatten(0, (-1, frames.shape[1]))
        tokens = self.classes(grid.mean(dim=(2, 3)))
        return {"tokens": tokens, "grid": grid, "pooled": tokens.mean(dim=1)}


def _model(seed: int = 0, **config: Any) -> ART:
    torch.manual_seed(seed)
    small = {"latent": 8, "num_heads": 2, "enhancement_layers": 1, "region_layers": 2, "dropout": 0.0, "momentum": 0.5}
    settings = ARTConfig(**{"num_frames": T, "image_size": SIDE, "num_tracks": K, **small, **config})
    return ART(backbone=Patches(), num_classes=L, config=settings, text_bank=torch.randn(N, L, C_T))


def _batch(seed: int = 1) -> dict[str, Tensor]:
    return {"frames": torch.randn(B, T, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))}


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _step(model: ART, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    outputs = model(_batch())
    loss = _total(art_losses(model, outputs, LABELS))
    loss.backward()
    optimizer.step()
    model.update(outputs, LABELS)
    return float(loss.detach())


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_every_switch_runs_and_moves_what_should_move(switch: dict[str, Any]) -> None:
    model = _model(**switch)
    outputs = model(_batch())
    losses = art_losses(model, outputs, LABELS)
    _total(losses).backward()
    config = model.config
    expected = {"classification"}
    expected |= {f"bank_{name}" for name in ("video", "prototype") if config.bank_tuning in (name, "both")}
    if config.regions:
        pairs = {"temporal"} if config.num_tracks == 1 else {"spatial", "temporal", "tracklet"}
        expected |= {"final"} | {f"mtc_{name}" for name in config.mtc if name in pairs}
    assert set(losses) == expected
    assert outputs["logits"].shape == (B, L)
    assert torch.allclose(outputs["logits"].exp().sum(dim=1), torch.ones(B), atol=1e-5)
    assert torch.allclose(outputs["token_importance_video"].sum(dim=1), torch.ones(B), atol=1e-5)
    assert ("region_maps" in outputs) == config.regions
    if config.regions:
        assert outputs["region_maps"].shape == (B, T, config.num_tracks, 2, 2)
        assert torch.allclose(outputs["region_maps"].sum(dim=(3, 4)), torch.ones(B, T, config.num_tracks), atol=1e-5)
    for key, value in outputs.items():
        assert bool(value.isfinite().all()), key
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    still = {name for name, value in trained.items() if value.grad is None or not bool(value.grad.any())}
    assert still == set()
    tuned = config.bank_tuning != "none"
    assert ("bank.agent" in trained) == tuned
    assert (model.bank is None) == (not tuned and not config.regions)
    if model.bank is not None:
        assert not model.bank.main.requires_grad
        before = model.bank.main.clone()
        assert model.bank.agent is not None
        with torch.no_grad():
            model.bank.agent.add_(1.0)
        model.update(outputs, LABELS)
        assert torch.equal(model.bank.main, before) != tuned


@pytest.mark.parametrize("aggregation", ["similarity", "sum"])
def test_the_final_classifier_reads_the_class_token_and_the_aggregated_tracklets(aggregation: str) -> None:
    model = _model(aggregation=aggregation).eval()
    assert model.head is not None
    with torch.no_grad():
        outputs = {name: value.double() for name, value in model(_batch()).items()}
        weight, bias = model.head.weight.double(), model.head.bias.double()
    assert bool(torch.all(outputs["frame_weights"] == 1.0)) == (aggregation == "sum")
    for clip in range(B):
        row = [outputs["pooled_video"][clip]]
        for k in range(K):
            total = torch.zeros(8, dtype=torch.float64)
            for t in range(T):
                total = total + outputs["frame_weights"][clip, t, k] * outputs["regions"][clip, t, k]
            row.append(total)
        scores = weight @ torch.cat(row) + bias
        assert torch.allclose(outputs["logits"][clip], scores.log_softmax(dim=0), atol=1e-5)


def test_the_bank_scores_of_the_model_are_equations_14_to_16() -> None:
    for prototypes in ("video", "final"):
        model = _model(prototypes=prototypes, temperature=0.2).eval()
        assert model.bank is not None
        assert model.bank.agent is not None
        assert model.bank.projection is not None
        assert model.head is not None
        with torch.no_grad():
            model.bank.agent.add_(torch.randn(N, L, C_T))  # the agent, not the main bank, is scored
            outputs = model(_batch())
        weights = model.video_head.weight if prototypes == "video" else model.head.weight[:, :C]
        texts = model.bank.agent.detach().double() @ model.bank.projection.weight.detach().double().T
        for name, queries in (("bank_video_logits", outputs["pooled_video"]), ("bank_prototype_logits", weights)):
            for index, query in enumerate(queries.detach().double()):
                for label in range(L):
                    best = max(
                        float(query @ texts[n, label] / (query.norm() * texts[n, label].norm())) for n in range(N)
                    )
                    assert float(outputs[name][index, label]) == pytest.approx(best / 0.2, abs=1e-4)


def test_the_banks_follow_equations_12_and_13() -> None:
    model = _model(momentum=0.9)
    assert model.bank is not None
    assert model.bank.agent is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    main, agent = model.bank.main.double(), model.bank.agent.detach().double()
    for _ in range(3):
        _step(model, optimizer)
        assert model.bank.agent.grad is not None
        agent = agent - 0.3 * model.bank.agent.grad.double()
        main = 0.9 * main + 0.1 * agent
    assert torch.allclose(model.bank.agent.detach().double(), agent, atol=1e-5)
    assert torch.allclose(model.bank.main.double(), main, atol=1e-5)
    assert not torch.allclose(main, agent, atol=1e-3)


@pytest.mark.parametrize("prototypes", ["video", "final"])
@pytest.mark.parametrize(("video", "weights"), [(True, True), (False, True), (True, False)])
def test_the_bank_losses_train_the_bank_only_unless_asked(video: bool, weights: bool, prototypes: str) -> None:
    model = _model(detach_video=video, detach_prototypes=weights, prototypes=prototypes)
    losses = art_losses(model, model(_batch()), LABELS)
    (losses["bank_video"] + losses["bank_prototype"]).backward()
    reached = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    expected = {"bank"} | (set() if video else {"backbone"})
    assert reached == expected | (set() if weights else {"video_head" if prototypes == "video" else "head"})


def test_nothing_but_the_bank_losses_trains_the_agent() -> None:
    model = _model()
    losses = art_losses(model, model(_batch()), LABELS)
    _total({name: value for name, value in losses.items() if not name.startswith("bank")}).backward()
    assert model.bank is not None
    assert model.bank.agent is not None
    assert model.bank.projection is not None
    assert model.bank.agent.grad is None
    assert model.bank.projection.weight.grad is not None  # the texts that ask are learned through the shared map


def test_the_texts_that_ask_are_those_of_the_main_bank() -> None:
    model = _model().eval()
    assert model.bank is not None
    assert model.bank.agent is not None
    with torch.no_grad():
        before = model(_batch())["logits"]
        model.bank.agent.add_(torch.randn(N, L, C_T))
        assert torch.equal(model(_batch())["logits"], before)
        model.bank.main.add_(torch.randn(N, L, C_T))
        assert not torch.allclose(model(_batch())["logits"], before)


def test_the_state_comes_back_from_a_file_and_training_goes_on_the_same(tmp_path: Path) -> None:
    model, other = _model(), _model(seed=9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        _step(model, optimizer)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert len({_step(each, torch.optim.SGD(each.parameters(), lr=0.05)) for each in (model, other)}) == 1


def test_mixed_precision_keeps_the_outputs_in_float32() -> None:
    model = _model().eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(_batch())
        losses = art_losses(model, outputs, LABELS)
    assert {key for key, value in outputs.items() if value.dtype != torch.float32} == {"semantic_classes"}
    assert {value.dtype for value in losses.values()} == {torch.float32}


@pytest.mark.parametrize("switch", [{}, {"regions": False}, {"enhancement": False, "aggregation": "sum"}], ids=str)
def test_some_steps_fit_four_clips(switch: dict[str, Any]) -> None:
    model = _model(**switch)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = [_step(model, optimizer) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        assert model(_batch())["logits"].argmax(dim=1).tolist() == LABELS.tolist()


@pytest.mark.parametrize("name", ["tsm-tiny", "vit-tiny-temporal", "uniformer"])
def test_real_backbones_fit(name: str) -> None:
    torch.manual_seed(0)
    backbone: nn.Module
    if name == "uniformer":
        tower = VisionTransformer(64, 16, width=16, layers=2, heads=2, mlp_ratio=2.0, act_layer=QuickGELU)
        backbone = UniFormerV2(network=tower, num_frames=T, num_global=1, num_local=1)
    else:
        backbone = build_backbone(name, num_frames=T, image_size=64)
    config = ARTConfig(num_frames=T, image_size=64, latent=8, num_heads=2, enhancement_layers=1, region_layers=1)
    model = ART(backbone=backbone, num_classes=L, config=config, text_bank=torch.randn(N, L, C_T))
    outputs = model({"frames": torch.randn(2, T, 3, 64, 64)})
    _total(art_losses(model, outputs, LABELS[:2])).backward()
    assert outputs["region_maps"].shape[:3] == (2, T, K)
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"selection": "labels"}, "'classes' or 'rows'"),
        ({"bank_tuning": "all"}, "'none', 'video', 'prototype' or 'both'"),
        ({"temporal_form": "log"}, "'hinge', 'abs' or 'square'"),
        ({"mtc": ("spatial", "spatial")}, "once each"),
        ({"num_tracks": 0}, "num_tracks\n  Input should be greater"),
        ({"latent": 10, "num_heads": 4}, "multiple of num_heads"),
        ({"momentum": 1.5}, "momentum\n  Input should be less than or equal to 1"),
        ({"gamma_mtc": float("nan")}, "gamma_mtc\n  Input should be a finite"),
        ({"enhancement_layers": 0}, "set enhancement to false"),
        ({"regions": False, "prototypes": "final"}, "which regions false leaves out"),
    ],
)
def test_settings_that_make_no_sense_are_rejected(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ARTConfig(**setting)


def test_more_tracklets_than_classes_and_a_wrong_bank_are_rejected() -> None:
    with pytest.raises(ValueError, match="4 tracklets need as many classes, and there are 3"):
        _model(num_tracks=L + 1)
    assert _model(num_tracks=L + 1, selection="rows").rssa is not None
    with pytest.raises(ValueError, match=r"needs a text bank \(prompts, 3, width\)"):
        ART(backbone=Patches(), num_classes=L, config=ARTConfig(), text_bank=torch.randn(N, L + 1, C_T))
