"""Contract of `stages.video.encode_clip`: images come back, and the same images give the same bytes."""

from pathlib import Path

import numpy as np
import pytest

from tests.stages.made_videos import moving_frames
from unialign.stages.video import Video, encode_clip


def test_encoded_clips_come_back(tmp_path: Path) -> None:
    pictures = [np.full((48, 64, 3), 8 * index, dtype=np.uint8) for index in range(20)]
    encode_clip(tmp_path / "deep" / "clip.mp4", pictures, fps=12, crf=10)
    video = Video(tmp_path / "deep" / "clip.mp4")
    back = list(video.frames())
    assert (video.declared, video.fps, len(back)) == (20, 12, 20)
    assert max(np.abs(one.astype(int) - two).max() for one, two in zip(pictures, back, strict=True)) <= 4


def test_encoding_is_deterministic_and_leaves_no_temporary(tmp_path: Path) -> None:
    pictures = moving_frames(12)
    for name in ("one.mp4", "two.mp4"):
        encode_clip(tmp_path / name, iter(pictures), fps=25)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    bad: tuple[list[np.ndarray], ...] = (
        [],
        [np.zeros((33, 32, 3), np.uint8)],
        [*pictures[:2], np.zeros((32, 32, 3), np.uint8)],
    )
    for frames in bad:
        with pytest.raises(ValueError, match="clip"):
            encode_clip(tmp_path / "one.mp4", frames, fps=25)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.mp4", "two.mp4"]
