"""Evenly spaced, resized frames of a clip, for a trained video backbone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import numpy as np
from PIL import Image, features

from unialign.cache.arrays import ArraySpec
from unialign.errors import UsageError
from unialign.stages.extraction.ahead import decoders, in_order
from unialign.stages.extraction.base import Outcome, Source, source_digest
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.images import ENCODINGS, encode_image
from unialign.stages.video import decoder_version
from unialign.stages.video_decoders import PYAV, check_decoder, decoder_key, load_decoder
from unialign.types import Json

# The longer side is stored with at most this multiple of the short side: 2.39 is the widest film format. Images of
# people cropped from a frame are taller; they are stored smaller, so that every clip fits into the same number of
# bytes.
WIDEST = 2.4
# Images whose shorter side would be smaller are rejected: a strip shows no person.
NARROWEST = 16
# Resized images held while a clip is decoded, per image kept.
CANDIDATES = 32
# JPEG at quality 95 took at most 0.49 of the raw bytes on noise and checkerboards, and 640 bytes of header per image.
JPEG_SHARE, JPEG_HEADER, BEST_QUALITY = 0.5, 1024, 95


def stored_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the shorter side at `short_side` and the other rounded to the nearest pixel.

    If that exceeds `WIDEST` times `short_side`, the longer side is this and the shorter one follows.
    """
    edge, wanted = min(height, width), short_side
    longest = int(short_side * WIDEST)
    if scaled(max(height, width), short_side, edge) > longest:
        edge, wanted = max(height, width), longest
    return scaled(height, wanted, edge), scaled(width, wanted, edge)


def scaled(length: int, to: int, of: int) -> int:
    """length x to / of, rounded to the nearest integer, halves up."""
    return (2 * length * to + of) // (2 * of)


