"""What `stages.video` finds in damaged and odd files, on clips made here and on real ones."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unialign.cache.errors import CorruptInput
from unialign.stages.video import Video, decode_frames, decoder_version, encode_clip

NUM_FRAMES = 90


def moving_frames(num_frames: int = NUM_FRAMES, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """A textured square that wanders over noise, so that every picture costs some hundred bytes."""
    rng = np.random.default_rng(7)
    ground = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    square = rng.integers(0, 256, (height // 3, height // 3, 3), dtype=np.uint8)
    pictures = []
    for index in range(num_frames):
        picture = np.roll(ground, index // 2, axis=1)
        top, left = (3 * index) % (height - len(square)), (5 * index) % (width - len(square))
        picture[top : top + len(square), left : left + len(square)] = square
        pictures.append(picture)
    return pictures


def write_video(path: Path, container: str, codec: str, pictures: Sequence[np.ndarray], rate: int = 30) -> Path:
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return path


def remux(source: Path, path: Path, change: Callable[[int, Any], Any], **options: Any) -> Path:
    """Copy packets without decoding; `change` gets each packet's number and gives it back, another, or None."""
    with av.open(str(source)) as read, av.open(str(path), "w", **options) as out:
        stream = read.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for number, packet in enumerate(read.demux(stream)):
            changed = None if packet.dts is None else change(number, packet)
            if changed is not None:
                changed.stream = copy
                out.mux(changed)
    return path


def status(path: Path) -> tuple[str, Video]:
    video = Video(path)
    try:
        for picture in video.frames():
            assert picture.dtype == np.uint8
            assert picture.shape == (*video.size, 3)
    except CorruptInput as raised:
        error = raised
    else:
        assert not video.reason
        return "ok", video
    assert str(path) in str(error)
    assert video.reason
    assert str(path) not in video.reason
    return error.status, video


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, pictures = tmp_path_factory.mktemp("clips"), moving_frames()
    kinds = {
        "clip.avi": ("avi", "mpeg4"),
        "clip.mkv": ("matroska", "libx264"),
        "clip.webm": ("webm", "libvpx"),
        "clip.mp4": ("mp4", "libx264"),
        "clip.ts": ("mpegts", "mpeg2video"),
        "clip.mpg": ("mpeg", "mpeg2video"),
        "clip.wmv": ("asf", "wmv2"),
    }
    return {name: write_video(folder / name, *kind, pictures) for name, kind in kinds.items()}


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


