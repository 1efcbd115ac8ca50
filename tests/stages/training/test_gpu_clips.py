"""Contract of clips decoded on a GPU, with the CPU in its place: the same to within one level, or one sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from torch import Tensor

from tests.made_stores import frames_store, made_dataset, pose_features_store
from unialign.cache.reader import StoreReader
from unialign.errors import DamagedStore, UnialignError, UsageError
from unialign.pipeline.systems.unialign import pose_tokens
from unialign.stages.training.augmentation import recoloured_levels
from unialign.stages.training.clips import CachedFrames, Clips
from unialign.stages.training.gpu_clips import Decoder, GpuClips, clips_as_set
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.order import BatchIndices
from unialign.stages.training.samples import Labelled
from unialign.stages.training.settings import TrainSettings

DATASET = made_dataset()
SAMPLES = Labelled(tuple(s.id for s in DATASET.samples), tuple(s.label for s in DATASET.samples))
SETTINGS = TrainSettings(decoder="nvjpeg", batch_size=3, flip=0.5)


def by_simplejpeg(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
    """What TorchCodec gives: views (3, H, W) of images whose colors lie side by side."""
    return [torch.from_numpy(simplejpeg.decode_jpeg(each.numpy())).permute(2, 0, 1).to(device) for each in encoded]


def by_torchcodec(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
    found: list[Tensor] = pytest.importorskip("torchcodec.decoders").decode_jpeg(encoded, mode="RGB", device=device)
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoreReader, StoreReader]:
    root = tmp_path_factory.mktemp("caches")
    return frames_store(root, DATASET, "jpeg"), pose_features_store(root, DATASET)


def frames_of(stores: tuple[StoreReader, StoreReader], encoding: str = "jpeg") -> CachedFrames:
    return CachedFrames(stores[0], encoding, num_frames=4, image_size=16)


def made(stores: tuple[StoreReader, StoreReader], decoder: Decoder, settings: TrainSettings = SETTINGS) -> GpuClips:
    return GpuClips(SAMPLES, frames_of(stores), pose_tokens(stores[1]), settings, decoder)


@pytest.mark.parametrize("decoder", [by_simplejpeg, by_torchcodec])
def test_batches_are_those_of_the_cpu_to_within_one_level(
    stores: tuple[StoreReader, StoreReader], decoder: Decoder
) -> None:
    picks = [BatchIndices(2, np.array(each)) for each in ([5, 0, 3], [1, 6])]
    expected = Clips(SAMPLES, frames_of(stores), pose_tokens(stores[1]), SETTINGS, train=True)
    source = made(stores, decoder)
    window_of = np.zeros(len(SAMPLES), np.int64)
    for found in (source.batches(picks, threads=2, depth=1), source.windows(picks, window_of, threads=1, depth=1)):
        for batch, asked in zip(found, picks, strict=True):
            wanted = expected.__getitems__(asked)
            assert batch.keys() == wanted.keys()
            for name in wanted.keys() - {"frames", "levels"}:
                assert torch.equal(batch[name], wanted[name]), name
            assert batch["frames"].shape == wanted["frames"].shape
            assert (batch["frames"].int() - wanted["frames"].int()).abs().max() <= 1
            # One level more or less moves the mean that a change of brightness turns around.
            assert (batch["levels"].int() - wanted["levels"].int()).abs().max() <= 1


def test_levels_are_computed_from_the_pixels_that_were_made(stores: tuple[StoreReader, StoreReader]) -> None:
    source = made(stores, by_simplejpeg)
    picks = BatchIndices(0, np.arange(4))
    drawn = source.read(picks).drawn
    batch = source.decoded(picks)
    for clip, levels, each in zip(batch["frames"], batch["levels"], drawn, strict=True):
        assert each.colour is not None
        images = np.ascontiguousarray(clip.permute(0, 2, 3, 1).numpy())
        np.testing.assert_array_equal(levels.numpy(), recoloured_levels(images, each.colour))


def test_a_run_without_a_gpu_is_refused_before_its_first_batch(stores: tuple[StoreReader, StoreReader]) -> None:
    for device in (None, torch.device("cpu")):
        with pytest.raises(UsageError, match="decoder nvjpeg needs a GPU, and this run has none; set it to cpu"):
            Loader(made(stores, by_simplejpeg), SETTINGS, device=device)


def test_a_torchcodec_without_ffmpeg_is_refused_before_the_first_batch(
    stores: tuple[StoreReader, StoreReader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torchcodec"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "decoders.py").write_text("raise RuntimeError('Could not load libtorchcodec')\n")
    for name in [each for each in sys.modules if each.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"no libraries of FFmpeg .* or set train.settings.decoder to cpu"):
        GpuClips(SAMPLES, frames_of(stores), None, SETTINGS).use(torch.device("cuda"))
    del sys.modules["torchcodec"]


def test_what_only_the_cpu_computes_is_refused_in_one_sentence(stores: tuple[StoreReader, StoreReader]) -> None:
    wrong = SETTINGS.model_copy(update={"hue": 0.1, "num_workers": 2})
    with pytest.raises(UsageError, match=r"needs saturation, hue and grayscale at 0, num_workers at 0; set it to cpu"):
        made(stores, by_simplejpeg, wrong)
    with pytest.raises(UsageError, match="needs frames stored as jpeg; set it to cpu"):
        GpuClips(SAMPLES, frames_of(stores, "rgb24"), None, SETTINGS)


def test_only_training_clips_are_decoded_on_a_gpu_and_only_if_that_is_set(
    stores: tuple[StoreReader, StoreReader],
) -> None:
    def kind(settings: TrainSettings, train: bool) -> type[Clips]:
        return type(clips_as_set(SAMPLES, frames_of(stores), pose_tokens(stores[1]), settings, train=train))

    assert kind(SETTINGS, True) is GpuClips
    assert kind(SETTINGS, False) is kind(SETTINGS.model_copy(update={"decoder": "cpu"}), True) is Clips
    loader = Loader(clips_as_set(SAMPLES, frames_of(stores), None, SETTINGS, train=False), SETTINGS)
    assert sum(share.count for share in loader.epoch(Position())) == len(SAMPLES)


def test_the_decoder_is_part_of_a_runs_key_unless_it_is_the_cpu() -> None:
    assert SETTINGS.identity()["decoder"] == "nvjpeg"
    assert "decoder" not in TrainSettings().identity()
    assert "decoder" not in TrainSettings().recorded()


def test_the_sample_of_a_damaged_image_is_named_though_nvjpeg_does_not_say_which(
    stores: tuple[StoreReader, StoreReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
        raise RuntimeError("nvjpegDecodeBatched failed: 3\nat line 5")

    source, picks = made(stores, refuses), BatchIndices(0, np.array([2, 4]))
    with pytest.raises(UnialignError, match=r"nvJPEG cannot decode .*failed: 3\); set train.settings.decoder to cpu"):
        source.decoded(picks)
    read = source.read(picks)
    read.pictures[int(read.first[1])][40:] = 0
    monkeypatch.setattr(source, "read", lambda asked: read)
    with pytest.raises(DamagedStore, match=f"frames of sample '{SAMPLES.ids[4]}': image .* is not a complete JPEG"):
        source.decoded(picks)


def test_images_of_another_size_than_recorded_are_refused(stores: tuple[StoreReader, StoreReader]) -> None:
    def larger(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
        return [torch.zeros((3, 7, 9), dtype=torch.uint8)] * len(encoded)

    with pytest.raises(DamagedStore, match=f"frames of sample '{SAMPLES.ids[1]}' are not"):
        made(stores, larger).decoded(BatchIndices(0, np.array([1])))
