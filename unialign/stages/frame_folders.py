"""Clips as folders of numbered images, read as a video is, but without times."""

import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from unialign.cache.bounded import read_plain
from unialign.errors import CorruptInput
from unialign.stages.frame_files import frame_files, unusable
from unialign.stages.remote_files import RemotePath, local_file
from unialign.stages.video import MAX_PIXELS, MAX_SIDE, Video
from unialign.stages.video_decoders import PYAV

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
# The largest image is that of a video.
MAX_BYTES = 2**27


def opened_clip(
    path: Path, span: tuple[Fraction, Fraction] | None = None, decoder: str = PYAV
) -> "Video | FrameFolder":
    """The clip at a path: a video file, here or remote, or a folder of images. decoder: see `Video`."""
    if isinstance(path, RemotePath):
        return RemoteVideo(path, span, decoder)
    return FrameFolder(path, span) if path.is_dir() else Video(path, span, decoder)


class RemoteVideo(Video):
    """A video that is fetched when its frames are asked for, and kept until the last one."""

    def frames(self) -> Iterator[np.ndarray]:
        """See `Video.frames`. Raises also what `remote_files.held` raises."""
        pointer = self.path
        try:
            with local_file(pointer) as self.path:
                yield from super().frames()
        except CorruptInput as error:
            self.reason = self.reason or ("no such file" if error.status == "missing-file" else str(error))
            raise
        finally:
            self.path = pointer


class FrameFolder:
    """One clip of images, decoded once from start to end; its attributes are those of `Video`.

    span: (start, end) as numbers of images counted from 0, since images have no times; end is not included.
    """

    def __init__(self, path: Path, span: tuple[Fraction, Fraction] | None = None) -> None:
        self.path = path
        self.span = span
        self.decoded = 0
        self.declared: int | None = None
        self.corrupt = 0
        self.size = (0, 0)
        self.pixel_aspect = Fraction(1)
        self.fps = float("nan")
        self.reason = ""

    def frames(self) -> Iterator[np.ndarray]:
        """The images in order as RGB uint8 (H, W, 3), as they are stored: orientation tags are not applied.

        Raises `CorruptInput` as `frame_files` does; for an image that cannot be decoded ("corrupt-frames"), is too
        large, or differs from the first in size ("unreadable"); and for a span beyond the last image ("truncated").
        """
        try:
            files: Sequence[Path] = frame_files(self.path)
            if self.span is not None:
                start, end = (int(-(-each // 1)) for each in self.span)
                if end > len(files):
                    why = f"has {len(files)} images, but the sample ends at image {end}"
                    raise unusable(self.path, why, "truncated")
                files = files[start:end]
            self.declared = len(files)
            for path in files:
                yield self._image(path)
        except CorruptInput as error:
            self.reason = str(error).removeprefix(f"{self.path}: ").partition(";")[0]
            raise

    def _image(self, path: Path) -> np.ndarray:
        try:
            with (
                warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
                Image.open(BytesIO(read_plain(path, MAX_BYTES)), formats=_FORMATS) as image,
            ):
                width, height = image.size
                if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
                    raise unusable(self.path, f"{path.name} has {width} x {height} pixels, more than a video may")
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.corrupt += 1
            # Pillow's own sentence holds the address of an object, which differs from run to run.
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "it is no image of a format that is read" if unknown else str(error)[:80]
            why = f"{path.name} cannot be decoded ({reason})"
            raise unusable(self.path, why, "corrupt-frames") from error
        self.decoded += 1
        size = (pixels.shape[0], pixels.shape[1])
        if self.size not in ((0, 0), size):
            raise unusable(self.path, f"the picture size changes from {self.size} to {size} at {path.name}")
        self.size = size
        return pixels
