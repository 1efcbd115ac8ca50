"""Cached frames of clips, encoded and decoded; needs neither a video decoder nor torch."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import simplejpeg
from PIL import Image

from unialign.errors import DamagedStore

ENCODINGS = ("jpeg", "rgb24")
# Per image: 8K video.
MAX_PIXELS = 1 << 25


def encode_image(image: np.ndarray, encoding: str, quality: int) -> bytes:
    """One image, RGB uint8 (H, W, 3), as a baseline JPEG with 4:2:0 chroma, or as its raw bytes ("rgb24")."""
    if encoding == "rgb24":
        return np.ascontiguousarray(image).tobytes()
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def checked_size(size: np.ndarray) -> tuple[int, int]:
    """(height, width) of stored images. Raises `DamagedStore` for a size that no stored image can have."""
    height, width = int(size[0]), int(size[1])
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise DamagedStore(f"no stored image has {height} x {width} pixels; extract the frames again.")
    return height, width


def decode_images(
    data: np.ndarray, offset: np.ndarray, size: np.ndarray, encoding: str, which: Sequence[int]
) -> np.ndarray:
    """The images `which` (0-based) of one sample: (n, H, W, 3) uint8.

    data: the bytes of all images, one after the other. offset: (count + 1,) where each begins, and the end.
    size: (height, width). encoding: "jpeg" or "rgb24".

    Raises `IndexError` for an image that the sample does not have, `DamagedStore` if its bytes cannot be decoded.
    """
    height, width = checked_size(size)
    out = np.empty((len(which), height, width, 3), dtype=np.uint8)
    for place, index in enumerate(which):
        if not 0 <= index < len(offset) - 1:
            raise IndexError(f"image {index} of {len(offset) - 1}")
        encoded = data[int(offset[index]) : int(offset[index + 1])]
        decode_into(encoded, encoding, out[place], index)
    return out


def decode_into(encoded: np.ndarray, encoding: str, out: np.ndarray, index: int) -> None:
    """One image of a known size into `out`, (H, W, 3) uint8, contiguous. Releases the GIL while decoding.

    encoded: its bytes. index: its number, for messages. Raises `DamagedStore` if the bytes cannot be decoded.
    """
    height, width, _ = out.shape
    if encoding == "rgb24":
        if encoded.size != out.size:
            raise DamagedStore(
                f"image {index} has {encoded.size} bytes, not {height} x {width} x 3; extract the frames again."
            )
        out[:] = encoded.reshape(out.shape)
        return
    if encoding != "jpeg":
        raise DamagedStore(f"images are stored as {encoding!r}, not one of {', '.join(ENCODINGS)}.")
    try:
        found = simplejpeg.decode_jpeg(encoded, buffer=out)
    except ValueError as error:
        raise DamagedStore(f"image {index} is not a complete JPEG ({error}); extract the frames again.") from error
    if found.shape != out.shape:
        raise DamagedStore(
            f"image {index} is {found.shape[0]} x {found.shape[1]}, not {(height, width)}; extract the frames again."
        )