@given(share=st.floats(0.02, 0.97))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ["clip.avi", "clip.mkv", "clip.webm", "clip.mp4"])
def test_no_cut_loses_frames_silently(clips: dict[str, Path], tmp_path: Path, name: str, share: float) -> None:
    data = clips[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    found, video = status(path)
    assert found != "ok" or video.decoded >= NUM_FRAMES - 3


@pytest.mark.parametrize(("name", "fewest"), [("clip.avi", 18), ("clip.mkv", 10), ("clip.mp4", 10), ("clip.mpg", 18)])
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


def test_files_that_are_no_video(tmp_path: Path) -> None:
    assert status(tmp_path / "absent.mp4")[0] == "missing-file"
    assert status(tmp_path)[0] == "unreadable"
    for name, data in {"empty.mp4": b"", "text.mp4": b"hello " * 100, "zeros.avi": bytes(5000)}.items():
        (tmp_path / name).write_bytes(data)
        assert status(tmp_path / name)[0] == "unreadable"


def test_playlists_under_a_video_name_are_refused(clips: dict[str, Path], tmp_path: Path) -> None:
    target = clips["clip.mp4"]
    (tmp_path / "target.mp4").write_bytes(target.read_bytes())
    texts = {
        "concat.mp4": "ffconcat version 1.0\nfile 'target.mp4'\n",
        "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\ntarget.mp4\n#EXT-X-ENDLIST\n",
        "network.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        found, video = status(tmp_path / name)
        assert (found, video.decoded) == ("unreadable", 0), name


def test_a_picture_file_and_a_sound_file_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(moving_frames(1)[0]).save(tmp_path / "picture.png")
    assert status(tmp_path / "picture.png")[0] == "unreadable"
    with av.open(str(tmp_path / "sound.mkv"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    found, video = status(tmp_path / "sound.mkv")
    assert (found, video.reason) == ("unreadable", "holds no video stream")


def test_pictures_above_the_limit_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "wide.mp4", "mp4", "libx264", [np.zeros((16, 8208, 3), dtype=np.uint8)])
    found, video = status(path)
    assert found == "unreadable"
    assert "8208 x 16" in video.reason


def test_a_size_that_changes_is_refused(tmp_path: Path) -> None:
    first = write_video(tmp_path / "a.mpg", "mpeg", "mpeg2video", moving_frames(20))
    second = write_video(tmp_path / "b.mpg", "mpeg", "mpeg2video", moving_frames(20, 64, 64))
    (tmp_path / "both.mpg").write_bytes(first.read_bytes() + second.read_bytes())
    found, video = status(tmp_path / "both.mpg")
    assert found == "unreadable"
    assert "size changes" in video.reason


def test_frames_hidden_by_an_edit_list_are_not_missed(clips: dict[str, Path], tmp_path: Path) -> None:
    def earlier(_: int, packet: Any) -> Any:
        shift = round(10 / 30 / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return packet

    path = remux(clips["clip.mp4"], tmp_path / "edit.mp4", earlier, container_options={"avoid_negative_ts": "disabled"})
    found, video = status(path)
    assert found == "ok"
    assert video.decoded == NUM_FRAMES - 10


def test_repeated_pictures_of_an_avi_are_not_missed(clips: dict[str, Path], tmp_path: Path) -> None:
    dropped = remux(
        clips["clip.avi"], tmp_path / "dropped.avi", lambda number, packet: None if 60 <= number < 64 else packet
    )
    found, video = status(dropped)
    assert (found, video.decoded, video.declared) == ("ok", NUM_FRAMES - 4, NUM_FRAMES)

    def not_coded(number: int, packet: Any) -> Any:
        if number not in (30, 31, 50):
            return packet
        # An MPEG-4 P picture whose `vop_coded` bit is 0.
        again = av.Packet(bytes.fromhex("000001b650cf"))
        again.pts, again.dts, again.time_base, again.duration = (
            packet.pts,
            packet.dts,
            packet.time_base,
            packet.duration,
        )
        return again

    found, video = status(remux(clips["clip.avi"], tmp_path / "again.avi", not_coded))
    assert (found, video.decoded, video.declared) == ("ok", NUM_FRAMES - 3, NUM_FRAMES)


def test_fragmented_mp4_is_ok(clips: dict[str, Path], tmp_path: Path) -> None:
    path = remux(
        clips["clip.mp4"],
        tmp_path / "f.mp4",
        lambda _, packet: packet,
        options={"movflags": "frag_keyframe+empty_moov"},
    )
    found, video = status(path)
    assert (found, video.decoded) == ("ok", NUM_FRAMES)


def write_timed(path: Path, times: Sequence[int]) -> Path:
    """One frame for each time, in thirtieths of a second, in a container that states a rate of 30 and no count."""
    with av.open(str(path), "w", format="matroska") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for time, picture in zip(times, moving_frames(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def test_a_hole_in_a_constant_rate_is_found(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "hole.mkv", [*range(40), *range(50, 90)])
    found, video = status(path)
    assert (found, video.decoded, video.declared) == ("truncated", 80, 90)


def test_a_variable_rate_without_a_frame_count_is_ok(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "variable.mkv", [number + 2 * (number // 3) for number in range(60)])
    found, video = status(path)
    assert (found, video.decoded) == ("ok", 60)
    assert video.declared is not None
    assert video.declared > 90


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation_is_applied(clips: dict[str, Path], tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    data = clips["clip.mp4"].read_bytes()
    place = data.find(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :])
    upright, turned = next(decode_frames(clips["clip.mp4"])), next(decode_frames(path))
    np.testing.assert_array_equal(turned, np.rot90(upright, turns))
    assert turned.flags.c_contiguous


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


def test_decoder_version_names_the_libraries() -> None:
    assert set(decoder_version()) == {"av", "libavcodec", "libswscale"}
    assert all(value[0].isdigit() for value in decoder_version().values())


def test_real_clips_are_ok(shared_data: Path) -> None:
    everything = sorted(path for path in (shared_data / "videos").rglob("*") if path.suffix in {".mp4", ".avi"})
    odd = [path for path in everything if path.parent.name == "odd"]
    assert len(odd) == 3
    for path in [*odd, *everything[::60]]:
        found, video = status(path)
        assert (found, video.decoded) == ("ok", video.declared), path.name
    assert Video(odd[0]).path.suffix == ".avi"
