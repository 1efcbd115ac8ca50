"""Reading and writing of video clips; the only module that imports PyAV.

A decoder says little about damage: of a clip cut in half many just give the first half. So every clip is judged by
what its container promised (see `Video.frames`). Tried with 25 cuts and 25 runs of 400 zeroed bytes for each container
(90-frame clips, PyAV 18.1):

- found: every cut of an avi, mkv, webm, mp4 and mov but for the last 2 % or 3 frames of mkv and webm (an mp4 or mov
  without its index cannot be opened at all); every zeroed stretch in MPEG-4 part 2 and nearly all in MPEG-2.
- not found: a cut mpegts that ends between two pictures (half of them), now and then such an mpeg or wmv: these promise
  no length that survives the cut. Zeroed bytes inside a picture that decode to wrong colours without an error: one
  stretch in ten of h264 and hevc with small pictures, four in ten with large ones, one in three of vp9 and wmv.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from unialign.cache import atomic
from unialign.cache.errors import CorruptInput

LARGEST_SIDE = 8192
# libavformat's own names. Not here: concat, hls, dash and image2, which open other files or addresses.
CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi", "matroska,webm", "mpeg", "mpegts", "asf")
# Same bytes on every processor: the flags forbid rounding that depends on the vector instructions at hand.
CONVERSION = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# Tags need not be UTF-8: PyAV refused such a file until it was told otherwise; since 19 it needs no telling.
ANY_TAGS = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
# The same for x264: its fastest instructions round differently, and those of AVX-512 read memory that nobody wrote.
ENCODER = {"threads": "1", "x264-params": "cpu-independent=1"}
# An MPEG-4 part 2 packet this small says "the same picture again" and gives no frame.
LARGEST_REPEAT = 8


def decoder_version() -> dict[str, str]:
    """Versions that may change decoded bytes: PyAV and FFmpeg's decoders and pixel conversion."""
    versions = {name: ".".join(map(str, av.library_versions[name])) for name in ("libavcodec", "libswscale")}
    return {"av": str(av.__version__), **versions}


def ffmpeg_version() -> str:
    """Version of the FFmpeg that PyAV brings."""
    return str(av.ffmpeg_version_info)


def decode_frames(path: Path) -> Iterator[np.ndarray]:
    """Every frame of a clip, see `Video.frames`."""
    return Video(path).frames()


