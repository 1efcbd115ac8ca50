"""Every container that is listed is read, and a cut one does not pass for a whole one."""

from pathlib import Path

import av
import pytest
from PIL import Image

from tests.stages.made_videos import NUM_FRAMES, moving_frames, status, write_video
from unialign.stages.video_containers import CONTAINERS, VIDEO_SUFFIXES

# Suffix: (FFmpeg's name of the muxer, codec). What PyAV's FFmpeg cannot write is not here: rm, dav, mj2, dv.
WRITTEN = {
    ".mp4": ("mp4", "libx264"),
    ".mov": ("mov", "mjpeg"),
    ".3gp": ("3gp", "mpeg4"),
    ".f4v": ("f4v", "libx264"),
    ".avi": ("avi", "mjpeg"),
    ".mkv": ("matroska", "ffv1"),
    ".webm": ("webm", "libvpx-vp9"),
    ".mpg": ("mpeg", "mpeg1video"),
    ".vob": ("vob", "mpeg2video"),
    ".ts": ("mpegts", "libx264"),
    ".m2ts": ("mpegts", "libx265"),
    ".wmv": ("asf", "wmv1"),
    ".flv": ("flv", "flv1"),
    ".ogv": ("ogg", "libvpx"),
    ".mxf": ("mxf", "mpeg2video"),
    ".nut": ("nut", "mpeg4"),
    ".gif": ("gif", "gif"),
    ".apng": ("apng", "apng"),
    ".ivf": ("ivf", "libvpx"),
    ".mjpeg": ("mjpeg", "mjpeg"),
    ".m2v": ("mpeg2video", "mpeg2video"),
    ".m1v": ("mpeg1video", "mpeg1video"),
    ".h264": ("h264", "libx264"),
    ".hevc": ("hevc", "libx265"),
    ".y4m": ("yuv4mpegpipe", "wrapped_avframe"),
    ".wtv": ("wtv", "mpeg2video"),
}
COLOURS = {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}
# Bare images one after the other: the end of a cut file looks like the end of a whole one.
WITHOUT_END = {
    ".y4m",
    ".mjpeg",
    ".m2v",
    ".m1v",
    ".h264",
    ".hevc",
    ".mpg",
    ".vob",
    ".nut",
    ".apng",
    ".wtv",
}


@pytest.mark.parametrize("suffix", WRITTEN)
def test_every_container_is_read_and_its_cuts_are_told(tmp_path: Path, suffix: str) -> None:
    container, codec = WRITTEN[suffix]
    path = tmp_path / f"clip{suffix}"
    write_video(path, container, codec, moving_frames(), colours=COLOURS.get(codec, "yuv420p"))
    found, video = status(path)
    assert (found, video.decoded, video.size) == ("ok", NUM_FRAMES, (96, 128)), video.reason
    assert suffix in VIDEO_SUFFIXES
    data = path.read_bytes()
    for share in (0.1, 0.37, 0.64, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        found, video = status(path)
        assert found != "ok" or video.decoded >= NUM_FRAMES - 3 or suffix in WITHOUT_END, share


def test_containers_are_those_of_the_decoder_and_suffixes_are_told_apart() -> None:
    assert set(CONTAINERS) <= av.formats_available
    assert not set(CONTAINERS) & {
        "concat",
        "hls",
        "dash",
        "imf",
        "sdp",
        "rtsp",
        "image2",
        "png_pipe",
        "webm_dash_manifest",
    }
    listed = [suffix for suffixes in CONTAINERS.values() for suffix in suffixes]
    assert len(listed) == len(set(listed)) == len(VIDEO_SUFFIXES)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in listed)


def test_a_gif_without_its_last_byte_and_an_ogg_without_its_last_page_are_cut(tmp_path: Path) -> None:
    # An image that is meant to stay is no hole.
    stays = tmp_path / "stays.gif"
    first, *others = (Image.fromarray(picture) for picture in moving_frames(60))
    first.save(stays, save_all=True, append_images=others, duration=[100] * 30 + [5000] + [100] * 29)
    found, video = status(stays)
    assert (found, video.decoded) == ("ok", 60)
    stays.write_bytes(stays.read_bytes() + b"what some programs leave behind")
    assert status(stays)[0] == "ok"
    for suffix, kind, colours, cut in ((".gif", ("gif", "gif"), "rgb8", 1), (".ogv", ("ogg", "libvpx"), "yuv420p", 40)):
        path = write_video(tmp_path / f"clip{suffix}", *kind, moving_frames(30), colours=colours)
        assert status(path)[0] == "ok"
        path.write_bytes(path.read_bytes()[:-cut])
        found, video = status(path)
        assert (found, video.reason) == ("truncated", "ends before its container does")
