"""What lies beside the images of a file changes nothing: sound, subtitles, data, cover art, empty headers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest
from av.stream import Disposition

from tests.stages.made_videos import moving_frames, status, write_streams


@pytest.mark.parametrize(
    ("container", "video", "sound"),
    [
        ("matroska", "libx264", "aac"),
        ("webm", "libvpx", "libopus"),
        ("asf", "wmv2", "wmav2"),
        ("flv", "libx264", "aac"),
        ("mp4", "libx264", "aac"),
        ("mov", "libx264", "pcm_s16le"),
        ("avi", "mpeg4", "mp2"),
        ("mpegts", "libx264", "aac"),
        ("mpeg", "mpeg2video", "mp2"),
        ("ogg", "libvpx", "libopus"),
    ],
)
@pytest.mark.parametrize("seconds", [0.5, 5.0])
@pytest.mark.parametrize("sound_first", [False, True])
def test_sound_of_any_length_and_place_loses_no_frame(
    tmp_path: Path, container: str, video: str, sound: str, seconds: float, sound_first: bool
) -> None:
    path = write_streams(tmp_path / "clip", container, video, sound=sound, seconds=seconds, sound_first=sound_first)
    found, seen = status(path)
    assert (found, seen.decoded) == ("ok", 60), seen.reason
    assert seen.declared is None or abs(seen.declared - 60) <= 3


def test_a_timecode_track_is_not_decoded(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "t.mov", "mov", "libx264", sound="aac", seconds=2, timecode="01:00:00:00")
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio", "data"]
    assert (status(path)[0], status(path)[1].decoded) == ("ok", 60)


def test_subtitles_that_go_on_after_the_images_are_no_loss(tmp_path: Path) -> None:
    plain = write_streams(tmp_path / "plain.mkv", "matroska", "libx264")
    lines = tmp_path / "lines.srt"
    lines.write_text("1\n00:00:00,500 --> 00:00:01,000\nhello\n\n2\n00:00:05,000 --> 00:00:09,000\nend\n")
    path = tmp_path / "subtitles.mkv"
    with av.open(str(plain)) as pictures, av.open(str(lines)) as texts, av.open(str(path), "w") as out:
        sources = (pictures.streams.video[0], texts.streams.subtitles[0])
        copies = [out.add_stream_from_template(source) for source in sources]
        for container, source, copy in zip((pictures, texts), sources, copies, strict=True):
            for packet in container.demux(source):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    found, video = status(path)
    assert (found, video.decoded, video.declared) == ("ok", 60, 60)


@pytest.mark.parametrize("only", [True, False])
def test_cover_art_is_no_video(tmp_path: Path, only: bool) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=48000, layout="mono")
        streams = [] if only else [out.add_stream("libx264", rate=30)]
        cover = out.add_stream("mjpeg", rate=30)
        cover.disposition = Disposition.attached_pic
        for stream, size, kind in zip([*streams, cover], [(96, 128), (600, 600)][only:], ["yuv420p", "yuvj420p"][only:],
                                      strict=True):  # fmt: skip
            stream.height, stream.width, stream.pix_fmt = *size, kind
        large = av.VideoFrame.from_ndarray(moving_frames(1, 600, 600)[0], format="rgb24").reformat(format="yuvj420p")
        packets = [*cover.encode(large), *cover.encode()]
        for stream in streams:
            for picture in moving_frames(30):
                packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
            packets += stream.encode()
        for packet in [*packets, *encoded(sound)]:
            out.mux(packet)
    found, video = status(path)
    if only:
        assert (found, video.reason) == ("unreadable", "holds no video stream")
    else:
        assert (found, video.decoded, video.size) == ("ok", 30, (96, 128))


def encoded(sound: Any) -> list[Any]:
    from tests.stages.made_videos import encoded_silence

    return encoded_silence(sound, 1.0)


@pytest.mark.parametrize("default", [None, 0, 1])
def test_of_two_videos_the_default_one_is_taken_else_the_largest(tmp_path: Path, default: int | None) -> None:
    path, sizes = tmp_path / "two.mkv", [(48, 64), (96, 128), (64, 64)]
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("mpeg4", rate=30) for _ in sizes]
        for number, (stream, size) in enumerate(zip(streams, sizes, strict=True)):
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            stream.disposition = Disposition.default if number == default else Disposition(0)
            if default is None:
                stream.disposition = Disposition.dub
        for stream, size in zip(streams, sizes, strict=True):
            for picture in moving_frames(10, *size):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(stream.encode())
    found, video = status(path)
    assert (found, video.decoded, video.size) == ("ok", 10, sizes[1 if default is None else default])


@pytest.mark.parametrize(
    ("container", "video", "sound"),
    [
        ("avi", "mpeg4", ""),
        ("avi", "mpeg4", "mp2"),
        ("matroska", "libx264", ""),
        ("matroska", "libx264", "pcm_s16le"),
        ("webm", "libvpx", ""),
        ("flv", "libx264", ""),
        ("flv", "flv1", "aac"),
        ("asf", "wmv2", ""),
        ("ivf", "libvpx", ""),
        ("nut", "mpeg4", ""),
        ("mxf", "mpeg2video", ""),
    ],
)
def test_a_header_that_was_never_filled_in_promises_nothing(
    tmp_path: Path, container: str, video: str, sound: str
) -> None:
    path = write_streams(tmp_path / "clip", container, video, sound=sound, seconds=5, piped=True)
    found, seen = status(path)
    assert (found, seen.decoded) == ("ok", 60), seen.reason
    assert seen.declared is None or seen.declared <= 60


def test_fragments_are_counted_and_one_that_is_missing_is_told(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov", "g": "15"}
    path = write_streams(tmp_path / "f.mp4", "mp4", "libx264", sound="aac", seconds=4, piped=True, options=options)
    found, video = status(path)
    assert (found, video.decoded, video.declared) == ("ok", 60, 60)
    data, cut = path.read_bytes(), tmp_path / "cut.mp4"
    for share in (0.3, 0.5, 0.7, 0.9):
        cut.write_bytes(data[: int(len(data) * share)])
        found, video = status(cut)
        assert found != "ok" or video.decoded == 60, share


SEVERAL = """
import sys
from pathlib import Path
from tests.stages.made_videos import status
for path in sorted(Path(sys.argv[1]).iterdir()):
    found, video = status(path)
    print(path.name, found, video.decoded, video.declared, video.reason)
"""


def test_verdicts_do_not_depend_on_memory_that_nobody_wrote(clips: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, path in clips.items():
        data = path.read_bytes()
        (folder / name).write_bytes(data)
        (folder / f"cut.{name}").write_bytes(data[: len(data) * 3 // 4])
    write_streams(folder / "sound.flv", "flv", "flv1", sound="aac", seconds=4, sound_first=True)
    write_streams(folder / "sound.ts", "mpegts", "libx264", sound="aac", seconds=4, sound_first=True)
    data = (folder / "sound.flv").read_bytes()
    (folder / "cut.sound.flv").write_bytes(data[:1500])
    said = set()
    for filling in ("0", "1", "170"):
        environment = {**os.environ, "MALLOC_PERTURB_": filling}
        done = subprocess.run(
            [sys.executable, "-c", SEVERAL, str(folder)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said.add(done.stdout)
    assert len(said) == 1
    assert said.pop().count(" ok ") >= len(clips)
