"""Commands of extractors that plug-ins bring: `unialign extract NAME`, with the fields of their settings as flags."""

from dataclasses import asdict, fields, make_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import typer

from unialign.commands.extraction import Execution, Work, run
from unialign.commands.groups import Data, General, configured, grouped
from unialign.commands.options import CONTEXT, Command, Group

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from unialign.pipeline.extraction.row import ExtractorRow

GROUP = "unialign.extractors"


class WithPlugins(Group):
    """The commands of `unialign extract`, then those of plug-ins, which are imported when they are called."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; of a plug-in, made of its row. Raises `UsageError` for one that is broken."""
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        from unialign.plugins import offered

        if cmd_name not in offered(GROUP):
            return None
        from unialign.pipeline.extraction.extractors import get_row

        app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=CONTEXT)
        app.command(
            cmd_name, cls=Command, epilog=f"Example: unialign extract {cmd_name} --dataset folder --root clips"
        )(command_of(cmd_name, get_row(cmd_name)))
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list in the help; of plug-ins it has the distribution, for which nothing need be imported."""
        super().format_commands(ctx, formatter)
        from unialign.plugins import offered

        plugins = {name: owner for name, owner in offered(GROUP).items() if name not in self.commands}
        if plugins:
            with formatter.section("Plug-ins"):
                formatter.write_dl([(name, f"From {owner}.") for name, owner in sorted(plugins.items())])


def command_of(name: str, row: "ExtractorRow") -> Any:
    """The function of an extractor's command: the options that all have, and one for each field of its settings."""
    section = f"extract.{name.replace('-', '_')}"
    shared = {field.name for group in (Data, Execution, Work, General) for field in fields(group)}
    own = [
        (field, _option(field, info), None)
        for field, info in row.settings.model_fields.items()
        if field not in shared  # a setting that is called as a shared flag is set by KEY=VALUE
    ]
    settings_of = make_dataclass("Settings", own, frozen=True)

    def command(data: Data, execution: Execution, work: Work, general: General, settings: Any) -> None:
        values = {f"{section}.{field}": value for field, value in asdict(settings).items()}
        run(name, configured(general, data, execution, **values), work, as_json=general.as_json)

    command.__doc__ = row.title
    command.__annotations__["settings"] = settings_of
    return grouped(command)


def _option(name: str, info: "FieldInfo") -> Any:
    """The flag of a field: text, number, path or switch, with its description and default."""
    kind = info.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    plain = kind if kind in (str, int, float, bool, Path) else str  # choices are checked with the settings
    flag = f"--{name.replace('_', '-')}"
    flags = (f"{flag}/--no-{flag[2:]}",) if plain is bool else (flag,)
    said = (info.description or "").rstrip(".")
    default = "" if info.default is None else f"Default: {info.default}."
    return Annotated[plain | None, typer.Option(*flags, help=f"{said}. {default}".strip(". ") + ".")]
