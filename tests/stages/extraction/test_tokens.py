"""Contract of the extraction of tokens: from a real store of frames, the same as the frozen tower gives online."""

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory

from tests.made_stores import frames_store, made_dataset
from unialign.cache.digests import file_digest
from unialign.cache.keys import Key
from unialign.cache.reader import StoreReader
from unialign.cache.shards import check_sample
from unialign.errors import CorruptInput, MissingCache, StaleCache, UsageError
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.tokens import TokenNetwork, Tokens, token_extractor
from unialign.stages.foreign_weights import load_clip_weights
from unialign.stages.models.clip.image_tower import ClipTower, image_transformer
from unialign.stages.training.clips import CachedFrames, Clips
from unialign.stages.training.samples import Labelled
from unialign.stages.training.settings import TrainSettings

NAME = "tiny-token-tower"
CONFIG: dict[str, Any] = {
    "embed_dim": 10,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}
IDS, BROKEN = ("clip000", "clip001", "clip005"), "clip002"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A weights file of a small CLIP, which OpenCLIP knows by name for the time of these tests."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    paths, configs = list(factory._MODEL_CONFIG_PATHS), dict(factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(factory.CLIP(**CONFIG).state_dict(), folder / "weights.pt")
    yield folder / "weights.pt"
    factory._MODEL_CONFIG_PATHS[:] = paths
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(configs)


