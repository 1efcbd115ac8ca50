"""Stand-ins that the restricted unpickler gives a pickle instead of the names that it asks for.

Each checks its arguments and only stores them: functions of numpy or Python receive nothing from the file but plain
bytes of a checked length. All raise `ValueError` for values that a genuine pickle of arrays does not contain.
"""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

# Numbers and fixed-width strings; everything else, above all arrays of Python objects, is rejected.
_DTYPE_NAME = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|U[0-9]{1,4})")
_MAX_AXES = 8


class DtypeStandIn:
    """Stands for a `numpy.dtype` while the pickle is read."""

    __slots__ = ("name", "order")

    def __init__(self, name: object, *_flags: object) -> None:
        if not isinstance(name, str) or not _DTYPE_NAME.fullmatch(name):
            raise ValueError(f"an array of type {str(name)[:20]!r}, only plain numbers and text are read")
        self.name = name
        self.order = "="

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise ValueError("an array type with fields")
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("an array type without a byte order")
        self.order = state[1]

    def plain(self) -> np.dtype[Any]:
        """The dtype itself."""
        name = np.dtype(self.name)
        return name if self.order in "|=" else name.newbyteorder("<" if self.order == "<" else ">")


class Budget:
    """Budget of bytes that the names of one pickle may copy; a small string that is referred to repeatedly would
    exhaust memory.
    """

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> None:
        """Consume some bytes. Raises `ValueError` if the budget is used up."""
        self._left -= size
        if self._left < 0:
            raise ValueError("more bytes than the file holds")


class ArrayStandIn:
    """Stands for a `numpy.ndarray` while the pickle is read; `value` is set once its bytes have arrived."""

    __slots__ = ("_budget", "value")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array without shape, type and bytes")
        _version, shape, dtype, fortran, data = state
        self.value = _array(self._budget, data, dtype, shape, "F" if fortran else "C")


def _array(budget: Budget, data: object, dtype: object, shape: object, order: object) -> np.ndarray:
    """A numpy array over `data` after all four are checked against each other."""
    if isinstance(data, str):  # written by Python 2
        budget.take(len(data))
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, DtypeStandIn) or order not in ("C", "F"):
        raise ValueError("an array of something else than bytes")
    if not isinstance(shape, tuple) or len(shape) > _MAX_AXES:
        raise ValueError("an array without a plain shape")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array with a negative or odd size")
    plain = dtype.plain()
    if math.prod(shape) * plain.itemsize != len(data) or plain.itemsize == 0:
        raise ValueError(f"an array of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, plain).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(budget: Budget, *_ignored: object) -> ArrayStandIn:
    return ArrayStandIn(budget)


def _from_buffer(budget: Budget, data: object, dtype: object, shape: object, order: object) -> ArrayStandIn:
    array = ArrayStandIn(budget)
    array.value = _array(budget, data, dtype, shape, order)
    return array


def _scalar(budget: Budget, dtype: object, data: object) -> object:
    budget.take(len(data) if isinstance(data, str | bytes | bytearray) else 0)
    return _array(budget, data, dtype, (), "C").item()


def _encode(budget: Budget, text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in another form than Python writes")
    budget.take(len(text))
    return text.encode("latin-1")


def _bytes(budget: Budget, *parts: object) -> bytes:
    if not parts:
        return b""
    if len(parts) > 1 or not isinstance(parts[0], bytes | bytearray):
        raise ValueError("bytes made of something else")
    budget.take(len(parts[0]))
    return bytes(parts[0])


def _set(budget: Budget, *parts: object) -> set[object]:
    if len(parts) > 1 or not all(isinstance(part, list | tuple | set) for part in parts):
        raise ValueError("a set made of something else than a list")
    found = [item for part in parts if isinstance(part, list | tuple | set) for item in part]
    # An entry of a set takes more memory than the byte that a reference takes in a pickle.
    budget.take(len(found))
    return set(found)


class Allowed:
    """A name that a pickle may call. Without attributes, so that no opcode can change its behavior."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        """The result of the stand-in for the arguments given by the pickle."""
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("an attempt to change a function")


def allowed_names(budget: Budget) -> Mapping[str, Allowed]:
    """The stand-ins for one pickle, by module and name as the pickle writes them."""

    def counted(call: Callable[..., object]) -> Allowed:
        return Allowed(partial(call, budget))

    names = {
        "numpy.dtype": Allowed(DtypeStandIn),
        "numpy.ndarray": counted(_reconstruct),
        "_codecs.encode": counted(_encode),
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray._reconstruct"] = counted(_reconstruct)
        names[f"{core}.multiarray.scalar"] = counted(_scalar)
        names[f"{core}.numeric._frombuffer"] = counted(_from_buffer)
    for builtins in ("builtins", "__builtin__"):
        names |= {f"{builtins}.{name}": counted(_bytes) for name in ("bytes", "bytearray")}
        names |= {f"{builtins}.{name}": counted(_set) for name in ("set", "frozenset")}
    return names


NAMES = frozenset(allowed_names(Budget(0)))