def kept_indices(total: int, num_frames: int) -> list[int]:
    """Which frames of a clip of `total` are kept: all of a short one, else the middle ones of `num_frames` equal parts.

    Frame i is floor((2 i + 1) total / (2 num_frames)), rounded down to a multiple of the `stride` of a clip of this
    length, which is 1 up to `CANDIDATES * num_frames` frames. So the choice depends on `total` and `num_frames` alone.
    """
    if total <= num_frames:
        return list(range(total))
    stride = candidate_stride(total, num_frames)
    return [(2 * i + 1) * total // (2 * num_frames) // stride * stride for i in range(num_frames)]


def candidate_stride(total: int, num_frames: int) -> int:
    """The smallest power of two such that a clip of `total` frames has at most `CANDIDATES * num_frames` multiples."""
    stride = 1
    while -(-total // stride) > CANDIDATES * num_frames:
        stride *= 2
    return stride


def sampled(pictures: Iterator[np.ndarray], num_frames: int, short_side: int) -> tuple[list[int], list[np.ndarray]]:
    """Indices and resized images (h, w, 3) of the frames to keep, in one pass and with bounded memory.

    The exact length of a clip is known only at its end, so candidates are held, and thinned when there are too many.
    """
    held: list[tuple[int, np.ndarray]] = []
    stride = 1
    total = 0
    for index, image in enumerate(pictures):
        total = index + 1
        if index % stride:
            continue
        height, width = stored_size(image.shape[0], image.shape[1], short_side)
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        held.append((index, np.asarray(small)))
        if candidate_stride(total, num_frames) > stride:
            stride *= 2
            held = [one for one in held if one[0] % stride == 0]
    by_index = dict(held)
    indices = kept_indices(total, num_frames)
    return indices, [by_index[index] for index in indices]


@dataclass(frozen=True)
class Frames:
    """Extractor of `frames`.

    short_side: pixels of the shorter side of a stored image, but see `stored_size`.
    num_frames: images kept per clip, see `kept_indices`.
    encoding: "jpeg" (with `quality`, 1 to 95) or "rgb24" (raw bytes, about ten times the size).
    decoder: of the videos, see `stages.video_decoders`; its versions are part of the key unless it is PyAV.
    """

    short_side: int = 256
    num_frames: int = 32
    encoding: str = "jpeg"
    quality: int = 90
    decoder: str = PYAV

    modality = "frames"
    name = "frames"

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise UsageError(f"frames cannot be stored as {self.encoding!r}; take one of {', '.join(ENCODINGS)}.")
        check_decoder(self.decoder)
        if not 1 <= self.quality <= BEST_QUALITY:
            raise UsageError(f"JPEG quality {self.quality} is not between 1 and {BEST_QUALITY}; take 90.")
        if self.short_side < 16 or self.num_frames < 1:
            raise UsageError(
                f"short side {self.short_side} is below 16 or the number of frames {self.num_frames} below 1."
            )

    @property
    def longest_side(self) -> int:
        """Maximum length of the longer side of a stored image, in pixels."""
        return int(self.short_side * WIDEST)

    @property
    def max_bytes(self) -> int:
        """Maximum size of the images of one clip, in bytes."""
        bare = self.short_side * self.longest_side * 3
        one = bare if self.encoding == "rgb24" else int(bare * JPEG_SHARE) + JPEG_HEADER
        return self.num_frames * one

    def key(self) -> Mapping[str, Json]:
        """What affects the bytes; see `Extractor.key`."""
        parameters: dict[str, Json] = {"short_side": self.short_side, "num_frames": self.num_frames}
        libraries = {"pillow": version("pillow")}
        if self.encoding == "jpeg":
            parameters["quality"] = self.quality
            libraries["libjpeg"] = str(features.version("libjpeg_turbo") or features.version("jpg"))
        return {
            "extractor": self.name,
            "revision": 1,
            "parameters": {"encoding": self.encoding, **parameters},
            "decoder": decoder_key(decoder_version(), self.decoder),
            "libraries": libraries,
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """`pictures` (bytes), `offset`, `frame_index`, `size`, `source_size` and `fps`."""
        axes = {"axes": ["height", "width"], "units": "pixel"}
        encoding = {"encoding": self.encoding, "colours": "RGB"}
        return (
            ArraySpec("pictures", "uint8", (self.max_bytes,), ("byte",), ragged=True, chunk=32768, attributes=encoding),
            ArraySpec(
                "offset", "int64", (self.num_frames + 1,), ("boundary",), ragged=True, attributes={"units": "byte"}
            ),
            ArraySpec(
                "frame_index",
                "int32",
                (self.num_frames,),
                ("frame",),
                ragged=True,
                attributes={"meaning": "place of the picture in the clip, from 0"},
            ),
            ArraySpec("size", "int32", (2,), ("axis",), attributes=axes),
            ArraySpec("source_size", "int32", (2,), ("axis",), attributes=axes),
            ArraySpec("fps", "float32", (), (), attributes={"units": "source frames per second, NaN where not stated"}),
        )

    def attributes(self) -> Mapping[str, Json]:
        """Nothing: images keep the license of their clips."""
        return {}

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        return source_digest(source)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """See `run_on`, with a decoder of its own."""
        return self.run_on(sources, partial(SourceVideo, decoder=self.decoder))

    def run_on(self, sources: Sequence[Source], open_clip: Callable[[Source], SourceVideo]) -> Iterator[Outcome]:
        """One outcome per source, in order; several clips are decoded at a time, a thread each.

        Statuses: "ok" and those of `Video.frames`.
        """
        load_decoder(self.decoder)
        return in_order(lambda source: self.outcome(open_clip(source)), sources, decoders())

    def outcome(self, video: SourceVideo) -> Outcome:
        """The images of one clip."""
        indices, pictures = sampled(self.narrow_frames(video), self.num_frames, self.short_side)
        if video.failure is not None:
            return video.failure
        encoded = [encode_image(image, self.encoding, self.quality) for image in pictures]
        arrays: dict[str, np.ndarray] = {
            "pictures": np.frombuffer(b"".join(encoded), dtype=np.uint8),
            "offset": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
            "frame_index": np.array(indices, dtype=np.int32),
            "size": np.array(pictures[0].shape[:2], dtype=np.int32),
            "source_size": np.array(video.video.size, dtype=np.int32),
            "fps": np.array(video.video.fps, dtype=np.float32),
        }
        return video.outcome(arrays, {"kept": len(indices)})

    def narrow_frames(self, video: SourceVideo) -> Iterator[np.ndarray]:
        """The frames of a clip, or none if they are too narrow to be stored."""
        for image in video.frames():
            if min(stored_size(image.shape[0], image.shape[1], self.short_side)) < NARROWEST:
                shape = f"{image.shape[1]} x {image.shape[0]}"
                video.fail("unreadable", f"pictures of {shape} would be stored with a side below {NARROWEST} pixels")
                return
            yield image
