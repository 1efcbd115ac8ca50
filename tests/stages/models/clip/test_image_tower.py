"""The image tower: OpenCLIP's own tokens without merging, its weights, and nothing in it that is not used."""

import json
from collections.abc import Iterator
from typing import Any

import open_clip
import pytest
import torch
from open_clip import constants, factory

from unialign.errors import UsageError
from unialign.stages.models.clip.image_tower import MEAN, STD, ClipTower, image_transformer, load_clip

NAME, QUICK = "tiny-image-tower", "tiny-image-tower-quickgelu"
CONFIG: dict[str, Any] = {
    "embed_dim": 10,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """OpenCLIP knows three more networks for the time of these tests."""
    folder = tmp_path_factory.mktemp("configs")
    other = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "pool_type": "avg"}}
    for name, config in ((NAME, CONFIG), (QUICK, {**CONFIG, "quick_gelu": True}), ("averaging", other)):
        (folder / f"{name}.json").write_text(json.dumps(config))
    paths, configs = list(factory._MODEL_CONFIG_PATHS), dict(factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    yield
    factory._MODEL_CONFIG_PATHS[:] = paths
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(configs)


def _clip(quick: bool = False) -> factory.CLIP:
    torch.manual_seed(3)
    return factory.CLIP(**CONFIG, quick_gelu=quick).eval()


def _tower(clip: factory.CLIP, name: str = NAME, **settings: Any) -> ClipTower:
    network = image_transformer(name)
    load_clip(network, clip.state_dict())
    return ClipTower(network=network, **settings).eval()


@pytest.mark.parametrize("quick", [False, True])
@torch.no_grad()
def test_without_merging_the_tokens_are_those_of_openclip(quick: bool) -> None:
    clip, images = _clip(quick), torch.randn(2, 3, 32, 32)
    name = QUICK if quick else NAME
    clip.visual.output_tokens = True
    pooled, tokens = clip.visual(images)
    made = _tower(clip, name, num_pairs=0, layer=-1)(images)
    torch.testing.assert_close(made["tokens"][:, 0], pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(made["tokens"][:, 1:], tokens @ clip.visual.proj, rtol=0, atol=1e-5)
    assert made["owners"].tolist() == [list(range(17))] * 2
    inside = clip.visual.forward_intermediates(images, output_fmt="NLC", output_extra_tokens=True)
    for layer in (0, 1, 2, -1, -2, -3):
        made = _tower(clip, name, num_pairs=0, layer=layer, projection="none")(images)
        whole = torch.cat([inside[f"image_intermediates{end}"][layer] for end in ("_prefix", "")], dim=1)
        torch.testing.assert_close(made["tokens"], whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_vit_b_16_gives_109_tokens_and_without_merging_its_own() -> None:
    torch.manual_seed(0)
    clip_tower = image_transformer("ViT-B-16").eval()
    images = torch.randn(1, 3, 224, 224)
    inside = clip_tower.forward_intermediates(images, output_fmt="NLC", output_extra_tokens=True)
    whole = torch.cat([inside[f"image_intermediates{end}"][-2] for end in ("_prefix", "")], dim=1)
    expected = clip_tower.ln_post(whole) @ clip_tower.proj
    tower = ClipTower(network=clip_tower, num_pairs=0)
    torch.testing.assert_close(tower(images)["tokens"], expected, rtol=0, atol=1e-5)
    tower.num_pairs = 8
    made = tower(images)
    assert made["tokens"].shape == (1, 109, 512)
    assert int(made["owners"].max()) == 108


@pytest.mark.parametrize("projection", ["clip", "none"])
@pytest.mark.parametrize("layer", [-1, -2])
def test_every_parameter_left_moves(projection: str, layer: int) -> None:
    tower = _tower(_clip(), num_pairs=3, layer=layer, projection=projection)
    made = tower(torch.randn(2, 3, 32, 32))["tokens"]
    assert (
        made.shape
        == (2, tower.num_tokens, tower.width)
        == (2, 17 - 3 * (4 + layer), 10 if projection == "clip" else 32)
    )
    made.square().sum().backward()
    still = [name for name, value in tower.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert still == []


def test_normalization_is_openclips() -> None:
    assert (MEAN, STD) == (constants.OPENAI_DATASET_MEAN, constants.OPENAI_DATASET_STD)


def test_weights_of_a_whole_model_and_of_the_tower_alone_are_the_same() -> None:
    clip, network = _clip(), image_transformer(NAME)
    assert load_clip(network, clip.visual.state_dict()) == 0
    whole = image_transformer(NAME)
    num_text = len(clip.state_dict()) - len(clip.visual.state_dict())
    assert load_clip(whole, clip.state_dict()) == num_text > 0
    for name, value in network.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])


@torch.no_grad()
def test_another_image_size_takes_the_same_weights() -> None:
    network = image_transformer(NAME, image_size=48)
    load_clip(network, _clip().state_dict())
    assert ClipTower(network=network, num_pairs=0)(torch.randn(1, 3, 48, 48))["tokens"].shape == (1, 37, 10)
    first = _clip().state_dict()["visual.positional_embedding"][0]
    assert torch.equal(network.positional_embedding[0], first)


def test_weights_that_do_not_fit_change_nothing() -> None:
    state = dict(_clip().state_dict())
    network = image_transformer(NAME)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    del state["visual.proj"]
    state["visual.conv1.weight"] = torch.zeros(32, 3, 4, 4)
    state["visual.head.bias"] = torch.zeros(1)
    with pytest.raises(
        UsageError, match=r"1 missing \(proj\); 1 unexpected \(head.bias\); 1 of another shape \(conv1.weight\)"
    ):
        load_clip(network, state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_wrong_settings_are_told() -> None:
    with pytest.raises(UsageError, match="OpenCLIP has no network 'ViT-B-15'"):
        image_transformer("ViT-B-15")
    for name in ("RN50", "ViT-B-16-SigLIP", "averaging"):
        with pytest.raises(UsageError, match="is not a plain ViT"):
            image_transformer(name)
    with pytest.raises(UsageError, match="take a multiple of 8"):
        image_transformer(NAME, image_size=36)
    for settings, told in (
        ({"layer": 3}, "layer 3 is not one of the network's 3 blocks"),
        ({"layer": -4}, "layer -4"),
        ({"num_pairs": -1}, "-1 pairs"),
        ({"projection": "linear"}, "projection 'linear'"),
    ):
        with pytest.raises(UsageError, match=told):
            ClipTower(network=image_transformer(NAME), **settings)
