"""Reading and writing of video clips; the only module that imports PyAV.

Decoders report little about damage: given a clip cut in half, many simply return the first half. So every clip is
checked against what its container declared (`video_truncation.Tally`) and against its own structure
(`video_structure.is_cut`). Tested with 25 cuts and 25 runs of 400 zeroed bytes per container (PyAV 18.1 and 19.0):

- detected: every cut of an avi, mkv, webm, flv, mp4, mov, mxf, wmv, ogv, ts, gif and ivf, except within the last 2 % or
  3 frames of those that state a duration (an mp4 or mov without its index cannot be opened at all); every zeroed
  stretch in MPEG-4 part 2 and nearly all in MPEG-2.
- not detected: a truncated transport stream that ends on a packet boundary (one in 188), occasionally an mpeg that ends
  between two frames, and a truncated raw stream (dv, mjpeg, y4m, occasionally h264): these declare no length that
  survives the cut. Zeroed bytes inside a frame that decode to wrong colors without an error: one stretch in ten of h264
  and hevc with small frames, four in ten with large ones, one in three of vp9 and wmv.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from unialign.cache import atomic
from unialign.cache.digests import other_than_file
from unialign.errors import CorruptInput
from unialign.stages.video_containers import CONTAINERS
from unialign.stages.video_decoders import PYAV, torchcodec_frames
from unialign.stages.video_structure import is_cut
from unialign.stages.video_truncation import Tally

MAX_SIDE = 8192
# 8K in 16:9. A frame takes 4 bytes per pixel and more while it is converted, and a small file can hold many of them.
MAX_PIXELS = 8192 * 4608
# Same bytes on every processor: the flags rule out rounding that depends on the available vector instructions.
CONVERSION = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# Tags need not be UTF-8: before version 19, PyAV rejects such a file unless told how to handle it.
OLD_PYAV = int(av.__version__.partition(".")[0]) < 19
ANY_TAGS = {"metadata_errors": "replace"} if OLD_PYAV else {}
# Same for x264: its fastest instructions round differently, and its AVX-512 code reads uninitialized memory.
ENCODER = {"threads": "1", "x264-params": "cpu-independent=1"}
# Pixels this close to square count as square: 854 x 480 stands for 16:9 with pixels of 1280:1281.
SQUARE = 0.01
# Clips that every decoder shows alike, up to rounding, if they are upright, with square pixels and nothing hidden.
# Not avi: it states no times of presentation, and torchcodec loses the last frames of one with B frames.
PLAIN_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv", "mpegts")
PLAIN_CODECS, PLAIN_FORMAT = ("h264", "hevc", "vp9", "av1"), "yuv420p"
# BT.709, not stated, BT.470 and BT.601 with 625 and 525 lines; not stated and 16 to 235.
PLAIN_COLORS, PLAIN_RANGES = (1, 2, 5, 6), (0, 1)
# Tolerance in seconds by which a span may end after the video: annotations are rounded.
OVERSHOOT = 1
# The first entries of a display matrix: (a, b, c, d).
Matrix = tuple[float, float, float, float]
# In units of a display matrix.
UPRIGHT: Matrix = (1 << 16, 0, 0, 1 << 16)


def _unnamed(cls: Any, value: int) -> Any:
    """An enum member for a type of side data that PyAV has no name for."""
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


if OLD_PYAV:
    # Before 19, PyAV lists none of a frame's side data if FFmpeg reports a type unknown to it, such as EXIF.
    SideDataType._missing_ = classmethod(_unnamed)  # type: ignore[method-assign, assignment]


def decoder_version() -> dict[str, str]:
    """Versions that may affect decoded bytes: PyAV, and FFmpeg's decoders and pixel conversion."""
    versions = {name: ".".join(map(str, av.library_versions[name])) for name in ("libavcodec", "libswscale")}
    return {"av": str(av.__version__), **versions}


def ffmpeg_version() -> str:
    """Version of the FFmpeg bundled with PyAV."""
    return str(av.ffmpeg_version_info)


def decode_frames(path: Path) -> Iterator[np.ndarray]:
    """Every frame of a clip, see `Video.frames`."""
    return Video(path).frames()


