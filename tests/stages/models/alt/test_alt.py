"""ALT: each switch, its gradients, its noise, and that it learns. The equations: `test_alt_equations`."""

from typing import Any

import pytest
import torch
from open_clip.transformer import TextTransformer, VisionTransformer
from pydantic import ValidationError
from torch import Tensor

from unialign.errors import UsageError
from unialign.stages.models.alt.build import build_alt
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.model import ALT, TokenShape, alt_losses
from unialign.stages.models.clip.image_tower import ClipTower
from unialign.stages.models.clip.prompts import PromptedTexts, Words

B, T, SIDE, N, D, RAW, K, L = 3, 4, 32, 7, 6, 8, 9, 3
LABELS = torch.tensor([0, 1, 2])
PROMPTED = ALTConfig(tower="frozen", num_prompts=2, projection="linear", network="ViT-S-32-alt", image_size=32)
SWITCHES: list[dict[str, Any]] = [
    {},
    {"tower": "frozen"},
    {"tower": "frozen", "tower_adapters": "S"},
    {"tower": "frozen", "tower_adapters": "STM"},
    {"tower": "frozen", "num_prompts": 2},
    {"tower": "frozen", "num_prompts": 2, "prompted_texts": "all"},
    {"tower": "frozen", "num_prompts": 2, "corpus": "labels"},
    {"tower": "cached"},
    {"tower": "cached", "projection": "linear"},
    {"projection": "linear"},
    {"tower": "frozen", "projection": "linear"},
    {"align": False, "region": False},
    {"corpus": "labels", "region": False},
    {"corpus": "entities", "region": False},
    {"align": False},
    {"visual": "class"},
    {"reduction": "mlp"},
    {"reduction": "mlp", "tower": "cached"},
    {"reduction": "mlp", "visual": "class"},
    {"shared_mlp": True},
    {"self_attention": True, "cross_attention": False, "convolution": False},
    {"self_attention": False, "convolution": False},
    {"convolution": False},
    {"self_attention": False},
    {"ffn_ratio": 0},
    {"layer_norm": False},
    {"logits": "probe"},
    {"logits": "plain", "gumbel_scale": 1.0, "test_noise": True},
    {"proportional_attention": False, "merged_pairs": 0, "layer": -1},
]


def _tower(config: ALTConfig, seed: int = 0) -> ClipTower:
    torch.manual_seed(seed)
    network = VisionTransformer(SIDE, 8, 16, 3, 2, 2.0, output_dim=D)
    return ClipTower(
        network=network,
        layer=config.layer,
        num_pairs=config.merged_pairs,
        proportional=config.proportional_attention,
        projection="clip" if config.projection == "clip" else "none",
        adapters=config.tower_adapters,
        num_prompts=config.num_prompts,
    )


def _texts(config: ALTConfig) -> PromptedTexts | None:
    if not config.num_prompts:
        return None
    network = TextTransformer(context_length=8, vocab_size=20, width=8, heads=2, layers=2, output_dim=D)
    words = [
        torch.cat([torch.full((rows, 1), 18), torch.randint(1, 18, (rows, 2)), torch.full((rows, 1), 19)], dim=1)
        for rows in (L, K)
    ]
    entities = words[1] if config.prompted_texts == "all" else None
    return PromptedTexts(network=network, words=Words(words[0][None], entities), num_prompts=config.num_prompts)


def _model(seed: int = 0, **settings: Any) -> ALT:
    config = ALTConfig(**{"merged_pairs": 3, "num_blocks": 2, "mlp_ratio": 2, "ffn_ratio": 2, **settings})
    tower: Any = _tower(config, seed)
    if config.tower == "cached":
        tower = TokenShape(N, D if config.projection == "clip" else RAW)
    torch.manual_seed(seed)
    texts = _texts(config)
    return ALT(tower=tower, labels=torch.randn(L, D), corpus=torch.randn(K, D), config=config, texts=texts)


