"""Base class of every configuration section: a frozen pydantic model, validated when it is read.

A field declares its range and description once (`Field(ge=0, description=...)`); error messages, `unialign config show`
and docs/configuration.md use them. This module is imported before any network library, so it imports none.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from unialign.errors import UsageError
from unialign.types import Json

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of all sections: frozen; unknown keys, infinity and NaN are errors. `strict=True` rejects "8" for 8.

    before: of fields that changed what a run computes by default: what runs did that are older than the field. A run
    with such a value does not record it, so that it is still the run that it was.
    """

    before: ClassVar[Mapping[str, Any]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Reject booleans for numbers: Python treats true as 1, but `num_frames: true` is a mistake."""
        if isinstance(value, bool) and cls.model_fields[str(field.field_name)].annotation in (int, float):
            raise ValueError(f"should be a number, not {str(value).lower()}")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _empty_section(cls, value: Any, field: ValidationInfo) -> Any:
        """Treat null as an empty section: YAML yields it if all lines of the section are commented out."""
        return {} if value is None and cls.section(str(field.field_name)) else value

    @classmethod
    def more_sections(cls) -> Mapping[str, "type[Settings]"]:
        """Sections that are not fields of this class, for classes that take their keys from a table."""
        return {}

    @classmethod
    def section(cls, name: str) -> "type[Settings] | None":
        """The subsection with that name; None for a plain value or an unknown key."""
        field = cls.model_fields.get(name)
        inner = field.annotation if field else cls.more_sections().get(name)
        return inner if isinstance(inner, type) and issubclass(inner, Settings) else None

    def plain(self) -> dict[str, Any]:
        """All fields as JSON- and YAML-compatible values."""
        return self.model_dump(mode="json")

    def recorded(self) -> dict[str, Any]:
        """The same for the config.yaml of a run, see `before`."""
        return {name: value for name, value in self.plain().items() if self.before.get(name, ...) != value}

    def replaced(self, **values: Any) -> Self:
        """A validated copy with some values replaced. Raises `pydantic.ValidationError`."""
        return type(self).model_validate({**dict(self), **values})


def checked(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """Settings from plain values, with defaults filled in. Raises `UsageError`. where: the key that they belong to."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(explained(error, kind, where)) from error


def explained(error: ValidationError, kind: type[Settings], where: str = "") -> str:
    """What is wrong with the values of a section, key by key; suggests the closest match for an unknown key."""
    problems = "; ".join(_problem(each, kind, f"{where}." if where else "") for each in error.errors())
    return problems if problems.endswith("?") else f"{problems}."


def _problem(problem: ErrorDetails, kind: type[Settings], prefix: str) -> str:
    location = problem["loc"]
    name = prefix + ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        return unknown_key(name, prefix + "".join(f"{part}." for part in location[:-1]), _inner(kind, location[:-1]))
    # Use YAML terms.
    message = problem["msg"].removeprefix("Value error, ").replace("valid tuple", "valid list")
    message = message.replace("valid dictionary", "mapping").partition(" or instance of ")[0]
    message = f"{message[0].lower()}{message[1:]}"
    # Our own messages include the value; pydantic's do not.
    given = "" if problem["type"] == "value_error" or not _short(problem["input"]) else f", not {problem['input']!r}"
    return f"{name.rstrip('.')}: {message}{given}" if name else f"{message}{given}"


def _short(value: object) -> bool:
    return value is None or (isinstance(value, str | int | float | bool | list) and len(repr(value)) <= 60)


def unknown_key(name: str, section: str, kind: type[Settings] | None) -> str:
    """The error message for an unknown key. section: prefix of the section it is in, such as "" or "train."."""
    known = {row.key: row for row in setting_rows(kind, section)} if kind else {}
    here = [*kind.model_fields, *kind.more_sections()] if kind else []
    meant = closest(name, known, [f"{section}{each}" for each in here])
    advice = f"did you mean {meant}?" if meant else f"known here: {', '.join(here)}"
    return f"unknown key {name!r}; {advice}"


def closest(name: str, known: Mapping[str, "SettingRow"], sections: Sequence[str] = ()) -> str:
    """The known key closest to the last part of a wrong one, compared with last parts and titles; "" if none is."""
    spellings: dict[str, str] = {}
    for key, row in known.items():
        spellings.setdefault(key.rpartition(".")[2], key)
        if row.title:
            spellings.setdefault(row.title.replace(" ", "_"), key)
    spellings |= {key.rpartition(".")[2]: key for key in sections}
    leaf = name.rpartition(".")[2]
    found = difflib.get_close_matches(leaf, spellings, n=1, cutoff=0.65)
    return spellings[found[0]] if found else ""


def _inner(kind: type[Settings], location: Sequence[int | str]) -> type[Settings] | None:
    """The section at a location inside another one; None if there is none."""
    found: type[Settings] | None = kind
    for part in location:
        found = found.section(str(part)) if found else None
    return found


@dataclass(frozen=True)
class SettingRow:
    """One key of the configuration. type: in words. default: as in YAML. range: "" if any value of the type is valid.

    title: the long name of a short key ("learning rate" for `lr`), or "".
    """

    key: str
    type: str
    default: Json
    range: str
    meaning: str
    title: str = ""


def setting_rows(kind: type[Settings], prefix: str = "") -> Iterator[SettingRow]:
    """One row per key of a section and its subsections, in order. prefix: "" or, for example, "train."."""
    defaults = kind.model_construct().plain()
    for name, field in kind.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            yield from setting_rows(annotation, f"{prefix}{name}.")
            continue
        kinds, choices = _kind_of(annotation)
        yield SettingRow(
            key=f"{prefix}{name}",
            type=kinds,
            default=defaults[name],
            range=", ".join(filter(None, (choices, *_limits(field)))),
            meaning=" ".join((field.description or "").split()),
            title=field.title or "",
        )
    for name, inner in kind.more_sections().items():
        yield from setting_rows(inner, f"{prefix}{name}.")


NAMES = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "path", Any: "any"}
LIMITS = {"ge": "at least {:g}", "gt": "above {:g}", "le": "at most {:g}", "lt": "below {:g}"}


def _kind_of(annotation: Any) -> tuple[str, str]:
    """A type in words, and its allowed values in words (or "")."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return NAMES[type(inner[0])], f"one of {', '.join(map(str, inner))}"
    if origin in (Union, UnionType):
        if set(inner) == {int, float}:
            return "number", ""
        found = [_kind_of(each) for each in inner if each is not type(None)]
        return f"{' or '.join(name for name, _ in found)}{', or null' if type(None) in inner else ''}", found[0][1]
    if origin is tuple:
        name, choices = _kind_of(inner[0])
        count = "list" if inner[-1] is Ellipsis else f"list of {len(inner)}"
        return f"{count} {name}s" if count != "list" else f"list of {name}s", choices.replace("one of", "each one of")
    if origin is dict:
        values = "mappings" if get_origin(inner[1]) is dict else f"{_kind_of(inner[1])[0]}s"
        return f"mapping of {_kind_of(inner[0])[0]}s to {values}", ""
    if hasattr(annotation, "__metadata__"):
        return _kind_of(inner[0])
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation))), ""


def _limits(field: FieldInfo) -> Iterator[str]:
    for rule in field.metadata:
        for name, words in LIMITS.items():
            if hasattr(rule, name):
                yield words.format(getattr(rule, name))
        if hasattr(rule, "multiple_of"):
            yield f"multiple of {rule.multiple_of:g}"
