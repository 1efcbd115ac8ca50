"""What `stages.video` finds in damaged files, on clips made here and on real ones: no frame is lost in silence."""

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stages.made_videos import NUM_FRAMES, status
from unialign.stages.video import Video, decoder_version


@pytest.mark.parametrize("name", ["clip.avi", "clip.mkv", "clip.webm", "clip.mp4", "clip.ts", "clip.mpg", "clip.wmv"])
def test_whole_clips_of_every_container_are_ok(clips: dict[str, Path], name: str) -> None:
    found, video = status(clips[name])
    assert (found, video.decoded, video.size, video.corrupt) == ("ok", NUM_FRAMES, (96, 128), 0)
    assert video.fps == pytest.approx(30)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(("name", "wanted"), [("clip.avi", "truncated"), ("clip.mkv", "truncated"),
                                              ("clip.webm", "truncated"), ("clip.mp4", "unreadable")])  # fmt: skip
def test_cut_clips_are_found(clips: dict[str, Path], tmp_path: Path, name: str, wanted: str, share: float) -> None:
    data = clips[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    found, video = status(path)
    assert found == wanted
    assert video.decoded < NUM_FRAMES
    if wanted == "truncated":
        assert video.declared == NUM_FRAMES


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    found, video = status(tmp_path / "clip.mp4")
    assert (found, video.reason) == ("unreadable", "the file is empty")


@given(share=st.floats(0.02, 0.97))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ["clip.avi", "clip.mkv", "clip.webm", "clip.mp4"])
def test_no_cut_loses_frames_silently(clips: dict[str, Path], tmp_path: Path, name: str, share: float) -> None:
    data = clips[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    found, video = status(path)
    assert found != "ok" or video.decoded >= NUM_FRAMES - 3


# Of h264 7 to 14 are found: where in an image a stretch falls moves with the length of the name that x264 writes.
@pytest.mark.parametrize(("name", "fewest"), [("clip.avi", 18), ("clip.mkv", 5), ("clip.mp4", 5), ("clip.mpg", 18)])
def test_most_zeroed_stretches_are_found(clips: dict[str, Path], tmp_path: Path, name: str, fewest: int) -> None:
    data = clips[name].read_bytes()
    path = tmp_path / name
    found = []
    for start in np.linspace(0.1, 0.9, 20) * len(data):
        path.write_bytes(data[: int(start)] + bytes(400) + data[int(start) + 400 :])
        found.append(status(path)[0])
    assert 20 - found.count("ok") >= fewest, found


def test_damage_is_the_same_each_time(clips: dict[str, Path], tmp_path: Path) -> None:
    data = clips["clip.avi"].read_bytes()
    path = tmp_path / "clip.avi"
    path.write_bytes(data[: len(data) // 2] + bytes(400) + data[len(data) // 2 + 400 :])
    results = [status(path) for _ in range(3)]
    assert len({(found, video.decoded, video.corrupt, video.reason) for found, video in results}) == 1
    assert results[0][0] in {"corrupt-frames", "truncated"}


def test_real_clips_are_ok(shared_data: Path) -> None:
    everything = sorted(path for path in (shared_data / "videos").rglob("*") if path.suffix in {".mp4", ".avi"})
    odd = [path for path in everything if path.parent.name == "odd"]
    assert len(odd) == 3
    for path in [*odd, *everything[::60]]:
        found, video = status(path)
        assert (found, video.decoded) == ("ok", video.declared), path.name
    assert Video(odd[0]).path.suffix == ".avi"


def test_a_frame_that_is_dropped_is_freed_at_once(clips: dict[str, Path]) -> None:
    """Not by the garbage collector, before which a decoded image of each frame would stay in memory."""
    frames = Video(clips["clip.mp4"]).frames()
    next(frames)
    gc.collect()
    gc.disable()
    try:
        assert sum(1 for _ in frames) == NUM_FRAMES - 1
        left = [each for each in gc.get_objects() if type(each).__name__ == "VideoFrame"]
    finally:
        gc.enable()
    assert left == []


def test_decoder_version_names_the_libraries() -> None:
    assert set(decoder_version()) == {"av", "libavcodec", "libswscale"}
    assert all(value[0].isdigit() for value in decoder_version().values())
