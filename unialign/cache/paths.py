"""Expansion of paths where no shell does it: in files, in the environment, after the = of a flag."""

import os
from collections.abc import Mapping
from pathlib import Path
from string import Template

from unialign.errors import UsageError


def expanded(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with a leading ~ and every $NAME and ${NAME} replaced; $$ is a dollar, and so is one that no name
    follows.

    Raises `ValueError` for a variable that is unset or empty: `$SCRATCH/cache` must not become `/cache`.
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


def expanded_path(path: str | Path, environment: Mapping[str, str] | None = None) -> Path:
    """The path of an option or argument, see `expanded`. Raises `UsageError` where that raises `ValueError`."""
    try:
        return Path(expanded(str(path), environment))
    except ValueError as error:
        raise UsageError(f"{error}.") from error
