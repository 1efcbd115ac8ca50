"""Cached frames of clips, encoded and decoded; needs neither a video decoder nor torch."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

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


def decode_images(
    data: np.ndarray, offset: np.ndarray, size: np.ndarray, encoding: str, which: Sequence[int]
) -> np.ndarray:
    """The images `which` (0-based) of one sample: (n, H, W, 3) uint8.

    data: the bytes of all images, one after the other. offset: (count + 1,) where each begins, and the end.
    size: (height, width). encoding: "jpeg" or "rgb24".

    Raises `IndexError` for an image that the sample does not have, `DamagedStore` when its bytes cannot be decoded.
    """
    height, width = int(size[0]), int(size[1])
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise DamagedStore(f"no stored image has {height} x {width} pixels; extract the frames again.")
    out = np.empty((len(which), height, width, 3), dtype=np.uint8)
    for place, index in enumerate(which):
        if not 0 <= index < len(offset) - 1:
            raise IndexError(f"image {index} of {len(offset) - 1}")
        encoded = data[int(offset[index]) : int(offset[index + 1])]
        if encoding == "rgb24":
            if encoded.size != out[place].size:
                raise DamagedStore(
                    f"image {index} has {encoded.size} bytes, not {height} x {width} x 3; extract the frames again."
                )
            out[place] = encoded.reshape(height, width, 3)
        elif encoding == "jpeg":
            out[place] = decode_jpeg(encoded, (height, width), index)
        else:
            raise DamagedStore(f"images are stored as {encoding!r}, not one of {', '.join(ENCODINGS)}.")
    return out


def decode_jpeg(data: np.ndarray, size: tuple[int, int], index: int) -> np.ndarray:
    """One JPEG of a known (height, width) as RGB uint8 (H, W, 3). Raises `DamagedStore`."""
    try:
        with Image.open(BytesIO(data.tobytes()), formats=("JPEG",)) as image:
            if (image.height, image.width) != size:
                raise DamagedStore(
                    f"image {index} is {image.height} x {image.width}, not {size}; extract the frames again."
                )
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise DamagedStore(f"image {index} is not a complete JPEG ({error}); extract the frames again.") from error
