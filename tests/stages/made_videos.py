"""Videos written packet by packet, and what `stages.video` says of one; for its tests."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from unialign.errors import CorruptInput
from unialign.stages.video import Video

NUM_FRAMES = 90


def moving_frames(num_frames: int = NUM_FRAMES, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """A textured square that wanders over noise, so that every image costs some hundred bytes."""
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


def write_video(
    path: Path, container: str, codec: str, pictures: Sequence[np.ndarray], rate: int = 30, colours: str = "yuv420p"
) -> Path:
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = colours
        stream.codec_context.thread_count = 1
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return path


class Pipe:
    """A file that can be written from front to end only, so that no muxer comes back to fill its header in."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self.file.write(data)

    def close(self) -> None:
        self.file.close()


def write_streams(
    path: Path,
    container: str,
    video: str,
    *,
    num_frames: int = 60,
    sound: str = "",
    seconds: float = 2.0,
    sound_first: bool = False,
    piped: bool = False,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    **tags: str,
) -> Path:
    """A clip at 30 frames per second, with sound of so many seconds if a codec is given."""
    target: Any = Pipe(path) if piped else str(path)
    with av.open(target, "w", format=container, options=options or {}) as out:
        audio = out.add_stream(sound, rate=48000, layout="mono") if sound and sound_first else None
        stream = out.add_stream(video, rate=30)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.metadata.update(tags)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if sound and audio is None:
            audio = out.add_stream(sound, rate=48000, layout="mono")
        if audio is not None:
            audio.codec_context.bit_rate = 64000
        for picture in moving_frames(num_frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
        if audio is not None:
            out.mux(encoded_silence(audio, seconds))
    if piped:
        target.close()
    return path


def encoded_silence(stream: Any, seconds: float) -> list[Any]:
    context = stream.codec_context
    context.open(strict=False)
    size, packets = context.frame_size or 1024, []
    for number in range(round(seconds * 48000 / size)):
        frame = av.AudioFrame(format=context.format.name, layout="mono", samples=size)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * size, Fraction(1, 48000)
        packets += stream.encode(frame)
    return [*packets, *stream.encode()]


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