class Video:
    """One clip, decoded once from start to end; its counts are filled in on the way and hold after a failure too.

    decoded: pictures the decoder gave.
    declared: pictures the container promises (its count, or duration x average rate); None when it promises nothing.
    corrupt: pictures or packets that FFmpeg marks as damaged.
    size: (height, width) as shown, after rotation; (0, 0) before the first frame.
    fps: average frames per second; NaN when the container does not say.
    reason: why the clip was refused, without its path; "" while all is well.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.decoded = 0
        self.declared: int | None = None
        self.corrupt = 0
        self.size = (0, 0)
        self.fps = float("nan")
        self.reason = ""

    def frames(self) -> Iterator[np.ndarray]:
        """Frames in display order as RGB uint8 (H, W, 3), upright (rotations by 90 degrees in the file are applied).

        One decoder thread, so that damage is met in the same order everywhere. Frames that an edit list hides are
        left out, as players do.

        Raises `CorruptInput`, some of it only after the last frame, so use nothing before the end. Its status:
        "missing-file"; "unreadable" (no video, a container that is not one of `CONTAINERS`, a decoder error, a picture
        above 8192 x 8192, a size that changes on the way); "truncated" (fewer frames than declared; for a container
        that only states a duration: it ends more than 3 frames and 2 % early, or lacks as many at a constant rate);
        "corrupt-frames" (a picture marked as damaged: no frame is given from there on).
        """
        if not self.path.exists():
            raise self._failure("no such file", "missing-file")
        if not self.path.is_file():
            raise self._failure("is not a file")
        with self._opened() as container:
            stream = container.streams.best("video")
            if stream is None:
                raise self._failure("holds no video stream")
            tally = Tally(container, stream)
            self.declared, self.fps = tally.declared, tally.rate or float("nan")
            context = stream.codec_context
            self._check_size(context.height, context.width)
            context.thread_count = 1
            context.options = {"max_pixels": str(LARGEST_SIDE**2)}
            yield from self._decoded(container, stream, tally)
        self._judge(tally)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
        try:
            # An open file instead of its name: a name could be read as an address of a protocol.
            with (
                self.path.open("rb") as file,
                av.open(file, container_options=options, **ANY_TAGS) as it,
            ):
                if it.format.name not in CONTAINERS:
                    raise self._failure(f"{it.format.name} files are not read")
                yield it
        except (av.FFmpegError, OSError) as error:
            text = error.strerror or type(error).__name__
            if self.declared is None and not self.decoded:
                text = f"cannot be opened as mov/mp4, avi, mkv/webm, mpeg, mpegts or asf/wmv ({text})"
            else:
                text = f"the decoder gave up after {self.decoded} of {self.declared} frames ({text})"
            raise self._failure(text) from error

    def _decoded(self, container: Any, stream: Any, tally: "Tally") -> Iterator[np.ndarray]:
        reformatter = VideoReformatter()
        for packet in container.demux():
            tally.count(packet)
            if packet.stream_index != stream.index:
                continue
            self.corrupt += bool(packet.is_corrupt and packet.size)
            for frame in packet.decode():
                self.decoded += 1
                self.corrupt += bool(frame.is_corrupt)
                self._check_size(frame.height, frame.width)
                if not self.corrupt:
                    converted = reformatter.reformat(frame, format="rgb24", interpolation=CONVERSION, threads=1)
                    yield self._upright(converted.to_ndarray(), frame.rotation)

    def _upright(self, picture: np.ndarray, rotation: int) -> np.ndarray:
        if rotation % 90 == 0:
            picture = np.rot90(picture, rotation // 90)
        size = (picture.shape[0], picture.shape[1])
        if self.size not in ((0, 0), size):
            raise self._failure(f"the picture size changes from {self.size} to {size} at frame {self.decoded - 1}")
        self.size = size
        return np.ascontiguousarray(picture)

    def _check_size(self, height: int, width: int) -> None:
        if max(height, width) > LARGEST_SIDE:
            raise self._failure(
                f"a picture of {width} x {height} is above the limit of {LARGEST_SIDE} x {LARGEST_SIDE}"
            )

    def _judge(self, tally: "Tally") -> None:
        if tally.is_short(self.decoded):
            raise self._failure(f"ends after {self.decoded} of {self.declared} declared frames", "truncated")
        if self.corrupt:
            raise self._failure(f"{self.corrupt} damaged pictures among {self.decoded}", "corrupt-frames")
        if not self.decoded:
            raise self._failure("holds no frame that can be decoded")

    def _failure(self, reason: str, status: str = "unreadable") -> CorruptInput:
        self.reason = reason
        return CorruptInput(f"{self.path}: {reason}; replace the file or leave the sample out.", status)


class Tally:
    """What a container promised and what its packets brought, to tell whether the end is missing.

    Two kinds of promise. mp4 and avi state the number of frames; what they hide on purpose is subtracted: frames before
    an edit list's start, avi entries without data and MPEG-4 packets that repeat the picture before. The others state
    a duration, which all streams together must reach; where the video's rate is constant, so must its frame count.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.stream, self.is_avi = stream, container.format.name == "avi"
        self.is_mpeg4 = stream.codec_context.name in ("mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3")
        self.rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.tick = float(stream.time_base)
        self.is_exact = stream.frames > 0
        self.start = (container.start_time or 0) / av.time_base
        self.duration = (container.duration or 0) / av.time_base
        seconds = float(stream.duration * stream.time_base) if stream.duration else self.duration
        self.declared = stream.frames or round(seconds * self.rate) or None
        self.end = 0.0
        self.hidden = 0
        self.tiny = 0
        self.times: list[int] = []
        self.stamps: list[int] = []

    def count(self, packet: Any) -> None:
        """Take note of one packet of any stream."""
        stamp = packet.dts if packet.pts is None else packet.pts
        if not packet.size or stamp is None:
            return
        self.end = max(self.end, float((stamp + (packet.duration or 0)) * packet.time_base) - self.start)
        if packet.stream_index == self.stream.index:
            self.hidden += packet.is_discard
            self.tiny += self.is_mpeg4 and packet.size <= LARGEST_REPEAT
            self.times.append(stamp)
            self.stamps.append(stamp if packet.dts is None else packet.dts)

    def is_short(self, decoded: int) -> bool:
        """Whether frames are missing that the container promised."""
        if self.declared is None:
            return False
        if self.is_exact:
            repeated = min(self.tiny, max(0, len(self.stamps) - decoded))
            if self.is_avi and self.stamps:
                repeated += max(0, self.stamps[-1] + 1 - len(self.stamps))
            return decoded < self.declared - self.hidden - repeated
        tolerance = max(3, 0.02 * self.declared)
        if (self.duration - self.end) * self.rate > tolerance:
            return True
        return self.has_constant_rate() and decoded < self.declared - self.hidden - tolerance

    def has_constant_rate(self) -> bool:
        """Whether nine in ten frames follow each other at the average rate: then the rest are holes, not a habit."""
        times = sorted(self.times)
        steps = [later - earlier for earlier, later in itertools.pairwise(times)]
        if not steps or not self.rate:
            return False
        wanted = 1 / (self.rate * self.tick)
        # Times are whole ticks (milliseconds in mkv), so a step may be one off.
        usual = sum(abs(step - wanted) <= max(1.0, 0.1 * wanted) for step in steps)
        return usual >= 0.9 * len(steps)


def encode_clip(path: Path, frames: Iterable[np.ndarray], fps: int, crf: int = 23) -> None:
    """Write frames, RGB uint8 (H, W, 3) with even H and W, as an H.264 mp4 (yuv420p), whole or not at all.

    The same frames give the same bytes with the same PyAV, on every processor. Raises `ValueError` for no frames, odd
    sides, or frames of several sizes.
    """
    temporary = atomic.temporary_name(path)
    try:
        write_clip(temporary, frames, fps, {"crf": str(crf), **ENCODER})
    except BaseException:
        atomic.remove(temporary)
        raise
    atomic.replace(temporary, path)


def write_clip(path: Path, frames: Iterable[np.ndarray], fps: int, options: Mapping[str, str]) -> None:
    """Encode frames into the mp4 `path`; see `encode_clip`, which puts it in place."""
    size: tuple[int, ...] = ()
    reformatter = VideoReformatter()
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=dict(options))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in frames:
            if not size:
                size = picture.shape
                stream.height, stream.width = size[:2]
            if picture.shape != size or size[0] % 2 or size[1] % 2:
                raise ValueError(f"frames of a clip need one even size; got {picture.shape} in a clip of {size}")
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            converted = reformatter.reformat(frame, format="yuv420p", interpolation=CONVERSION, threads=1)
            container.mux(stream.encode(converted))
        if not size:
            raise ValueError("a clip needs at least one frame")
        container.mux(stream.encode())


__all__ = ["Video", "decode_frames", "decoder_version", "encode_clip", "ffmpeg_version"]
