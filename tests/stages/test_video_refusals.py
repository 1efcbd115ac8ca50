"""Files that `stages.video` does not decode: no video, playlists, images, sound, too large, of changing size."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.stages.made_videos import moving_frames, status, write_video


def test_files_that_are_no_video(tmp_path: Path) -> None:
    assert status(tmp_path / "absent.mp4")[0] == "missing-file"
    assert status(tmp_path)[0] == "unreadable"
    for name, data in {"empty.mp4": b"", "text.mp4": b"hello " * 100, "zeros.avi": bytes(5000)}.items():
        (tmp_path / name).write_bytes(data)
        assert status(tmp_path / name)[0] == "unreadable"


def test_playlists_under_a_video_name_are_rejected(clips: dict[str, Path], tmp_path: Path) -> None:
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


def test_an_image_file_and_a_sound_file_are_rejected(tmp_path: Path) -> None:
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


def test_a_small_file_of_huge_images_costs_little(tmp_path: Path) -> None:
    path, picture = tmp_path / "bomb.avi", np.zeros((8000, 8000, 3), np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 8000, 8000, "rgb24"
        (packet,) = stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        data = bytes(packet)
        for number in range(100):
            again = av.Packet(data)
            again.stream, again.pts, again.dts, again.time_base = stream, number, number, Fraction(1, 10)
            out.mux(again)
    assert path.stat().st_size < 2**25
    found, video = status(path)
    assert (found, video.decoded) == ("unreadable", 0)
    assert "frames of 8000 x 8000 are above the limit of 8192 pixels per side and 37.7 megapixels" in video.reason


def test_tags_in_another_encoding_do_not_matter(clips: dict[str, Path], tmp_path: Path) -> None:
    for name in ("clip.avi", "clip.mp4"):
        with av.open(str(clips[name])) as read, av.open(str(tmp_path / name), "w") as out:
            out.metadata["title"] = "Saint-Tropez"
            copy = out.add_stream_from_template(read.streams.video[0])
            for packet in read.demux(video=0):
                if packet.dts is not None:
                    packet.stream = copy
                    out.mux(packet)
        data = (tmp_path / name).read_bytes()
        assert data.count(b"Saint-Tropez") == 1
        (tmp_path / name).write_bytes(data.replace(b"Saint-Tropez", "Béjaïa, 2019".encode("latin-1")))
        assert status(tmp_path / name)[0] == "ok"


def test_images_above_the_limit_are_rejected(tmp_path: Path) -> None:
    path = write_video(tmp_path / "wide.mp4", "mp4", "libx264", [np.zeros((16, 8208, 3), dtype=np.uint8)])
    found, video = status(path)
    assert found == "unreadable"
    assert "8208 x 16" in video.reason


def test_a_size_that_changes_is_rejected(tmp_path: Path) -> None:
    first = write_video(tmp_path / "a.mpg", "mpeg", "mpeg2video", moving_frames(20))
    second = write_video(tmp_path / "b.mpg", "mpeg", "mpeg2video", moving_frames(20, 64, 64))
    (tmp_path / "both.mpg").write_bytes(first.read_bytes() + second.read_bytes())
    found, video = status(tmp_path / "both.mpg")
    assert found == "unreadable"
    assert "size changes" in video.reason
