"""Reading arrays of numbers and strings from a MATLAB file (level 5, MATLAB 5 to 7.2).

scipy's reader crashes the process (segmentation fault) on some damaged files, which an extraction must survive; so this
reader supports what skeleton datasets need and rejects the rest.

The file: 128 bytes of header, then elements of a type, a size and data padded to 8 bytes. A variable is an element of
type 14 that contains four others: flags, sizes of the axes, name and values; often zlib-compressed as a whole (type
15).

Source: MathWorks, MAT-File Level 5 File Format.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unialign.errors import CorruptInput

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: np.float64, 7: np.float32}  # of the array in MATLAB; values may be stored as a smaller type
_TEXT = 4
_UTF = {16: "u1", 17: "u2"}  # strings: for UTF-8 only ASCII is read
_WHOLE = {
    8: np.int8,
    9: np.uint8,
    10: np.int16,
    11: np.uint16,
    12: np.int32,
    13: np.uint32,
    14: np.int64,
    15: np.uint64,
}
_COMPLEX = 0x08
_HEADER, _NAMES = 128, 1024


def read_mat_array(path: Path, name: str, max_values: int) -> NDArray[Any]:
    """The variable of that name, a real float32 or float64 array as it was in MATLAB, of at most `max_values` numbers.

    Raises `CorruptInput` naming the file if it cannot be read, is larger than such an array can make it, is damaged, or
    has no such variable.
    """
    found = _variables(path, {name: max_values}, frozenset(_CLASSES))
    if name not in found:
        raise CorruptInput(f"{path}: holds no array {name} of real numbers.")
    return found[name]


def read_mat_arrays(path: Path, names: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """The variables of these names, each a real array of any type with at most this many numbers; strings as codes.

    Raises `CorruptInput` as `read_mat_array` does, also if one of the variables is missing.
    """
    found = _variables(path, names, frozenset({*_CLASSES, *_WHOLE, _TEXT}))
    for name in names:
        if name not in found:
            raise CorruptInput(f"{path}: holds no array {name} of numbers.")
    return found


def _variables(path: Path, names: Mapping[str, int], classes: frozenset[int]) -> dict[str, NDArray[Any]]:
    limit = 8 * sum(names.values()) + _NAMES
    try:
        if path.stat().st_size > 2 * limit:
            raise CorruptInput(f"{path}: larger than {2 * limit} bytes; this is no skeleton file.")
        data = path.read_bytes()
    except OSError as error:
        raise CorruptInput(f"{path}: cannot be read ({error.strerror}).") from error
    orders = {b"IM": "<", b"MI": ">"}
    if len(data) < _HEADER or data[126:128] not in orders:
        raise CorruptInput(f"{path}: is no MATLAB file of level 5; save it with -v6 or -v7.")
    order = orders[data[126:128]]
    found: dict[str, NDArray[Any]] = {}
    try:
        for kind, content in _elements(data, _HEADER, order):
            matrix: bytes | None = content if kind == _MATRIX else None
            if kind == _COMPRESSED:
                matrix = _inflated(content, order, limit)
            if matrix is not None:
                found |= _array(matrix, names, order, classes)
            if len(found) == len(names):
                break
    except (ValueError, zlib.error) as error:
        raise CorruptInput(f"{path}: is damaged ({error}); fetch the file again.") from error
    return found


def _elements(data: bytes, start: int, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and data of the elements from `start` on. Raises ValueError if one extends past the end of the data."""
    while start < len(data):
        if len(data) - start < 8:
            raise ValueError("an element is cut off")
        kind, size = (int(number) for number in np.frombuffer(data, f"{order}u4", 2, start))
        first = start + 8
        if kind >> 16:  # up to four bytes of data are stored in the size field
            kind, size, first = kind & 0xFFFF, kind >> 16, start + 4
            if size > 4:
                raise ValueError("a small element is too large")
        if first + size > len(data):
            raise ValueError("an element is cut off")
        yield kind, data[first : first + size]
        # Only compressed elements are not padded.
        start = first + size if kind == _COMPRESSED else start + 8 + (-(-size // 8) * 8 if first == start + 8 else 0)


def _inflated(content: bytes, order: str, limit: int) -> bytes | None:
    """The matrix in a compressed element; None if it is larger than `limit`."""
    stream = zlib.decompressobj()
    whole = stream.decompress(content, limit)
    if stream.unconsumed_tail:
        return None
    # MATLAB wrote some streams without their end (two files of Penn Action); it is enough if the matrix is complete.
    kind, matrix = next(_elements(whole, 0, order), (0, b""))
    return matrix if kind == _MATRIX else None


def _array(matrix: bytes, names: Mapping[str, int], order: str, classes: frozenset[int]) -> dict[str, NDArray[Any]]:
    """The array of a variable by its name; empty if it has another name or is not an array of these classes."""
    parts = _elements(matrix, 0, order)
    # Other kinds of variables (cells, structures, objects) have other parts after their names.
    kinds, contents = zip(*(next(parts, (0, b"")) for _ in range(3)), strict=True)
    if kinds != (6, 5, 1) or len(contents[0]) != 8 or len(contents[1]) % 4:
        return {}
    flags = int(np.frombuffer(contents[0], f"{order}u4", 1)[0])
    name = contents[2].decode("latin-1")
    if name not in names or flags & 0xFF not in classes or (flags >> 8) & _COMPLEX:
        return {}
    shape = tuple(int(size) for size in np.frombuffer(contents[1], f"{order}i4"))
    kind, values = next(parts, (0, b""))
    stored_types = _NUMBERS | _UTF if flags & 0xFF == _TEXT else _NUMBERS
    if kind not in stored_types or min(shape, default=-1) < 0 or len(shape) > 8:
        raise ValueError("an array without plain numbers")
    stored = np.dtype(f"{order}{stored_types[kind]}")
    if math.prod(shape) > names[name] or math.prod(shape) * stored.itemsize != len(values):
        raise ValueError(f"an array of shape {shape} with {len(values)} bytes")
    wanted = (_CLASSES | _WHOLE | {_TEXT: np.uint16})[flags & 0xFF]
    return {name: np.frombuffer(values, stored).astype(wanted).reshape(shape, order="F")}
