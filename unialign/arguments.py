"""What the arguments of the public functions may be; a wrong one is one sentence before anything is read."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from numbers import Integral
from typing import Any, ParamSpec, TypeVar

from unialign.errors import UsageError
from unialign.extras import missing_extra

Given = ParamSpec("Given")
Result = TypeVar("Result")
Rule = tuple[str, Callable[[Any], bool]]


def _whole(least: int) -> Rule:
    def fits(value: Any) -> bool:
        return not isinstance(value, bool) and isinstance(value, Integral) and least <= int(value) < 2**63

    return f"a whole number, at least {least}", fits


def _or_none(rule: Rule) -> Rule:
    return f"{rule[0]}, or None", lambda value: value is None or rule[1](value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_place(value: Any) -> bool:
    # A file cannot be named with a NUL, and "" would be the working folder.
    return isinstance(value, (str, os.PathLike)) and bool(str(value)) and "\0" not in str(value)


def _are(each: Callable[[Any], bool]) -> Callable[[Any], bool]:
    # A text has letters, which are texts.
    return lambda value: isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and all(map(each, value))


def _are_labels(value: Any) -> bool:
    number = _whole(-(2**63))[1]
    return isinstance(value, Mapping) and all(map(_is_text, value)) and all(map(number, value.values()))


def _is_store(value: Any) -> bool:
    from unialign.cache.reader import Recorded

    return isinstance(value, Recorded)


def _is_configuration(value: Any) -> bool:
    from unialign.pipeline.config import Config

    return isinstance(value, Config) or _is_place(value)


_SWITCH: Rule = ("True or False", lambda value: isinstance(value, bool))
_PLACE: Rule = ("a path, as text or pathlib.Path", _is_place)
_TEXTS: Rule = ("a list of names", _are(_is_text))
_STORES: Rule = (
    "a store that unialign.open_store gave, or a list of them",
    lambda value: _is_store(value) or _are(_is_store)(value),
)

# By name: an argument means the same in every function.
RULES: dict[str, Rule] = {
    "stores": _STORES,
    "batch_size": _whole(1),
    "window": _whole(0),
    "window_shards": _whole(0),
    "seed": _whole(0),
    "jobs": _or_none(_whole(1)),
    "ids": _or_none(_TEXTS),
    "arrays": _or_none(_TEXTS),
    "shuffle": _SWITCH,
    "repair": _SWITCH,
    "retry": _SWITCH,
    "online": _SWITCH,
    "overwrite": _SWITCH,
    "best": _SWITCH,
    "place": _PLACE,
    "root": _PLACE,
    "run": _PLACE,
    "grid": _PLACE,
    "what": _or_none(_PLACE),
    "out": _or_none(_PLACE),
    "roots": ("a list of paths", _are(_is_place)),
    "config": _or_none(("a configuration, or the path of one", _is_configuration)),
    "name": ("a name, as text", _is_text),
    "modality": ("a name, as text", _is_text),
    "cluster": ("a name, as text", _is_text),
    "progress": ("a function of two numbers", callable),
}
# Of one function only.
OWN: dict[tuple[str, str], Rule] = {
    ("batches", "labels"): _or_none(("a mapping from id to a whole number", _are_labels)),
    ("dataset", "labels"): _or_none(("a mapping from id to a whole number", _are_labels)),
    ("load_dataset", "labels"): _or_none(_PLACE),
    ("list_stores", "cache"): _PLACE,
    ("open_store", "cache"): _or_none(_PLACE),
    ("load_model", "run"): _or_none(_PLACE),
    ("load_model", "weights"): ("a path, or a list of paths", lambda value: _is_place(value) or _are(_is_place)(value)),
}


def checked(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The same function, which raises `UsageError` that names the first argument of another kind than it takes, or the
    extra to install where a library is missing.
    """
    signature = inspect.signature(function)
    name = function.__name__
    rules = {
        argument: OWN.get((name, argument)) or RULES[argument]
        for argument, parameter in signature.parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise UsageError(f"unialign.{name}: {error}; see help(unialign.{name}).") from error
        for argument, (kind, fits) in rules.items():
            if argument in given and not fits(given[argument]):
                raise UsageError(f"unialign.{name}: {argument} is {_shown(given[argument])}; it must be {kind}.")
        try:
            return function(*args, **kwargs)
        except ModuleNotFoundError as error:
            lacking = missing_extra(error, f"unialign.{name}")
            if lacking is None:
                raise
            raise lacking from error

    return call


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