@pytest.fixture(scope="module")
def extractor(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    frames = frames_store(tmp_path_factory.mktemp("cache"), made_dataset(), failed=[BROKEN])
    return token_extractor(
        NAME,
        weights,
        frames=frames.path,
        frames_key=frames.store.key.digest,
        num_frames=4,
        num_offsets=2,
        flips=True,
        merged_pairs=3,
        device="cpu",
    )


def extract(extractor: Tokens, ids: tuple[str, ...]) -> dict[str, Outcome]:
    outcomes = list(extractor.run([Source(name) for name in ids]))
    assert [outcome.id for outcome in outcomes] == list(ids)
    return {outcome.id: outcome for outcome in outcomes}


def test_outcomes_fit_the_declared_arrays_and_name_their_frames(extractor: Tokens) -> None:
    specs = {spec.name: spec for spec in extractor.arrays()}
    assert specs["tokens"].shape == (4, 4, 17 - 2 * 3, 10)
    assert specs["owners"].shape == (4, 4, 17)
    assert specs["tokens"].attributes["views"][3] == {"offset": 1, "num_offsets": 2, "flip": True}
    for name, outcome in extract(extractor, IDS).items():
        assert (outcome.status, outcome.source) == ("ok", f"sha256:{name}")
        assert outcome.arrays.keys() == specs.keys()
        for array, value in outcome.arrays.items():
            check_sample(specs[array], value)
        assert np.isfinite(outcome.arrays["tokens"]).all()
        assert outcome.arrays["owners"].max() == 10
        if name == "clip005":  # it has 8 frames; a shorter one has the same at both offsets
            assert len(np.unique(outcome.arrays["tokens"].reshape(4, -1), axis=0)) == 4


def test_tokens_are_those_of_the_tower_on_the_frames_of_evaluation(extractor: Tokens, weights: Path) -> None:
    plain = replace(extractor, num_offsets=1, flips=False)
    network = image_transformer(NAME)
    state = torch.load(weights, weights_only=True)
    network.load_state_dict({name[7:]: value for name, value in state.items() if name.startswith("visual.")})
    tower = ClipTower(network=network, num_pairs=3).eval()
    reader = StoreReader(extractor.frames)
    frames = CachedFrames(reader, "jpeg", 4, 32)
    clips = Clips(Labelled(IDS, (0, 1, 1)), frames, None, TrainSettings(), train=False)
    batch = clips.__getitems__([(0, index) for index in range(3)])["frames"]  # (B, T, 3, S, S)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tower.mean, tower.std))
    made = extract(plain, IDS)
    for index, name in enumerate(IDS):
        with torch.no_grad():
            expected = tower((batch[index].float() / 255 - mean) / std)
        tokens = made[name].arrays["tokens"]
        assert tokens.dtype == np.float16
        np.testing.assert_allclose(tokens[0], expected["tokens"].numpy(), rtol=2e-3, atol=1e-3)
        assert np.array_equal(made[name].arrays["owners"][0], expected["owners"].numpy())


def test_a_mirrored_view_is_made_of_mirrored_frames(extractor: Tokens) -> None:
    stored = StoreReader(extractor.frames).read_one("clip005")
    plain, mirrored = (extractor.pictures(stored, "jpeg", view) for view in extractor.views[:2])
    assert torch.equal(plain.flip(-1), mirrored)
    assert plain.shape == (4, 3, 32, 32)
    first, second = (extractor.pictures(stored, "jpeg", view) for view in extractor.views[::2])
    assert not torch.equal(first, second)


def test_tokens_do_not_depend_on_the_other_samples(extractor: Tokens) -> None:
    together = extract(extractor, IDS)
    for name in IDS:
        alone = extract(extractor, (name,))[name]
        for array in ("tokens", "owners"):
            assert np.array_equal(together[name].arrays[array], alone.arrays[array])


def test_quarantined_frames_keep_their_status_and_end_nothing(extractor: Tokens) -> None:
    outcomes = extract(extractor, ("clip000", BROKEN, "clip001"))
    assert (outcomes[BROKEN].status, outcomes[BROKEN].source) == ("unreadable", "frames:unreadable")
    assert outcomes[BROKEN].arrays == {}
    assert outcomes["clip001"].status == "ok"


def test_samples_that_were_never_extracted_are_an_error(extractor: Tokens) -> None:
    with pytest.raises(MissingCache, match="never seen"):
        extract(extractor, ("never seen",))


def test_key_has_what_decides_the_bytes_and_nothing_else(extractor: Tokens, weights: Path) -> None:
    key = Key(extractor.key()).digest
    changes: tuple[dict[str, Any], ...] = (
        {"frames_key": "other"},
        {"weights_digest": "0" * 64},
        {"network": "ViT-B-16"},
        {"num_frames": 8},
        {"num_offsets": 3},
        {"flips": False},
        {"image_size": 48},
        {"layer": -1},
        {"merged_pairs": 0},
        {"proportional_attention": False},
        {"projection": "none"},
    )
    for change in changes:
        assert Key(replace(extractor, **change).key()).digest != key, change
    same: tuple[dict[str, Any], ...] = ({"frames": Path("x")}, {"weights": Path("y")}, {"device": "cuda"})
    for change in same:
        assert Key(replace(extractor, **change).key()).digest == key, change
    assert str(weights.parent) not in repr(extractor.key())


def test_extractor_travels_to_another_process(extractor: Tokens) -> None:
    assert pickle.loads(pickle.dumps(extractor)) == extractor


def test_settings_change_the_shape_of_the_tokens(extractor: Tokens) -> None:
    other = replace(extractor, layer=-1, merged_pairs=0, projection="none", image_size=48, num_offsets=1, flips=False)
    (tokens, owners) = other.arrays()
    assert tokens.shape == (1, 4, 37, 32)
    assert owners.shape == (1, 4, 37)
    assert extract(other, ("clip000",))["clip000"].arrays["tokens"].shape == tokens.shape


def test_tokens_that_float16_cannot_hold_are_a_status(extractor: Tokens, weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["visual.proj"] = state["visual.proj"] * 1e6
    torch.save(state, tmp_path / "loud.pt")
    loud = replace(extractor, weights=tmp_path / "loud.pt", weights_digest=file_digest(tmp_path / "loud.pt"))
    outcome = extract(loud, ("clip000",))["clip000"]
    assert (outcome.status, outcome.arrays) == ("unreadable", {})
    assert outcome.detail == {"why": "the image tower gives no finite tokens"}


def test_the_network_takes_whole_images_only() -> None:
    torch.manual_seed(0)
    tower = ClipTower(network=image_transformer("ViT-S-32"), num_pairs=2)
    network = TokenNetwork(tower)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    for wrong in (torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 96, 224, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"frames are \(T, 3, 224, 224\) uint8"):
            network.encode(wrong)
    with torch.no_grad():
        tower.network.proj.fill_(float("nan"))
    with pytest.raises(CorruptInput, match="no finite tokens"):
        network.encode(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))


def test_replaced_and_foreign_weights_are_rejected(extractor: Tokens, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(StaleCache, match="was replaced"):
        replace(extractor, weights_digest="sha256:" + "0" * 64).arrays()
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(UsageError, match="is not a file of OpenCLIP weights"):
        load_clip_weights(tmp_path / "noise.pt")
    with pytest.raises(UsageError, match="OpenCLIP has no network 'ViT-B-15'"):
        token_extractor("ViT-B-15", weights, frames=tmp_path, frames_key="x")
    with pytest.raises(UsageError, match="the weights do not fit the image tower"):
        replace(extractor, network="ViT-S-32").arrays()
    with pytest.raises(UsageError, match="0 frames at 2 offsets"):
        replace(extractor, num_frames=0)
