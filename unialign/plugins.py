"""Rows that other distributions add to the package's tables, and functions given as "package.module:function".

A distribution adds a row with an entry point in its pyproject.toml:

    [project.entry-points."unialign.datasets"]
    my-gestures = "my_package.gestures:ROW"

Names come from the metadata of installed distributions; a distribution is imported when its row is looked up. So a
broken one affects only those who use it, and starting the program imports none.
"""

import importlib
import importlib.metadata
import logging
import os
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import Any, Generic, TypeVar

from unialign.errors import UnialignError, UsageError

Row = TypeVar("Row")
log = logging.getLogger(__name__)


class Table(Mapping[str, Row], Generic[Row]):
    """Rows by name: the package's own, then those of plug-ins, sorted by name.

    group: of the entry points. kind: class of a row. own: the package's rows, which plug-ins cannot replace.
    `table[name]` raises `KeyError` for an unknown name, and `UsageError` that names distribution, entry point and error
    for a plug-in that cannot be imported, is not a row, or shares its name with another one.
    """

    def __init__(self, group: str, kind: type[Row], own: Mapping[str, Row]) -> None:
        self.group, self.kind, self.own = group, kind, own
        self._loaded: dict[str, Row] = {}
        self._told: set[str] = set()

    @cached_property
    def _offers(self) -> Mapping[str, list[EntryPoint]]:
        offers: dict[str, list[EntryPoint]] = defaultdict(list)
        for point in importlib.metadata.entry_points(group=self.group):
            offers[point.name].append(point)
        return offers

    def __getitem__(self, name: str) -> Row:
        if name in self.own:
            if name in self._offers and name not in self._told:
                self._told.add(name)
                log.warning("%s", self._taken(name))
            return self.own[name]
        if name not in self._offers:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._offers

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self.plugins()

    def __len__(self) -> int:
        return len(self.own) + len(self.plugins())

    def plugins(self) -> list[str]:
        """Names that only plug-ins provide, sorted; imports nothing."""
        return sorted(name for name in self._offers if name not in self.own)

    def problems(self) -> list[str]:
        """One sentence per unusable plug-in; imports all of them."""
        found = [self._taken(name) for name in self._offers if name in self.own]
        for name in self.plugins():
            try:
                self[name]
            except UsageError as error:
                found.append(str(error))
        return found

    def _taken(self, name: str) -> str:
        whose = " and ".join(_owner(point) for point in self._offers[name])
        return (
            f"entry point {name!r} of {self.group} from {whose} is not used: {name} is a name of unialign itself, "
            "which a plug-in cannot replace; its author has to choose another one."
        )

    def _load(self, name: str) -> Row:
        points = self._offers[name]
        if len(points) > 1:
            whose = " and ".join(sorted(_owner(point) for point in points))
            raise UsageError(f"entry point {name!r} of {self.group} comes from {whose}; uninstall all but one of them.")
        where = f"entry point {name!r} of {self.group} ({points[0].value}) from {_owner(points[0])}"
        try:
            row = points[0].load()
        except Exception as error:
            raise UsageError(
                f"{where} cannot be loaded: {told(error)}; install a version that works here, or uninstall it."
            ) from error
        if not isinstance(row, self.kind):
            raise UsageError(
                f"{where} is a {type(row).__name__}, not a {self.kind.__name__}; see CONTRIBUTING.md on plug-ins."
            )
        return row


def offered(group: str) -> dict[str, str]:
    """Names of the entry points of a group, each with its distribution; imports nothing."""
    return {point.name: _owner(point) for point in importlib.metadata.entry_points(group=group)}


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def is_reference(name: str) -> bool:
    """Whether a name has the form "package.module:function"."""
    module, separator, function = name.partition(":")
    return bool(separator) and all(part.isidentifier() for part in (*module.split("."), *function.split(".")))


def imported(reference: str) -> Callable[..., Any]:
    """The function given as "package.module:function", from the working folder or an installed package.

    Raises `UsageError` for a module that is missing or cannot be imported, or that has no such function.
    """
    module_name, _, name = reference.partition(":")
    # Like `python -m`. Worker processes inherit the path from this one.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(f"{reference}: importing {module_name} failed: {told(error)}.") from error
        raise UsageError(
            f"{reference}: there is no module {module_name}, neither in {os.getcwd()} nor among what is installed."
        ) from error
    except Exception as error:
        raise UsageError(f"{reference}: importing {module_name} failed: {told(error)}.") from error
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        have = [each for each, value in vars(module).items() if _is_own_function(value, module_name)]
        raise UsageError(
            f"{reference}: {getattr(module, '__file__', None) or module_name} has no function {name}; "
            f"it has {', '.join(have) or 'none'}."
        )
    function: Callable[..., Any] = found
    return function


def called(function: Callable[..., Any], where: str, *positional: Any, **named: Any) -> Any:
    """The return value of third-party code. Its exceptions become `UsageError` naming the line that raised them, except
    expected ones, of `unialign.errors` and of the file system, which are passed through.
    """
    try:
        return function(*positional, **named)
    except (UnialignError, OSError):
        raise
    except Exception as error:
        raise UsageError(f"{where} failed: {told(error)}.") from error


def told(error: Exception) -> str:
    """An exception of third-party code on one line: type, message, and the file and line where it was raised."""
    text = " ".join(str(error).split())
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", os.path.dirname(importlib.__file__))) and frame.filename != __file__
    ]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {text}"
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def _is_own_function(value: object, module: str) -> bool:
    return callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == module