def _batch(model: ALT, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if model.tower is None:
        width = D if model.projection is None else RAW
        return {"tokens": torch.randn(B, T, N, width, generator=generator).half()}
    return {"frames": torch.randn(B, T, 3, SIDE, SIDE, generator=generator)}


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch_moves_what_should_move(switches: dict[str, Any]) -> None:
    model = _model(**switches)
    batch = _batch(model)
    before = {name: value.clone() for name, value in model.named_buffers()}
    outputs = model.train()(batch)
    assert outputs["logits"].shape == (B, L)
    assert outputs["video"].shape == (B, D)
    num_regions = 1 if switches.get("region") is False else (model.tower.num_tokens if model.tower else N)
    assert ("entities" in outputs) == model.config.align
    if model.config.align:
        assert outputs["entities"].shape == (B, T, num_regions)
        assert int(outputs["entities"].max()) < (L if switches.get("corpus") == "labels" else K)
    assert ("owners" in outputs) == (model.tower is not None)
    assert ("visual" in outputs) == model.config.needs_visual
    (loss,) = alt_losses(model, outputs, LABELS).values()
    loss.backward()
    model.update(outputs, LABELS)
    inside = {name for name, _ in model.named_parameters() if name.startswith(("tower.", "texts."))}
    adapters = {name for name in inside if ".down." in name}
    frozen = {name for name in inside if ".up." not in name and ".prompts." not in name}
    if switches.get("tower") != "frozen":
        frozen = adapters = set()
    if switches.get("logits") == "probe":
        frozen = {name for name, _ in model.named_parameters() if not name.startswith("classifier.")}
    still = {name for name, value in model.named_parameters() if value.grad is None or not bool(value.grad.any())}
    # The way back through an adapter begins at a layer of zeros.
    assert still == frozen
    frozen -= adapters
    assert {name for name, value in model.named_parameters() if not value.requires_grad} == frozen
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert set(before) >= ({"labels", "corpus"} if model.config.align else {"labels"})
    copy = _model(seed=5, **switches)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.eval()(batch)["video"], model.eval()(batch)["video"]) or model.config.test_noise


@pytest.mark.parametrize("align_with", ["both", "queries", "visual"])
def test_gradients_reach_the_tower_by_both_ways(align_with: str) -> None:
    """Straight through the choice of entities (q), and through the visual vectors."""
    model = _model().train()
    outputs = model(_batch(model))
    parts = {"both": ("queries", "visual"), "queries": ("queries",), "visual": ("visual",)}[align_with]
    sum(outputs[part].square().sum() for part in parts).backward()
    assert model.tower is not None
    assert all(value.grad is not None and bool(value.grad.any()) for value in model.tower.parameters())


