"""Cached pictures back to arrays, for training; needs neither a video decoder nor torch."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from unialign.errors import DamagedStore

ENCODINGS = ("jpeg", "rgb24")
# Of one picture: 8K video.
MAX_PIXELS = 1 << 25


def encode_picture(picture: np.ndarray, encoding: str, quality: int) -> bytes:
    """One picture, RGB uint8 (H, W, 3), as a baseline JPEG with 4:2:0 chroma, or as its bare bytes ("rgb24")."""
    if encoding == "rgb24":
        return np.ascontiguousarray(picture).tobytes()
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def decode_pictures(
    pictures: np.ndarray, offset: np.ndarray, size: np.ndarray, encoding: str, which: Sequence[int]
) -> np.ndarray:
    """The pictures `which` (0-based) of one sample: (n, H, W, 3) uint8.

    pictures: all bytes, one picture after the other. offset: (count + 1,) where each begins, and the end.
    size: (height, width). encoding: "jpeg" or "rgb24".

    Raises `IndexError` for a picture that the sample does not have, `DamagedStore` when the bytes are no such picture.
    """
    height, width = int(size[0]), int(size[1])
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise DamagedStore(f"pictures of {height} x {width} pixels are none that are stored; extract them again.")
    out = np.empty((len(which), height, width, 3), dtype=np.uint8)
    for place, index in enumerate(which):
        if not 0 <= index < len(offset) - 1:
            raise IndexError(f"picture {index} of {len(offset) - 1}")
        data = pictures[int(offset[index]) : int(offset[index + 1])]
        if encoding == "rgb24":
            if data.size != out[place].size:
                raise DamagedStore(
                    f"picture {index} has {data.size} bytes, not {height} x {width} x 3; extract it again."
                )
            out[place] = data.reshape(height, width, 3)
        elif encoding == "jpeg":
            out[place] = decode_jpeg(data, (height, width), index)
        else:
            raise DamagedStore(f"pictures are stored as {encoding!r}, not one of {', '.join(ENCODINGS)}.")
    return out


def decode_jpeg(data: np.ndarray, size: tuple[int, int], index: int) -> np.ndarray:
    """One JPEG of a known (height, width) as RGB uint8 (H, W, 3). Raises `DamagedStore`."""
    try:
        with Image.open(BytesIO(data.tobytes()), formats=("JPEG",)) as image:
            if (image.height, image.width) != size:
                raise DamagedStore(f"picture {index} is {image.height} x {image.width}, not {size}; extract it again.")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise DamagedStore(f"picture {index} is not a whole JPEG ({error}); extract it again.") from error
