"""Arrays of an npz file by name: nothing is unpickled, memory is bounded, and large arrays are mapped.

An npz is a zip archive of npy files. `np.savez` stores arrays uncompressed, so a large array is mapped from the file
instead of read; what `np.savez_compressed` writes is decompressed, up to a limit.
"""

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unialign.errors import CorruptInput
from unialign.stages.archives import npy_header

# Skeletons compress to about half, constant padding to next to nothing; a higher ratio is meant to exhaust memory.
MOST_GROWTH, ALWAYS_ALLOWED = 64, 2**28
MAX_ARRAYS = 1000
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def read_npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; those stored uncompressed are read-only and read from disk on use.

    Raises `CorruptInput` naming the file (and the array) if it is not an npz, is damaged, holds Python objects, or
    would decompress to far more than its size.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            found = [each for each in archive.infolist() if each.filename.endswith(".npy")]
            inflated = sum(each.file_size for each in found if each.compress_type != zipfile.ZIP_STORED)
            allowed = max(ALWAYS_ALLOWED, MOST_GROWTH * path.stat().st_size)
            if len(found) > MAX_ARRAYS or inflated > allowed:
                raise CorruptInput(
                    f"{path}: {len(found)} arrays that take {inflated} bytes are more than such a file may hold; save "
                    "it with np.savez, which does not compress."
                )
            return {each.filename.removesuffix(".npy"): _array(path, file, archive, each) for each in found}
    except OSError as error:
        raise CorruptInput(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error) as error:
        raise CorruptInput(f"{path}: is no whole npz file ({error}); save it with np.savez.") from error


def _array(path: Path, file: BinaryIO, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name = member.filename.removesuffix(".npy")
    try:
        with archive.open(member) as part:
            shape, in_columns, kind = npy_header(part)
            offset = part.tell()
            if kind.hasobject:
                raise CorruptInput(
                    f"{path}: the array {name!r} holds Python objects, which are not loaded; make it of one type, for "
                    "texts np.array([...], dtype=str)."
                )
            count = int(np.prod([int(size) for size in shape], dtype=object))
            if min(shape, default=0) < 0 or len(shape) > 8 or count * kind.itemsize != member.file_size - offset:
                raise CorruptInput(f"{path}: the array {name!r} of shape {shape} is cut off or damaged.")
            if member.compress_type != zipfile.ZIP_STORED:
                values = np.frombuffer(part.read(), kind, count)
                return values.reshape(shape, order="F" if in_columns else "C")
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError, zlib.error) as error:
        raise CorruptInput(f"{path}: the array {name!r} cannot be read ({str(error)[:100]}).") from error
    return _mapped(path, file, member, offset, kind, shape, in_columns)


def _mapped(
    path: Path,
    file: BinaryIO,
    member: zipfile.ZipInfo,
    offset: int,
    kind: np.dtype,
    shape: tuple[int, ...],
    columns: bool,
) -> np.ndarray:
    """The array mapped from the file, `offset` bytes into its member."""
    file.seek(member.header_offset)
    mark, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length + offset
    size = kind.itemsize * int(np.prod(shape, dtype=object))
    if mark != b"PK\x03\x04" or start + size > path.stat().st_size:
        raise CorruptInput(f"{path}: the array {member.filename.removesuffix('.npy')!r} is cut off.")
    if not size:
        return np.zeros(shape, kind)
    mapped: np.ndarray = np.memmap(path, kind, "r", start, shape, "F" if columns else "C")
    return mapped.view(np.ndarray)


def texts(path: Path, name: str, values: np.ndarray) -> list[str]:
    """An array of strings as a list; bytes are UTF-8. Raises `CorruptInput` for anything else."""
    if values.dtype.kind not in "US":
        raise CorruptInput(f"{path}: {name!r} is an array of {values.dtype}, not of texts.")
    try:
        return [each.decode() if isinstance(each, bytes) else str(each) for each in values.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise CorruptInput(f"{path}: {name!r} holds bytes that are no UTF-8 text.") from error


def whole_numbers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """An array of whole numbers as int64, even if stored as floats. Raises `CorruptInput` for others."""
    if values.dtype.kind not in "iuf":
        raise CorruptInput(f"{path}: {name!r} is an array of {values.dtype}, not of whole numbers.")
    if values.size and not (np.abs(values.astype(np.float64)) < 2**53).all():
        raise CorruptInput(f"{path}: {name!r} holds numbers that are no counts.")
    whole = values.astype(np.int64)
    if values.dtype.kind == "f" and not (whole == values).all():
        raise CorruptInput(f"{path}: {name!r} holds fractions where whole numbers should be.")
    return whole


def check_shape(path: Path, arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], meaning: str) -> None:
    """Raise `CorruptInput` if an array is present with another shape. meaning: what the numbers are."""
    if name in arrays and arrays[name].shape != shape:
        raise CorruptInput(f"{path}: {name!r} has the shape {arrays[name].shape}, not {shape} ({meaning}).")
