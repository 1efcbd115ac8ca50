"""Annotation pickles: reading untrusted ones without executing anything that they name, and writing plain ones.

A pickle is a program. This reader knows the few names that numbers, strings, containers and numpy arrays need, replaces
them with its own stand-ins (numpy functions receive nothing from the file but plain bytes of a checked length), and
rejects every other name. Pickles of protocols 0 to 5, written with numpy 1 and 2, can be read.
"""

import os
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from unialign.cache.atomic import write_file
from unialign.errors import CorruptInput
from unialign.stages.datasets.pickle_stand_ins import NAMES, Allowed, ArrayStandIn, Budget, DtypeStandIn, allowed_names
from unialign.stages.pickle_scan import Refused, check_opcodes

_MAX_DEPTH = 32
_COPIES, _COPIES_AT_LEAST = 4, 1 << 20
# What the standard library raises for files that are not pickles, or for stand-ins not used like arrays.
_MALFORMED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, names: Mapping[str, Allowed]) -> None:
        # The encoding is for strings of Python 2, which contain the data of its arrays.
        super().__init__(file, encoding="latin1")
        self._names = names

    def find_class(self, module: str, name: str) -> Allowed:
        """The stand-in for a name. Raises `Refused` for all others; nothing is ever imported."""
        try:
            return self._names[f"{module}.{name}"]
        except KeyError:
            raise Refused(f"{module}.{name}") from None


def load_restricted(path: Path) -> Any:
    """The value of a pickle: dicts, lists, tuples, sets, numbers, strings, bytes, None and numpy arrays.

    Arrays may be read-only. Raises `CorruptInput` for a pickle that names anything beyond these, for one
    that is damaged, nested more than 32 levels deep or refers to itself, for one whose loading would take far more
    steps or bytes than it has, and for one that does not fit in memory.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # Damaged strings make the standard library warn of odd escapes.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                check_opcodes(file, NAMES)
            except _MALFORMED as error:
                if isinstance(error, Refused) or file.read(1):
                    raise
                raise CorruptInput(
                    f"{path}: the pickle ends early; fetch the file again.", status="truncated"
                ) from error
            # Each byte that the names may copy is in the file, except for small ones that are reused.
            budget = Budget(_COPIES * file.seek(0, os.SEEK_END) + _COPIES_AT_LEAST)
            file.seek(0)
            value = _RestrictedUnpickler(file, allowed_names(budget)).load()
        return _plain(value, _MAX_DEPTH, {})
    except Refused as error:
        raise CorruptInput(
            f"{path}: the pickle asks for {str(error)[:200]!r}, which no annotation needs and which could run code; "
            "it was not loaded, get the file from a source that you trust."
        ) from error
    except OSError as error:
        raise CorruptInput(f"{path}: cannot be read ({error.strerror}).") from error
    except _MALFORMED as error:
        reason = str(error)[:200] or type(error).__name__
        raise CorruptInput(f"{path}: is no readable annotation pickle ({reason}).") from error


def write_pickle(path: Path, value: Any) -> None:
    """Write dicts, lists, tuples, numbers, strings and numpy arrays as a pickle of protocol 4, atomically.

    The arrays name `numpy._core`, which numpy 1.26 and later know. The pickle is held in memory next to the value.
    """
    write_file(path, pickle.dumps(value, protocol=4))


def _plain(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """The value with all stand-ins replaced; containers that occur several times stay one object."""
    if isinstance(value, ArrayStandIn):
        if value.value is None:
            raise ValueError("an array without bytes")
        return value.value
    if isinstance(value, DtypeStandIn | Allowed):
        raise ValueError("a type where data should be")
    if not isinstance(value, dict | list | tuple | set | frozenset):
        return value
    if depth == 0:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        plain: Any = {_plain(key, depth - 1, done): _plain(item, depth - 1, done) for key, item in value.items()}
    else:
        plain = type(value)(_plain(item, depth - 1, done) for item in value)
    done[id(value)] = plain
    return plain
