"""Contract of tokens by a video backbone: those of the frozen network on the frames of evaluation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn.functional import adaptive_avg_pool2d

from tests.made_stores import frames_store, made_dataset
from unialign.cache.reader import StoreReader
from unialign.cache.shards import check_sample
from unialign.errors import StaleCache, UsageError
from unialign.pipeline.config import load_config
from unialign.pipeline.extraction.extractors import tokens_extractor
from unialign.stages.extraction.backbone_tokens import BackboneTokens, backbone_tokens
from unialign.stages.extraction.base import Source
from unialign.stages.models.backbones.registry import build_backbone
from unialign.stages.training.clips import CachedFrames, Clips
from unialign.stages.training.samples import Labelled
from unialign.stages.training.settings import TrainSettings

IDS, BROKEN = ("clip000", "clip001"), "clip002"
SMALL = {"num_frames": 4, "image_size": 64}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "tsm.pt"
    torch.save(build_backbone("tsm-tiny", **SMALL).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def extractor(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> BackboneTokens:
    frames = frames_store(tmp_path_factory.mktemp("cache"), made_dataset(), failed=[BROKEN])
    return backbone_tokens(
        "tsm-tiny",
        weights,
        frames=frames.path,
        frames_key=frames.store.key.digest,
        flips=True,
        grid=2,
        device="cpu",
        **SMALL,
    )


def test_tokens_are_those_of_the_backbone_on_the_frames_of_evaluation(extractor: BackboneTokens, weights: Path) -> None:
    (spec,) = extractor.arrays()
    assert spec.shape == (2, 4, 1 + 2 * 2, 128)
    outcomes = {outcome.id: outcome for outcome in extractor.run([Source(name) for name in (*IDS, BROKEN)])}
    assert outcomes[BROKEN].status != "ok"
    backbone = build_backbone("tsm-tiny", **SMALL, weights=torch.load(weights, weights_only=True)).eval()
    frames = CachedFrames(StoreReader(extractor.frames), "jpeg", 4, 64)
    clips = Clips(Labelled(IDS, (0, 1)), frames, None, TrainSettings(), train=False)
    batch = clips.__getitems__([(0, index) for index in range(len(IDS))])["frames"]  # (B, T, 3, S, S)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        grids = backbone((batch.float() / 255 - mean) / std)["grid"]  # (B, T, H', W', D)
    for name, grid in zip(IDS, grids, strict=True):
        outcome = outcomes[name]
        check_sample(spec, outcome.arrays["tokens"])
        plain = outcome.arrays["tokens"][0].astype(np.float32)
        np.testing.assert_allclose(plain[:, 0], grid.mean(dim=(1, 2)).numpy(), rtol=2e-3, atol=2e-3)
        cells = adaptive_avg_pool2d(grid.permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)
        np.testing.assert_allclose(plain[:, 1:], cells.numpy(), rtol=2e-3, atol=2e-3)
        assert not np.array_equal(outcome.arrays["tokens"][0], outcome.arrays["tokens"][1]), "the mirrored view"


def test_everything_that_decides_the_bytes_is_in_the_key(extractor: BackboneTokens) -> None:
    keys = [extractor.key()]
    changes = {
        "num_frames": 8,
        "num_offsets": 2,
        "flips": False,
        "image_size": 32,
        "grid": 0,
        "name": "tsm-tiny-difference",
    }
    for name, value in changes.items():
        keys.append(replace(extractor, **{name: value}).key())
    assert len({repr(sorted(key.items())) for key in keys}) == 1 + len(changes)


def test_frozen_parts_are_never_random(extractor: BackboneTokens, tmp_path: Path, weights: Path) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict(), tmp_path / "vit.pt")
    known = {"frames": extractor.frames, "frames_key": "x", "device": "cpu"}
    with pytest.raises(UsageError, match=r"at random .*would be noise"):
        backbone_tokens("vit-tiny-temporal", tmp_path / "vit.pt", **known, **SMALL).arrays()
    with pytest.raises(UsageError, match="need its published weights"):
        backbone_tokens("vjepa2-l16", None, **known)
    with pytest.raises(StaleCache, match="was replaced"):
        replace(extractor, weights_digest="sha256:0").arrays()


def test_the_configuration_chooses_by_the_name(weights: Path, tmp_path: Path) -> None:
    values = ["extract.tokens.model=vjepa2.1-b16", f"extract.tokens.weights={weights}", "extract.tokens.num_frames=16"]
    made = tokens_extractor(load_config({}, values, environment={}), frames=tmp_path, frames_key="x")
    assert isinstance(made, BackboneTokens)
    assert (made.name, made.image_size, made.num_frames) == ("vjepa2.1-b16", 384, 16)
