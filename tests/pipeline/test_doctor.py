"""Contract of `pipeline.doctor`: a decoder that does not decode is distinguished from one that does."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unialign.pipeline.doctor import decoding_problem
from unialign.stages import video
from unialign.stages.video import Video


def test_what_is_installed_decodes() -> None:
    assert decoding_problem() == ""


def test_a_pyav_without_what_is_asked_of_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "ANY_TAGS", {"gone_in_20": "replace"})
    problem = decoding_problem()
    assert "(TypeError: " in problem
    assert "gone_in_20" in problem
    assert f"PyAV {video.av.__version__}, FFmpeg {video.ffmpeg_version()}" in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda pictures: [255 - picture for picture in pictures], r"pixels are up to \d+ of 255 away"),
        (lambda pictures: pictures[::-1], r"pixels are up to 11\d of 255 away"),
        (lambda pictures: [picture[:, :, ::-1] for picture in pictures], r"pixels are up to \d+ of 255 away"),
        (lambda pictures: pictures[:-1], "11 of 12 pictures come back"),
        (lambda pictures: [], "0 of 12 pictures come back"),
    ],
)
def test_other_images_than_those_encoded_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], reason: str
) -> None:
    frames = Video.frames

    def changed(self: Video) -> list[np.ndarray]:
        return list(change(list(frames(self))))

    monkeypatch.setattr(Video, "frames", changed)
    assert re.search(reason, decoding_problem())
