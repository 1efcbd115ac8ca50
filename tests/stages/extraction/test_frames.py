"""Cached pictures: which, how large, and back again."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.stages.made_videos import write_streams
from unialign.errors import DamagedStore, UsageError
from unialign.stages.extraction.base import Extractor, Outcome, Source
from unialign.stages.extraction.frames import CANDIDATES, Frames, kept_indices, sampled, stored_size
from unialign.stages.images import decode_images, encode_image
from unialign.stages.video import decode_frames, encode_clip


def noise(num_frames: int, height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(num_frames)
    return list(rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8))


def extract(extractor: Frames, *paths: Path) -> list[Outcome]:
    checked: Extractor = extractor
    return list(checked.run([Source(path.stem, path) for path in paths]))


def pictures_of(extractor: Frames, outcome: Outcome) -> np.ndarray:
    a = outcome.arrays
    which = range(len(a["frame_index"]))
    return decode_images(a["pictures"], a["offset"], a["size"], extractor.encoding, which)


@given(total=st.integers(0, 5000), num_frames=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_kept_frames_are_in_order_and_evenly_spaced(total: int, num_frames: int) -> None:
    indices = kept_indices(total, num_frames)
    assert indices == sorted(set(indices))
    assert len(indices) == min(total, num_frames)
    if total > num_frames:
        ideal = (2 * np.arange(num_frames) + 1) * total / (2 * num_frames)
        assert np.abs(np.array(indices) - ideal).max() <= max(1, 2 * total / (CANDIDATES * num_frames))
        assert total > CANDIDATES * num_frames or indices == [int(value) for value in ideal]


@given(total=st.integers(1, 400), num_frames=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_one_pass_gives_the_frames_of_the_rule(total: int, num_frames: int) -> None:
    pictures = (np.full((16, 20, 3), (index % 256, index // 256, 0), dtype=np.uint8) for index in range(total))
    indices, small = sampled(pictures, num_frames, 16)
    assert indices == kept_indices(total, num_frames)
    assert [int(one[0, 0, 0]) + 256 * int(one[0, 0, 1]) for one in small] == indices


def test_bare_images_are_the_resized_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    encode_clip(path, noise(11, 60, 96), fps=10)
    extractor = Frames(short_side=40, num_frames=4, encoding="rgb24")
    (outcome,) = extract(extractor, path)
    assert outcome.status == "ok"
    assert outcome.arrays["frame_index"].tolist() == [1, 4, 6, 9]
    assert outcome.arrays["size"].tolist() == [40, 64]
    assert outcome.arrays["source_size"].tolist() == [60, 96]
    assert outcome.arrays["fps"] == 10
    assert outcome.detail == {"decoded": 11, "declared": 11, "kept": 4}
    source = list(decode_frames(path))
    wanted = [Image.fromarray(source[index]).resize((64, 40), Image.Resampling.BILINEAR) for index in (1, 4, 6, 9)]
    np.testing.assert_array_equal(pictures_of(extractor, outcome), np.stack([np.asarray(one) for one in wanted]))


def test_jpeg_is_near_and_smaller(shared_data: Path) -> None:
    path = sorted((shared_data / "videos" / "gestures").rglob("*.mp4"))[0]
    jpeg, bare = Frames(num_frames=6), Frames(num_frames=6, encoding="rgb24")
    (first,), (second,) = extract(jpeg, path), extract(bare, path)
    assert len(first.arrays["pictures"]) * 5 < len(second.arrays["pictures"])
    difference = pictures_of(jpeg, first).astype(int) - pictures_of(bare, second)
    assert np.abs(difference).mean() < 3
    assert first.source == second.source
    assert first.source.startswith("sha256:")


@pytest.mark.parametrize("encoding", ["jpeg", "rgb24"])
@pytest.mark.parametrize("size", [(64, 152), (152, 64), (64, 64)])
def test_arrays_fit_their_specs(tmp_path: Path, encoding: str, size: tuple[int, int]) -> None:
    path = tmp_path / "clip.mp4"
    encode_clip(path, noise(5, *size), fps=10, crf=1)
    extractor = Frames(short_side=64, num_frames=3, encoding=encoding, quality=95)
    (outcome,) = extract(extractor, path)
    assert set(outcome.arrays) == {spec.name for spec in extractor.arrays()}
    for spec in extractor.arrays():
        value = outcome.arrays[spec.name]
        assert value.dtype == spec.dtype
        assert value.ndim == len(spec.shape)
        assert all(have <= most for have, most in zip(value.shape, spec.shape, strict=True))
        assert spec.ragged or value.shape == spec.shape


def test_the_worst_jpeg_fits(tmp_path: Path) -> None:
    extractor = Frames(short_side=64, num_frames=2, quality=95)
    rng = np.random.default_rng(0)
    chequers = [np.asarray(rng.integers(0, 2, (64, extractor.longest_side, 3)) * 255, dtype=np.uint8)] * 2
    assert sum(len(encode_image(one, "jpeg", 95)) for one in chequers) <= extractor.max_bytes


def test_a_short_clip_is_kept_whole(tmp_path: Path) -> None:
    encode_clip(tmp_path / "clip.mp4", noise(3, 32, 32), fps=10)
    (outcome,) = extract(Frames(short_side=16), tmp_path / "clip.mp4")
    assert outcome.arrays["frame_index"].tolist() == [0, 1, 2]
    assert len(outcome.arrays["offset"]) == 4


def test_bad_clips_do_not_end_the_rest(tmp_path: Path) -> None:
    encode_clip(tmp_path / "good.mp4", noise(6, 32, 48), fps=10)
    encode_clip(tmp_path / "wide.mp4", noise(2, 32, 96), fps=10)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:2000])
    names = ("cut", "good", "absent", "wide", "good")
    outcomes = extract(Frames(short_side=16, num_frames=2), *(tmp_path / f"{name}.mp4" for name in names))
    assert [one.status for one in outcomes] == ["unreadable", "ok", "missing-file", "unreadable", "ok"]
    assert [one.id for one in outcomes] == list(names)
    assert "96 x 32" in outcomes[3].detail["why"]
    assert all(str(tmp_path) not in str(one.detail) for one in outcomes)
    assert outcomes[2].source == ""
    assert outcomes[0].source.startswith("sha256:")
    assert not any(one.arrays for one in outcomes if one.status != "ok")
    np.testing.assert_array_equal(outcomes[1].arrays["pictures"], outcomes[4].arrays["pictures"])
    assert next(Frames().run([Source("none")])).status == "missing-file"


def test_decoding_refuses_wrong_bytes() -> None:
    pictures, offset = np.zeros(48, dtype=np.uint8), np.array([0, 48])
    size = np.array([4, 4])
    assert decode_images(pictures, offset, size, "rgb24", [0, 0]).shape == (2, 4, 4, 3)
    for encoding, wanted in (("rgb24", [4, 5]), ("jpeg", [4, 4]), ("png", [4, 4])):
        with pytest.raises(DamagedStore):
            decode_images(pictures, offset, np.array(wanted), encoding, [0])
    for index in (-1, 1):
        with pytest.raises(IndexError):
            decode_images(pictures, offset, size, "rgb24", [index])


def test_settings_are_checked_and_part_of_the_key() -> None:
    for wrong in ({"encoding": "png"}, {"quality": 96}, {"short_side": 8}, {"num_frames": 0}):
        with pytest.raises(UsageError):
            Frames(**wrong)
    keys = [Frames().key(), Frames(short_side=112).key(), Frames(quality=80).key(), Frames(encoding="rgb24").key()]
    assert all(first != second for i, first in enumerate(keys) for second in keys[:i])
    assert Frames(encoding="rgb24", quality=80).key() == Frames(encoding="rgb24").key()


@given(height=st.integers(1, 8192), width=st.integers(1, 8192), short_side=st.integers(16, 300))
def test_every_stored_size_fits_and_keeps_its_shape(height: int, width: int, short_side: int) -> None:
    size = stored_size(height, width, short_side)
    assert max(size) <= Frames(short_side=short_side).longest_side
    assert min(size) <= short_side
    assert min(size) == short_side or max(size) == Frames(short_side=short_side).longest_side
    # Both sides are rounded to whole pixels.
    assert abs(size[0] * width - size[1] * height) <= (height + width) / 2 + 1e-6


@pytest.mark.parametrize(
    ("size", "stored"), [((600, 200), (307, 102)), ((96, 576), (51, 307)), ((64, 152), (128, 304))]
)
@pytest.mark.parametrize("encoding", ["jpeg", "rgb24"])
def test_tall_and_wide_images_are_stored_smaller(
    tmp_path: Path, size: tuple[int, int], stored: tuple[int, int], encoding: str
) -> None:
    encode_clip(tmp_path / "clip.mp4", noise(5, *size), fps=10, crf=1)
    extractor = Frames(short_side=128, num_frames=4, encoding=encoding, quality=95)
    (outcome,) = extract(extractor, tmp_path / "clip.mp4")
    assert outcome.status == "ok"
    assert outcome.arrays["size"].tolist() == list(stored)
    assert outcome.arrays["source_size"].tolist() == list(size)
    assert len(outcome.arrays["pictures"]) <= extractor.max_bytes
    assert pictures_of(extractor, outcome).shape == (4, *stored, 3)


def test_the_shape_of_pixels_is_recorded(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "clip.mp4", "mp4", "libx264", num_frames=5, aspect=Fraction(4, 3))
    (outcome,) = extract(Frames(), path)
    assert outcome.detail == {"decoded": 5, "declared": 5, "kept": 5, "pixel_aspect": "4/3"}
    assert outcome.arrays["source_size"].tolist() == [96, 171]


def test_the_short_side_is_exact() -> None:
    assert stored_size(240, 320, 128) == (128, 171)
    assert stored_size(1920, 1080, 128) == (228, 128)
    assert stored_size(100, 100, 128) == (128, 128)
