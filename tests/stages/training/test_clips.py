"""Contract of the clips: augmentation is a function of (seed, epoch, sample); evaluation has none."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torchvision.transforms.functional import adjust_hue

from tests.made_stores import (
    CLASSES,
    COLLECTION,
    COLOURS,
    frames_store,
    made_dataset,
    pose_features_store,
    poses_store,
    write_store,
)
from unialign.cache.reader import StoreReader
from unialign.errors import CorruptInput, MissingCache, UsageError
from unialign.pipeline.systems.unialign import pose_tokens
from unialign.stages.extraction.pose_clips import Shape, View
from unialign.stages.extraction.pyskl_clips import pyskl_2d
from unialign.stages.extraction.skeleton_arrays import pixel_specs
from unialign.stages.skeleton_layouts import LAYOUTS
from unialign.stages.training.augmentation import (
    SCALES,
    Region,
    fixed_regions,
    multiscale_region,
    network_frames,
    random_region,
    recoloured_levels,
    resized,
    saturate,
    sparse_frames,
    turn_hue,
)
from unialign.stages.training.clips import CachedFrames, Clips
from unialign.stages.training.pose_samples import CachedPoses, PoseClips
from unialign.stages.training.samples import Batch, Labelled
from unialign.stages.training.settings import TrainSettings

DATASET = made_dataset()
SAMPLES = Labelled(tuple(s.id for s in DATASET.samples), tuple(s.label for s in DATASET.samples))


@pytest.fixture(scope="module")
def made_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("caches")
    for encoding in ("jpeg", "rgb24"):
        frames_store(root / encoding, DATASET, encoding)
    pose_features_store(root / "jpeg", DATASET)
    poses_store(root / "jpeg", DATASET)
    return root


def opened(made_caches: Path, modality: str, encoding: str = "jpeg") -> StoreReader:
    (path,) = (made_caches / encoding / COLLECTION / modality).glob("*.zarr")
    return StoreReader(path)


def clips(made_caches: Path, settings: TrainSettings, *, train: bool = True, encoding: str = "jpeg") -> Clips:
    frames = CachedFrames(opened(made_caches, "frames", encoding), encoding, num_frames=4, image_size=16)
    return Clips(SAMPLES, frames, pose_tokens(opened(made_caches, "pose-features")), settings, train=train)


def test_a_batch_has_the_promised_shapes(made_caches: Path) -> None:
    batch = clips(made_caches, TrainSettings()).__getitems__([(0, 3), (0, 1), (0, 6)])
    assert batch["frames"].shape == (3, 4, 3, 16, 16)
    assert batch["frames"].dtype == torch.uint8
    assert batch["pose_tokens"].shape == (3, 4, 6)
    assert batch["pose_tokens"].dtype == torch.float32
    assert batch["labels"].tolist() == [3, 1, 2]
    assert batch["indices"].tolist() == [3, 1, 6]


@pytest.mark.parametrize("encoding", ["jpeg", "rgb24"])
def test_images_keep_their_color_and_modalities_their_sample(made_caches: Path, encoding: str) -> None:
    made = clips(made_caches, TrainSettings(), train=False, encoding=encoding)
    batch = made.__getitems__([(0, index) for index in range(len(DATASET.samples))])
    colours = batch["frames"].float().mean(dim=(1, 3, 4)).numpy()
    np.testing.assert_allclose(colours, COLOURS[list(SAMPLES.labels)], atol=8)
    assert batch["pose_tokens"].mean(dim=1).argmax(dim=1).tolist() == list(SAMPLES.labels)


def test_augmentation_depends_on_seed_epoch_and_sample_only(made_caches: Path) -> None:
    made = clips(made_caches, TrainSettings(flip=0.5))
    picks = [(epoch, index) for epoch in range(2) for index in range(8)]
    together = made.__getitems__(picks)
    for place in reversed(range(len(picks))):
        alone = made.__getitems__([picks[place]])
        for name in ("frames", "levels", "mirrored", "pose_tokens"):
            assert torch.equal(alone[name][0], together[name][place])
    assert not torch.equal(together["frames"][0], together["frames"][8])  # another epoch
    other = clips(made_caches, TrainSettings(flip=0.5, seed=1)).__getitems__(picks)
    assert not torch.equal(together["frames"], other["frames"])


def test_evaluation_has_no_randomness(made_caches: Path) -> None:
    made = clips(made_caches, TrainSettings(), train=False)
    assert torch.equal(made.__getitems__([(0, 5)])["frames"], made.__getitems__([(9, 5)])["frames"])


def test_several_test_views_come_as_an_axis(made_caches: Path) -> None:
    settings = TrainSettings(test_clips=2, test_crops=3)
    batch = clips(made_caches, settings, train=False).__getitems__([(0, 5), (0, 7)])
    assert batch["frames"].shape == (2, 6, 4, 3, 16, 16)
    views = batch["frames"][0].flatten(1)
    assert len({tuple(view.tolist()) for view in views}) == 6


def test_twice_sampled_clips_are_the_middle_and_the_start_of_each_segment(made_caches: Path) -> None:
    """TSM's rule: with 8 frames kept and 4 segments, frames 1, 3, 5, 7 and 0, 2, 4, 6."""
    made = clips(made_caches, TrainSettings(twice_sample=True), train=False)
    (drawn,) = made.read([(0, 5)]).drawn
    kept = len(made.frames.reader.read_one(SAMPLES.ids[5])["frame_index"])
    segment = kept / 4
    expected = [[int(segment * at + segment / 2) for at in range(4)], [int(segment * at) for at in range(4)]]
    assert [which.tolist() for which in drawn.which] == expected
    with pytest.raises(ValueError, match="leave test_clips at 1, not 2"):
        TrainSettings(twice_sample=True, test_clips=2)


