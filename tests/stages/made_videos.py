"""Videos written packet by packet, and what `stages.video` says of one; for its tests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from unialign.cache.errors import CorruptInput
from unialign.stages.video import Video

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