def test_noise_is_drawn_in_training_and_on_request() -> None:
    model = _model(tower="cached", gumbel_scale=1.0)
    batch = _batch(model)

    def chosen(model: ALT, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(batch)["entities"]

    assert not torch.equal(chosen(model.train(), 0), chosen(model, 1))
    assert torch.equal(chosen(model, 0), chosen(model, 0))
    assert torch.equal(chosen(model.eval(), 0), chosen(model, 1))
    noisy = _model(tower="cached", gumbel_scale=1.0, test_noise=True).eval()
    assert not torch.equal(chosen(noisy, 0), chosen(noisy, 1))


def test_cached_tokens_give_what_the_frozen_tower_gives() -> None:
    online = _model(tower="frozen").eval()
    batch = _batch(online)
    assert online.tower is not None
    with torch.no_grad():
        tokens = online.tower(batch["frames"].flatten(0, 1))["tokens"].unflatten(0, (B, T))
        cached = ALT(
            tower=TokenShape(online.tower.num_tokens, D),
            labels=online.labels,
            corpus=online.corpus,
            config=online.config.replaced(tower="cached"),
        )
        state = {name: value for name, value in online.state_dict().items() if not name.startswith("tower.")}
        cached.load_state_dict(state)
        torch.testing.assert_close(cached.eval()({"tokens": tokens})["logits"], online(batch)["logits"])


def test_order_of_frames_matters_only_through_the_convolution() -> None:
    for convolution in (True, False):
        model = _model(tower="cached", convolution=convolution).eval()
        tokens = _batch(model)["tokens"]
        forwards, backwards = (model({"tokens": each})["video"] for each in (tokens, tokens.flip(1)))
        assert torch.allclose(forwards, backwards, atol=1e-5) != convolution


@pytest.mark.parametrize("tower", ["tuned", "cached"])
def test_it_learns(tower: str) -> None:
    model = _model(tower=tower, num_blocks=1).train()
    batch = _batch(model)
    groups = [{"params": [value], "lr": 3e-3 * model.rate(name)} for name, value in model.named_parameters()]
    optimizer = torch.optim.AdamW(groups)
    first = last = 0.0
    for step in range(40):
        optimizer.zero_grad()
        outputs = model(batch)
        loss = alt_losses(model, outputs, LABELS)["classification"]
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
        first = first if step else last
    assert last < 0.1 * first


def test_mixed_precision_keeps_logits_in_single(recwarn: pytest.WarningsRecorder) -> None:
    model = _model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(_batch(model))
        loss = alt_losses(model, outputs, LABELS)["classification"]
    assert outputs["logits"].dtype == loss.dtype == torch.float32
    loss.backward()
    assert all(value.grad is not None and bool(value.grad.isfinite().all()) for value in model.parameters())


def test_the_tower_learns_slower() -> None:
    model = _model()
    rates = {model.rate(name) for name, _ in model.named_parameters() if name.startswith("tower.")}
    assert rates == {0.1}
    assert model.rate("head.0.weight") == 1.0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tower": "melted"}, "Input should be 'tuned', 'frozen' or 'cached'"),
        ({"reduction": "max"}, "reduction\n  Input should be 'mean' or 'mlp'"),
        ({"num_prompts": 10}, "num_prompts belong into a frozen tower; this one is tuned"),
        (
            {"tower": "frozen", "prompted_texts": "all"},
            "prompted_texts: all needs num_prompts and a corpus of entities",
        ),
        ({"kernel": 4}, "kernel must be an odd number"),
        ({"num_blocks": 0}, "num_blocks\n  Input should be greater"),
        ({"merged_pairs": -1}, "merged_pairs\n  Input should be greater"),
        ({"gumbel_scale": 0.0}, "gumbel_scale\n  Input should be greater than 0"),
        ({"logit_scale": float("nan")}, "logit_scale\n  Input should be a finite"),
        ({"self_attention": False, "cross_attention": False, "convolution": False}, "needs self_attention or"),
        ({"cross_attention": False}, "convolution changes what cross_attention reads"),
    ],
)
def test_settings_that_make_no_sense_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ALTConfig(**settings)


def test_data_that_does_not_fit_is_told() -> None:
    data: dict[str, Any] = {
        "num_classes": L,
        "text_bank": torch.randn(2, L, D),
        "corpus": torch.randn(K, D),
        "tokens": TokenShape(N, D),
        "config": ALTConfig(tower="cached"),
    }
    assert build_alt(**data)(_batch(_model(tower="cached")))["logits"].shape == (B, L)
    build_alt(**{**data, "corpus": None, "config": ALTConfig(tower="cached", corpus="labels")})
    empty = data["corpus"].clone()
    empty[3] = 0
    for change, told in (
        ({"text_bank": None}, "no text embeddings"),
        ({"num_classes": 5}, r"shape \(2, 3, 6\), needed is \(prompts, 5, width\)"),
        ({"text_bank": torch.full((2, L, D), float("nan"))}, "text embedding of prompt 0, class 0 is empty"),
        ({"corpus": None}, "no entity embeddings"),
        ({"corpus": torch.randn(K, D + 1)}, r"needed is \(entities, 6\)"),
        ({"corpus": empty}, "one of the entity embeddings is empty"),
        ({"config": PROMPTED}, "alt with num_prompts has no texts"),
        ({"tokens": None}, "extract tokens, or take tower: frozen"),
        ({"tokens": TokenShape(N, RAW)}, "tokens have width 8 and texts 6"),
    ):
        with pytest.raises(UsageError, match=told):
            build_alt(**{**data, **change})
