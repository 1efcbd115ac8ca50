"""Options that several commands take together: a dataclass whose fields are the options, in the order of the help.

A command names a group as one parameter, and `grouped` gives Typer its fields: an option of five commands is one line.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unialign.commands.options import (
    AsJson,
    Cache,
    ConfigFile,
    DatasetName,
    Labels,
    Overrides,
    Protocol,
    Quiet,
    Root,
    Runs,
    Verbose,
    key_of,
    keyed,
    load,
)

if TYPE_CHECKING:
    from unialign.pipeline.config import Config


@dataclass(frozen=True)
class Data:
    """Which dataset, and where it and the cache are."""

    dataset: DatasetName = None
    root: Root = None
    cache: Cache = None
    labels: Labels = None


@dataclass(frozen=True)
class SplitData:
    """The same, with the split that is trained on and where training runs are."""

    dataset: DatasetName = None
    root: Root = None
    cache: Cache = None
    runs: Runs = None
    labels: Labels = None
    protocol: Protocol = None


@dataclass(frozen=True)
class General:
    """What commands that do long work share: how they report, and where settings come from."""

    as_json: AsJson = False
    quiet: Quiet = False
    verbose: Verbose = False
    config: ConfigFile = None
    overrides: Overrides = None


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer calls it: each parameter that is a group is replaced by the fields of the group."""
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if dataclasses.is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            parameters += _parameters(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called


def given(*groups: Any, **flags: Any) -> dict[str, Any]:
    """The settings that were given on the command line, by their keys in the configuration.

    groups: instances of groups; options that set no key are left out. flags: others, by key, with __ for its dots.
    """
    found = {key: value for group in groups for key, value in _settings(group) if value is not None}
    return {**found, **keyed(flags)}


def configured(general: General, *groups: Any, **flags: Any) -> "Config":
    """The configuration of a command: what `given` says of groups and flags, over environment, file and defaults.

    Raises what `resolve` raises.
    """
    return load(general.config, general.overrides, given(*groups, **flags))


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    for field in dataclasses.fields(group):
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )


def _settings(group: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of each option that sets one. An annotation may say, behind the option, how its value is read."""
    for field in dataclasses.fields(group):
        option, *readers = field.type.__metadata__  # type: ignore[union-attr]
        key = key_of(option.help)
        if key:
            value = getattr(group, field.name)
            yield key, functools.reduce(lambda read, reader: reader(read), readers, value)