class Video:
    """One clip, decoded once from start to end. The counts are updated while decoding and stay valid after a failure.

    decoded: frames returned by the decoder.
    declared: frames that the container declares (its count, or duration x rate); None if it declares nothing.
    corrupt: frames or packets that FFmpeg marks as damaged.
    size: (height, width) as shown: upright, with square pixels; (0, 0) before the first frame.
    pixel_aspect: width of a coded pixel over its height, such as Fraction(4, 3); 1 for square pixels.
    fps: average frames per second; NaN if not in the container.
    span: (start, end) in seconds from the first frame: only frames that begin in it are returned. None: all frames.
    reason: why the clip was rejected, without its path; "" if it was not.
    decoder: of `video_decoders.DECODERS`; it decodes clips that all of them show alike, PyAV the others.
    """

    def __init__(self, path: Path, span: tuple[Fraction, Fraction] | None = None, decoder: str = PYAV) -> None:
        self.path = path
        self.span = span
        self.decoder = decoder
        self.decoded = 0
        self.declared: int | None = None
        self.corrupt = 0
        self.size = (0, 0)
        self.pixel_aspect = Fraction(1)
        self.fps = float("nan")
        self.reason = ""
        self._matrix: Matrix = (1, 0, 0, 1)

    def frames(self) -> Iterator[np.ndarray]:
        """Frames in display order as RGB uint8 (H, W, 3), as a player shows them.

        If a file has several video streams, the default one is used, else the largest; cover art does not count. Frames
        are rotated and mirrored as the file specifies, to the nearest quarter turn. If pixels are not square (by more
        than 1 %), the shorter side of a pixel is stretched: 720 x 576 with pixels of 64:45 becomes 1024 x 576. Frames
        that an edit list hides are left out. There is one decoder thread, so that damage is detected in the same order
        everywhere.

        Raises `CorruptInput`, in some cases only after the last frame, so use nothing before the end. Its status:
        "missing-file"; "unreadable" (no video, a container that is not in `CONTAINERS`, a decoder error, a frame of
        more than 37.7 megapixels, a frame size that changes); "truncated" (see `Tally.missing`);
        "corrupt-frames" (a frame marked as damaged; no frame is returned from there on).
        """
        if not self.path.exists():
            raise self._failure("no such file", "missing-file")
        if kind := other_than_file(self.path):
            raise self._failure(f"is {kind}, not a file")
        with self._opened() as container:
            stream = self._stream(container)
            tally = Tally(container, stream)
            self.declared, self.fps = tally.declared, tally.rate or float("nan")
            self._learn_aspect(stream)
            context = stream.codec_context
            self._check_size(context.height, context.width)
            context.thread_count = 1
            # Otherwise cropping on the left is skipped if its width is not a multiple of the processor's register size.
            context.flags |= Flags.unaligned
            context.options = {"max_pixels": str(MAX_PIXELS)}
            if self.span is not None:
                self.declared = None
                yield from self._within(container, stream, *self.span)
                return
            if self.decoder != PYAV and self._is_plain(container, stream):
                yield from self._by_torchcodec(container, stream, tally)
            else:
                yield from self._decoded(container, stream, tally)
            tally.finish(stream)
        self._judge(tally)

    def _is_empty(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size == 0

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
        try:
            # An open file instead of its name: FFmpeg could take a name for the URL of a protocol.
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
                text = "the file is empty" if self._is_empty() else f"cannot be opened as a video ({text})"
            else:
                text = f"the decoder gave up after {self.decoded} of {self.declared or 'unknown'} frames ({text})"
            raise self._failure(text) from error

    def _stream(self, container: Any) -> Any:
        """The video stream that a player shows."""
        stills = Disposition.attached_pic | Disposition.timed_thumbnails
        streams = [one for one in container.streams.video if not one.disposition & stills]
        if not streams:
            raise self._failure("holds no video stream")
        streams = [one for one in streams if one.codec_context is not None]
        if not streams:
            raise self._failure("holds video of a kind that FFmpeg has no decoder for")

        def rank(stream: Any) -> tuple[bool, int]:
            context = stream.codec_context
            return bool(stream.disposition & Disposition.default), context.height * context.width

        return max(streams, key=rank)

    def _learn_aspect(self, stream: Any) -> None:
        stated = stream.sample_aspect_ratio
        aspect = Fraction(stated.numerator, stated.denominator) if stated else Fraction(1)
        if abs(aspect - 1) >= SQUARE:
            self.pixel_aspect = aspect

    def _decoded(self, container: Any, stream: Any, tally: "Tally") -> Iterator[np.ndarray]:
        reformatter = VideoReformatter()
        for packet in packets(container, tally.streams):
            tally.count(packet, is_ours=packet.stream is stream)
            # Empty packets hold no frame, and the decoder takes one for the end of the stream.
            if packet.stream is stream and packet.size:
                self.corrupt += bool(packet.is_corrupt)
                yield from self._images(stream.decode(packet), reformatter)
        yield from self._images(stream.decode(None), reformatter)

    def _is_plain(self, container: Any, stream: Any) -> bool:
        """Whether every decoder shows the clip alike up to rounding; decodes one frame, and reads the file."""
        context = stream.codec_context
        colors = (int(context.colorspace), int(context.color_range))
        if (
            container.format.name not in PLAIN_CONTAINERS
            or context.codec.canonical_name not in PLAIN_CODECS
            or context.pix_fmt != PLAIN_FORMAT
            or colors[0] not in PLAIN_COLORS
            or colors[1] not in PLAIN_RANGES
            or self.pixel_aspect != 1
        ):
            return False
        with self._opened() as other:
            first = None
            for packet in packets(other, [other.streams[stream.index]]):
                if packet.is_discard:
                    return False
                if first is None and packet.size:
                    first = next(iter(packet.stream.decode(packet)), None)
            return first is not None and display_matrix(first) in (None, UPRIGHT)

    def _by_torchcodec(self, container: Any, stream: Any, tally: "Tally") -> Iterator[np.ndarray]:
        """The frames by another decoder; packets are counted as for PyAV, so that missing ones are found."""
        for packet in packets(container, tally.streams):
            tally.count(packet, is_ours=packet.stream is stream)
            self.corrupt += bool(packet.stream is stream and packet.size and packet.is_corrupt)
        if self.corrupt:
            raise self._failure(f"{self.corrupt} damaged packets", "corrupt-frames")
        try:
            for image in torchcodec_frames(self.path, stream.index, self.decoder):
                self.decoded += 1
                self._check_size(image.shape[0], image.shape[1])
                yield self._of_one_size(image)
        except RuntimeError as error:
            if "CUDA" in str(error):  # nothing that this clip has done
                raise
            why = " ".join(str(error).split())[:80]
            raise self._failure(f"torchcodec gave up after {self.decoded} frames ({why})") from error

    def _within(self, container: Any, stream: Any, start: Fraction, end: Fraction) -> Iterator[np.ndarray]:
        """The frames whose time is in [start, end), decoded from the keyframe before `start` on."""
        reformatter = VideoReformatter()
        zero = Fraction(stream.start_time or 0) * stream.time_base
        wanted = int((zero + start) / stream.time_base)
        last = Fraction(-1)
        # Some containers seek by decoding time and end up too late; then the file is read from the beginning.
        for seek in (wanted, None):
            container.seek(stream.start_time or 0 if seek is None else seek, stream=stream, backward=True)
            for frame in self._timed(container, stream):
                time = frame.pts * stream.time_base - zero
                if seek is not None and last < 0 and time > start:
                    break
                last = time
                if time >= end:
                    break
                if time >= start:
                    yield from self._images([frame], reformatter)
            if last >= 0:
                break
        if self.corrupt:
            raise self._failure(f"{self.corrupt} damaged pictures among {self.decoded}", "corrupt-frames")
        if last < end - OVERSHOOT:
            why = f"ends at {float(last):.2f} s, before {float(end):g} s, where the sample does"
            raise self._failure(why, "truncated")
        if not self.decoded:
            raise self._failure(f"shows no frame from {float(start):g} to {float(end):g} s")

    def _timed(self, container: Any, stream: Any) -> Iterator[Any]:
        """Every frame from here on, as decoded; each has a time."""
        for packet in packets(container, [stream]):
            if packet.size:
                yield from self._with_times(stream.decode(packet))
        yield from self._with_times(stream.decode(None))

    def _with_times(self, frames: Iterable[Any]) -> Iterator[Any]:
        for frame in frames:
            if frame.pts is None:
                raise self._failure("has frames without a time, so no part of it can be told")
            yield frame

    def _images(self, frames: Iterable[Any], reformatter: VideoReformatter) -> Iterator[np.ndarray]:
        for frame in frames:
            self.decoded += 1
            self.corrupt += bool(frame.is_corrupt)
            height, width = square_size(frame.height, frame.width, self.pixel_aspect)
            self._check_size(height, width)
            if not self.corrupt:
                converted = reformatter.reformat(
                    frame, width, height, format="rgb24", interpolation=CONVERSION, threads=1
                )
                yield self._upright(converted.to_ndarray(), frame)

    def _upright(self, image: np.ndarray, frame: Any) -> np.ndarray:
        # An H.264 stream may state it once for all following frames.
        self._matrix = display_matrix(frame) or self._matrix
        return self._of_one_size(turned(image, self._matrix))

    def _of_one_size(self, image: np.ndarray) -> np.ndarray:
        size = (image.shape[0], image.shape[1])
        if self.size not in ((0, 0), size):
            raise self._failure(f"the picture size changes from {self.size} to {size} at frame {self.decoded - 1}")
        self.size = size
        return np.ascontiguousarray(image)

    def _check_size(self, height: int, width: int) -> None:
        if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
            raise self._failure(
                f"frames of {width} x {height} are above the limit of {MAX_SIDE} pixels per side and "
                f"{MAX_PIXELS / 1e6:.1f} megapixels"
            )

    def _judge(self, tally: "Tally") -> None:
        missing = tally.missing(self.decoded)
        self.declared = tally.declared
        if not missing and tally.is_open:
            with self.path.open("rb") as file:
                missing = "ends before its container does" if is_cut(file, tally.kind) else ""
        if missing:
            raise self._failure(missing, "truncated")
        if self.corrupt:
            raise self._failure(f"{self.corrupt} damaged pictures among {self.decoded}", "corrupt-frames")
        if not self.decoded:
            raise self._failure("holds no frame that can be decoded")

    def _failure(self, reason: str, status: str = "unreadable") -> CorruptInput:
        self.reason = reason
        return CorruptInput(f"{self.path}: {reason}; replace the file or leave the sample out.", status)


def packets(container: Any, streams: Sequence[Any]) -> Iterator[Any]:
    """All packets of some streams, in file order; PyAV adds an empty one per stream at the end."""
    with contextlib.suppress(IndexError):
        # At the end, PyAV 18 looks up streams that appeared during demuxing and that it has not listed; 19 does not.
        yield from container.demux(*streams)


def square_size(height: int, width: int, pixel_aspect: Fraction) -> tuple[int, int]:
    """(height, width) of a frame after its pixels are made square: the shorter side of a pixel is stretched."""
    if pixel_aspect == 1:
        return height, width
    if pixel_aspect > 1:
        return height, round(width * pixel_aspect)
    return round(height / pixel_aspect), width


def display_matrix(frame: Any) -> Matrix | None:
    """How a frame is displayed: coded (x, y) goes to (a x + c y, b x + d y), y pointing down; None if not stated."""
    # Not `frame.side_data`: frame and container would refer to each other, and a decoded image of each frame would stay
    # in memory until the garbage collector finds them.
    data = SideDataContainer(frame).get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-arg]
    if data is None:
        return None
    a, b, _, c, d = np.frombuffer(data, dtype=np.int32)[:5].tolist()
    return a, b, c, d