def test_mirrored_frames_come_with_mirrored_poses(made_caches: Path) -> None:
    settings = TrainSettings(flip=1.0, colour=0.0, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    made = clips(made_caches, settings, encoding="rgb24")
    plain = clips(made_caches, settings.replaced(flip=1e-12), encoding="rgb24")
    assert made.pose is not None

    def seen(batch: Batch) -> torch.Tensor:
        return network_frames(batch["frames"], (0, 0, 0), (1, 1, 1), mirrored=batch["mirrored"])

    for index in range(6):
        mirrored, straight = made.__getitems__([(0, index)]), plain.__getitems__([(0, index)])
        assert torch.equal(seen(mirrored).flip(-1), seen(straight))
        stored = torch.from_numpy(made.pose.reader.read_one(SAMPLES.ids[index])["tokens"]).float()
        views = [view for view in range(4) if torch.equal(stored[view], mirrored["pose_tokens"][0])]
        assert [made.pose.flips[view] for view in views] == [True]


def test_mirrored_training_without_mirrored_pose_features_is_rejected(made_caches: Path, tmp_path: Path) -> None:
    plain = pose_tokens(pose_features_store(tmp_path, DATASET, flips=False))
    frames = clips(made_caches, TrainSettings()).frames
    with pytest.raises(UsageError, match="no mirrored views"):
        Clips(SAMPLES, frames, plain, TrainSettings(flip=0.5), train=True)


def test_pose_views_are_drawn_in_training_and_fixed_in_evaluation(made_caches: Path) -> None:
    made = clips(made_caches, TrainSettings())
    assert len({tuple(made.__getitems__([(epoch, 2)])["pose_tokens"].flatten().tolist()) for epoch in range(12)}) == 2
    assert made.pose is not None
    stored = made.pose.reader.read_one(SAMPLES.ids[2])["tokens"].astype(np.float32)
    first = clips(made_caches, TrainSettings(), train=False).__getitems__([(0, 2)])["pose_tokens"][0]
    np.testing.assert_array_equal(first.numpy(), stored[0])
    mean = clips(made_caches, TrainSettings(pose_test="mean"), train=False).__getitems__([(0, 2)])["pose_tokens"][0]
    np.testing.assert_allclose(mean.numpy(), stored[[0, 2]].mean(axis=0), rtol=1e-6)


def test_a_sample_that_the_cache_lacks_is_an_error(made_caches: Path) -> None:
    made = clips(made_caches, TrainSettings())
    with pytest.raises(MissingCache, match="clip999"):
        Clips(Labelled(("clip999",), (0,)), made.frames, None, TrainSettings(), train=True).__getitems__([(0, 0)])


@limits(max_examples=60, deadline=None)
@given(num_kept=st.integers(1, 90), num_frames=st.integers(1, 40), seed=st.integers(0, 9))
def test_one_frame_comes_from_each_segment(num_kept: int, num_frames: int, seed: int) -> None:
    places = np.random.default_rng(seed).random(num_frames)
    for indices in (sparse_frames(num_kept, num_frames, places), sparse_frames(num_kept, num_frames, 0.5)):
        assert (np.diff(indices) >= 0).all()
        low = np.arange(num_frames) * num_kept // num_frames
        high = -(-np.arange(1, num_frames + 1) * num_kept // num_frames) - 1
        assert ((indices >= low) & (indices <= high)).all()
    assert sparse_frames(9, 3, 0.5).tolist() == [1, 4, 7]
    with pytest.raises(ValueError, match="without frames"):
        sparse_frames(0, 3, 0.5)


@limits(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 99))
def test_regions_lie_inside_the_image(height: int, width: int, seed: int) -> None:
    region = random_region(np.random.default_rng(seed), (height, width), (0.1, 1.0), (0.5, 2.0))
    for each in (region, *fixed_regions((height, width), 3), *fixed_regions((height, width), 1)):
        assert each.height >= 1
        assert each.width >= 1
        assert 0 <= each.top <= height - each.height
        assert 0 <= each.left <= width - each.width


def test_colors_change_within_the_strength() -> None:
    images = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
    factors = np.random.default_rng(0).uniform(0.8, 1.2, size=(50, 2))
    changed = {int(recoloured_levels(images, each)[100]) for each in factors}
    assert len(changed) > 10
    assert min(changed) >= 80
    assert max(changed) <= 120
    assert recoloured_levels(images, np.ones(2)).tolist() == list(range(256))


@limits(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), clips=st.integers(1, 3), views=st.integers(0, 2))
def test_frames_are_looked_up_as_if_each_step_were_computed(seed: int, clips: int, views: int) -> None:
    """To the last bit: so it is the same on every device, and the same as when threads recolored them."""
    generator = np.random.default_rng(seed)
    shape = (clips, *[2] * bool(views), 4, 8, 8, 3)
    stored = generator.integers(0, 256, size=shape, dtype=np.uint8)
    frames = torch.from_numpy(stored).movedim(-1, -3)
    levels = torch.from_numpy(generator.integers(0, 256, size=(clips, 256), dtype=np.uint8))
    mirrored = torch.from_numpy(generator.random(clips) < 0.5)
    mean, std = generator.random(3).tolist(), (generator.random(3) + 0.1).tolist()
    found = network_frames(frames, mean, std, levels, mirrored)
    assert found.dtype == torch.float32
    assert found.movedim(-3, -1).is_contiguous()
    for clip in range(clips):
        changed = levels[clip][frames[clip].long()]
        expected = (changed.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        assert torch.equal(found[clip], expected.flip(-1) if mirrored[clip] else expected)
    plain = (frames.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(network_frames(frames, mean, std), plain)


@limits(max_examples=30, deadline=None)
@given(height=st.integers(8, 70), width=st.integers(8, 70), size=st.integers(4, 40), seed=st.integers(0, 99))
def test_images_are_resized_into_given_memory_as_torch_resizes_them(
    height: int, width: int, size: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    pictures = generator.integers(0, 256, size=(2, height, width, 3), dtype=np.uint8)
    region = random_region(generator, (height, width), (0.1, 1.0), (0.5, 2.0))
    part = pictures[:, region.top : region.top + region.height, region.left : region.left + region.width]
    images = torch.from_numpy(part.copy()).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    memory = np.zeros((2, size, size, 3), np.uint8)
    assert torch.equal(resized(pictures, region, size, memory), expected)
    np.testing.assert_array_equal(memory, expected.permute(0, 2, 3, 1).numpy())
    assert torch.equal(resized(pictures, region, size), expected)


def pose_clips(made_caches: Path, settings: TrainSettings, *, train: bool, clip_len: int = 16) -> PoseClips:
    poses = CachedPoses(opened(made_caches, "poses"), LAYOUTS["coco-17"], "pyskl-2d", Shape(clip_len, 2))
    return PoseClips(SAMPLES, poses, settings, train=train)


def test_pose_clips_are_random_parts_in_training_only(made_caches: Path) -> None:
    made = pose_clips(made_caches, TrainSettings(), train=True)
    batch = made.__getitems__([(0, 0), (0, 5), (1, 5)])
    assert batch["keypoints"].shape == (3, 2, 16, 17, 3)
    assert batch["keypoints"].isfinite().all()
    assert batch["present"].tolist() == [[True, False]] * 3
    assert not torch.equal(batch["keypoints"][1], batch["keypoints"][2])
    assert torch.equal(made.__getitems__([(1, 5)])["keypoints"][0], batch["keypoints"][2])


def test_pose_clips_in_evaluation_are_those_of_extraction(made_caches: Path) -> None:
    made = pose_clips(made_caches, TrainSettings(), train=False)
    stored = made.poses.reader.read_one(SAMPLES.ids[5])
    height, width = map(float, stored["frame_size"])
    expected = pyskl_2d(stored["keypoints"], LAYOUTS["coco-17"], View(0, 1, False), Shape(16, 2), (width, height))
    np.testing.assert_array_equal(made.__getitems__([(3, 5)])["keypoints"][0].numpy(), expected.keypoints)


def test_pose_clips_of_a_store_in_float16_are_the_same_but_for_its_digits(made_caches: Path, tmp_path: Path) -> None:
    """As stores of poses were before revision 2."""
    new = opened(made_caches, "poses")
    values = {name: new.read_one(name) for name in new.ids}
    halves = {name: {**value, "keypoints": value["keypoints"].astype(np.float16)} for name, value in values.items()}
    specs = [replace(spec, dtype="float16") if spec.name == "keypoints" else spec for spec in new.store.arrays]
    reader = write_store(tmp_path, "poses", specs, halves)
    for train in (True, False):
        made = pose_clips(made_caches, TrainSettings(), train=train)
        old = PoseClips(SAMPLES, replace(made.poses, reader=reader), TrainSettings(), train=train)
        first, second = (clips.__getitems__([(0, 5)])["keypoints"] for clips in (made, old))
        assert first.dtype == second.dtype == torch.float32
        torch.testing.assert_close(first, second, atol=2e-3, rtol=0)


def test_a_pose_clip_that_shows_no_person_names_its_sample(tmp_path: Path) -> None:
    nobody = {
        "keypoints": np.full((5, 2, 17, 3), np.nan, np.float32),
        "frame_size": np.array([64, 48], np.int32),
    }
    reader = write_store(tmp_path, "poses", pixel_specs(32, 2), dict.fromkeys(SAMPLES.ids, nobody))
    poses = CachedPoses(reader, LAYOUTS["coco-17"], "pyskl-2d", Shape(8, 2))
    for train in (True, False):
        with pytest.raises(CorruptInput, match="'clip000': no frame shows a person"):
            PoseClips(SAMPLES, poses, TrainSettings(), train=train).__getitems__([(0, 0)])


def test_every_class_is_there() -> None:
    assert set(SAMPLES.labels) == set(range(len(CLASSES)))


@limits(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), height=st.integers(1, 300), width=st.integers(1, 300))
def test_a_multiscale_crop_has_sides_of_the_table_in_a_corner_or_the_center(seed: int, height: int, width: int) -> None:
    region = multiscale_region(np.random.default_rng(seed), (height, width))
    sides = [max(1, int(min(height, width) * scale)) for scale in SCALES]
    places = {sides.index(side) for side in (region.height, region.width)}
    assert max(places) - min(places) <= 1 or len(set(sides)) < 4
    assert region.top in (0, (height - region.height) // 2, height - region.height)
    assert region.left in (0, (width - region.width) // 2, width - region.width)
    assert (region.top == (height - region.height) // 2) == (region.left == (width - region.width) // 2) or (
        {height - region.height, width - region.width} & {0, 1}
    )


def test_every_place_and_pair_of_sides_of_a_multiscale_crop_is_as_likely() -> None:
    generator = np.random.default_rng(0)
    regions = [multiscale_region(generator, (200, 300)) for _ in range(4000)]
    pairs = Counter((region.height, region.width) for region in regions)
    assert len(pairs) == 10  # 4 pairs of one side, 6 of neighbors
    assert min(pairs.values()) > 300
    assert sum(region.top == 0 and region.left == 0 and region.height < 200 for region in regions) > 400


def test_a_test_crop_may_be_smaller_than_the_image() -> None:
    (middle,) = fixed_regions((256, 340), 1, 0.875)
    assert middle == Region(16, 58, 224, 224)
    assert [(each.top, each.left, each.width) for each in fixed_regions((256, 340), 3, 0.875)] == [
        (16, 0, 224),
        (16, 58, 224),
        (16, 116, 224),
    ]
    assert [(each.top, each.left) for each in fixed_regions((340, 256), 3)] == [(0, 0), (42, 0), (84, 0)]


def test_saturation_moves_colors_from_gray_to_more_than_they_are() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    same, gray, strong = images.copy(), images.copy(), images.copy()
    saturate(same, 1.0)
    assert (same == images).all()
    saturate(gray, 0.0)
    assert (gray == np.round(images @ np.array([0.299, 0.587, 0.114]))[..., None]).all()
    saturate(strong, 1.5)
    spread = images.max(axis=-1).astype(int) - images.min(axis=-1)
    assert ((strong.max(axis=-1).astype(int) - strong.min(axis=-1)) >= spread).all()


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.25, 0.5])
def test_a_turn_of_the_hue_is_that_of_torchvision(turn: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 31, 3), dtype=np.uint8)
    images[0, 0], images[0, 1, :, 1:] = 77, 0  # gray, and pure red
    turned = images.copy()
    turn_hue(turned, turn)
    wanted = adjust_hue(torch.from_numpy(images).permute(0, 3, 1, 2), turn).permute(0, 2, 3, 1).numpy()
    assert np.abs(turned.astype(int) - wanted).max() <= 1
    assert (turned[0, 0] == 77).all()
    # Turning back restores it, but for rounding.
    turn_hue(turned, -turn)
    assert np.abs(turned.astype(int) - images).max() <= 3


def test_the_hue_is_turned_of_clips_whose_color_changes(made_caches: Path) -> None:
    settings = TrainSettings(colour=0.4, colour_share=0.8, saturation=0.2, grayscale=0.2)
    plain, made = (clips(made_caches, each) for each in (settings, settings.replaced(hue=0.1)))
    drawn = [(plain._drawn(epoch, 0, 8, (20, 26)), made._drawn(epoch, 0, 8, (20, 26))) for epoch in range(300)]
    for one, other in drawn:
        assert (one.regions, one.saturation) == (other.regions, other.saturation)
        kept = other.saturation in (0, 1)
        assert (other.hue == 0) == kept
        assert abs(other.hue) <= 0.1
    assert 0.55 < np.mean([other.hue != 0 for _, other in drawn]) < 0.75
    first, again = (each.__getitems__([(0, 3)])["frames"] for each in (made, made))
    assert (first == again).all()


def test_the_share_of_gray_and_recolored_clips_is_that_of_the_settings(made_caches: Path) -> None:
    made = clips(made_caches, TrainSettings(colour=0.4, colour_share=0.8, saturation=0.2, grayscale=0.2))
    drawn = [made._drawn(epoch, 0, 8, (20, 26)) for epoch in range(400)]
    gray = [each.saturation == 0 for each in drawn]
    changed = [each.colour is not None and bool((each.colour != 1).any()) for each in drawn]
    assert 0.14 < np.mean(gray) < 0.26
    assert 0.74 < np.mean(changed) < 0.86
    plain = clips(made_caches, TrainSettings(colour=0.4))
    # What was drawn before there were these settings is drawn as it was.
    for epoch in range(20):
        one, other = plain._drawn(epoch, 0, 8, (20, 26)), drawn[epoch]
        assert one.regions == other.regions
        assert other.colour is not None
        assert not (other.colour != 1).any() or one.colour.tolist() == other.colour.tolist()


def test_a_gray_clip_has_equal_colors(made_caches: Path) -> None:
    batch = clips(made_caches, TrainSettings(grayscale=1.0, colour=0.0)).__getitems__([(0, 3), (0, 1)])
    assert (batch["frames"][:, :, 0] == batch["frames"][:, :, 1]).all()
    assert (batch["frames"][:, :, 0] == batch["frames"][:, :, 2]).all()
