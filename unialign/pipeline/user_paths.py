"""Paths as people write them where no shell expands them: in files, in the environment, behind the = of a flag."""

import os
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from unialign.cache.errors import UsageError


def expanded(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with a leading ~ and every $NAME and ${NAME} replaced; $$ is a dollar, and so is one before no name.

    Raises `ValueError` for a variable that is not set, or empty: `$SCRATCH/cache` must not become `/cache`.
    """
    environment = os.environ if environment is None else environment
    for name in Template(text).get_identifiers():
        if not environment.get(name):
            raise ValueError(f"the variable {name} in {text!r} is not set; set it, or write $$ for a dollar")
    home = ""
    if text.startswith("~"):
        user, slash, rest = text.partition("/")
        home, text = os.path.expanduser(user), slash + rest
        # An empty HOME would make ~ the root.
        if home.startswith("~") or (user == "~" and os.environ.get("HOME") == ""):
            raise ValueError(f"{user + text!r}: no home folder is known; write the whole path")
    return home + Template(text).safe_substitute(environment)


def expanded_path(path: Path, environment: Mapping[str, str] | None = None) -> Path:
    """The path of an option, see `expanded`. Raises `UsageError` where that raises `ValueError`."""
    try:
        return Path(expanded(str(path), environment))
    except ValueError as error:
        raise UsageError(f"{error}.") from error


class _Expanded(str):
    """Text that is not to be expanded again when a configuration is validated with other values; a `Path` is one."""

    __slots__ = ()


def _expand(value: Any, info: ValidationInfo) -> Any:
    # What is no text is the field's to refuse. URLs may hold $ and ~.
    if not isinstance(value, str) or isinstance(value, _Expanded) or "://" in value:
        return value
    return expanded(value, info.context)


# Types of fields: a path; and a text that may be one, such as the name of a store or its folder.
UserPath = Annotated[Path, BeforeValidator(_expand)]
UserText = Annotated[str, BeforeValidator(_expand), AfterValidator(_Expanded)]
