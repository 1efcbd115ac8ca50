"""Options that several commands share, how help shows them, and the configuration that they resolve to.

An option that sets a value of the configuration is made by `setting`. What it means, its default, choices and limits
come from the field itself when help is shown, so they are said in one place.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from unialign import console
from unialign.errors import UsageError

if TYPE_CHECKING:
    from unialign.pipeline.config import Config

# Keys of the configuration to the flags that set them.
FLAGS: dict[str, str] = {}
KINDS = {"str": "TEXT", "path": "PATH", "int": "INTEGER", "float": "NUMBER"}
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


def setting(key: str, flag: str = "", meaning: str = "", **options: Any) -> Any:
    """An option that sets one value of the configuration.

    flag: if it is not called like the last part of the key. meaning: if the field's description is not right for it.
    """
    FLAGS[key] = flag or f"--{key.rpartition('.')[2].replace('_', '-')}"
    return typer.Option(FLAGS[key], help=f"{meaning}[{key}]", show_default=False, **options)


def key_of(text: str | None) -> str:
    """The key that an option sets, by its help as `setting` writes it; empty for other options."""
    found = re.search(r"\[([\w.]+)\]$", text or "")
    return found[1] if found and found[1] in FLAGS else ""


class Command(TyperCommand):
    """A command whose help shows what the configuration says of its options, and whose summary is a whole sentence."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example so that it can be copied."""
        _write_epilog(self.epilog, formatter)

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence of the help, whatever its length; the list of commands wraps it."""
        return _first_sentence(self.help)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Complete the options' help before it is written."""
        for option in self.params:
            text = getattr(option, "help", None)
            key = key_of(text)
            if text and key:
                meaning, choices, facts = _told(key)
                option.help = f"{text.removesuffix(f'[{key}]') or meaning} [{'; '.join((key, *facts))}]"  # type: ignore[attr-defined]
                if choices and not option.metavar:
                    option.metavar = f"[{'|'.join(choices)}]"
            _name_type(option, ctx)
        super().format_options(ctx, formatter)


class Group(TyperGroup):
    """A group of commands, whose summary is a whole sentence."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example so that it can be copied."""
        _write_epilog(self.epilog, formatter)

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence of the help, whatever its length; the list of commands wraps it."""
        return _first_sentence(self.help)


def _name_type(param: Any, ctx: Any) -> None:
    """Let the help say TEXT, PATH, INTEGER or NUMBER; Typer since 0.29 says <str> and <list[str]>."""
    if not hasattr(param, "display_type"):
        return
    if param.param_type_name == "argument":
        param.display_type_rich = lambda ctx: ""
    elif not param.metavar and not param.is_flag:
        kind = re.sub(r"^<|>$|list\[|\]| range", "", param.display_type(ctx) or "").lower()
        param.metavar = KINDS.get(kind)


def _write_epilog(text: str | None, formatter: Any) -> None:
    """An example in lines that break between words only: the library's own also break flags at their hyphens."""
    if text:
        formatter.write_paragraph()
        for line in textwrap.wrap(text, max(formatter.width, 20), break_on_hyphens=False, break_long_words=False):
            formatter.write(f"{line}\n")


def _first_sentence(text: str | None) -> str:
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph)[0]


def _told(key: str) -> tuple[str, list[str], list[str]]:
    """What the configuration says of a key: its meaning, its choices, and the rest (default, limits, environment)."""
    from unialign.pipeline.config import ENVIRONMENT, configuration_rows

    row = {row.key: row for row in configuration_rows()}[key]
    facts = [f"default: {shown_value(row.default)}"] if row.default not in (None, "", [], {}) else []
    choices = row.range.removeprefix("one of ").split(", ") if row.range.startswith("one of ") else []
    if row.range and not choices:
        facts.append(row.range)
    if key in ENVIRONMENT:
        facts.append(f"environment: {ENVIRONMENT[key]}")
    return row.meaning, choices, facts


def shown_value(value: Any) -> str:
    """A value as people write it in YAML."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def chosen_stores(use: list[str] | None) -> dict[str, str] | None:
    """`--use` as modality to name, None without any. Raises `UsageError` for something of another form."""
    if not use:
        return None
    pairs = [choice.partition("=") for choice in use]
    if not all(separator and name and store for name, separator, store in pairs):
        raise UsageError(f"--use {' '.join(use)!r} is not of the form MODALITY=NAME, such as poses=yolo-0123.")
    return {name: store for name, _, store in pairs}


DatasetName = Annotated[str | None, setting("dataset", metavar="NAME")]
Root = Annotated[Path | None, setting("data", "--root")]
Cache = Annotated[Path | None, setting("cache")]
Runs = Annotated[Path | None, setting("runs")]
Labels = Annotated[Path | None, setting("labels")]
Protocol = Annotated[str | None, setting("protocol")]
Use = Annotated[
    list[str] | None,
    setting(
        "train.stores",
        "--use",
        "Store to read for a modality, by name or URL, if there are several (repeatable).",
        metavar="MODALITY=NAME",
    ),
    chosen_stores,
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration file, or the name of a recipe of a paper, such as alt-k400; an unknown name lists them. "
        "Default: unialign.yaml in the working folder, if it is there; with a recipe, only the places in it count.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="End with one JSON object on standard output; show no progress bar.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=console.be_quiet, help="Show only errors and the result, on one line."),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", callback=console.be_verbose, help="Say what is read, written and reused, and where."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values of the configuration, such as train.settings.lr=0.1. The key that an option sets stands in "
        "brackets below; `unialign config show` lists all keys.",
        show_default=False,
    ),
]


def resolve(config: Path | None, overrides: list[str] | None, **flags: Any) -> "Config":
    """The configuration of a command: flags and overrides, over the environment, over the file, over defaults.

    flags: values by the key that they set, with __ for its dots; None is not given. Raises what `load_config` raises,
    and `UsageError` where a flag and an override set the same value.
    """
    return load(config, overrides, keyed(flags))


def load(config: Path | None, overrides: list[str] | None, given: Mapping[str, Any]) -> "Config":
    """The same, with the flags by their keys. A cache behind a URL is the folder of its local side."""
    check_overrides(given, overrides or ())
    from unialign.pipeline.config import load_config

    loaded = load_config(given, overrides or (), file=config)
    # Only then are the libraries of object storage loaded.
    if ":/" not in str(loaded.cache):
        return loaded
    from unialign.pipeline.stores import with_cache_here

    return with_cache_here(loaded)


def keyed(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, by the keys that they set."""
    return {name.replace("__", "."): value for name, value in flags.items() if value is not None}


def check_overrides(given: Iterable[str], overrides: Iterable[str]) -> None:
    """Raise `UsageError` for flags and overrides that set the same value; none could be meant to be ignored."""
    seen: dict[str, str] = {}
    for override in overrides:
        key = override.partition("=")[0].replace("-", "_")
        if seen.setdefault(key, override) is not override:
            raise UsageError(f"{seen[key]} and {override} both set {key}; give one of them.")
        for other in given:
            if overlap(key, other):
                # Those of plug-ins are called like their keys.
                flag = FLAGS.get(other, f"--{other.rpartition('.')[2].replace('_', '-')}")
                raise UsageError(f"{flag} and {override} both set {other}; give one of them.")


def overlap(first: str, second: str) -> bool:
    """Whether two keys are the same, or one is the section of the other."""
    return f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}.")