def turned(image: np.ndarray, matrix: Matrix) -> np.ndarray:
    """A view of the image in one of its eight orientations, the nearest to the matrix."""
    a, b, c, d = matrix
    down, right = d, a
    if abs(b) + abs(c) > abs(a) + abs(d):
        image = image.swapaxes(0, 1)
        down, right = b, c
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]


def encode_clip(path: Path, frames: Iterable[np.ndarray], fps: int, crf: int = 23) -> None:
    """Write frames, RGB uint8 (H, W, 3) with even H and W, as an H.264 mp4 (yuv420p), completely or not at all.

    The same frames give the same bytes with the same PyAV, on every processor. Raises `ValueError` for no frames, odd
    sides, or frames of different sizes.
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
        for image in frames:
            if not size:
                size = image.shape
                stream.height, stream.width = size[:2]
            if image.shape != size or size[0] % 2 or size[1] % 2:
                raise ValueError(f"frames of a clip need one even size; got {image.shape} in a clip of {size}")
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            converted = reformatter.reformat(frame, format="yuv420p", interpolation=CONVERSION, threads=1)
            container.mux(stream.encode(converted))
        if not size:
            raise ValueError("a clip needs at least one frame")
        container.mux(stream.encode())


__all__ = ["Video", "decode_frames", "decoder_version", "encode_clip", "ffmpeg_version"]
