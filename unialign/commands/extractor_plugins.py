"""Commands of extractors that plug-ins bring: `unialign extract NAME`, with the fields of their settings as flags."""

import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import typer

from unialign.commands.extraction import (
    Cluster,
    Codec,
    Device,
    DryRun,
    Join,
    Repair,
    Retry,
    ShardSamples,
    Threads,
    Timeout,
    execution,
    run,
)
from unialign.commands.options import (
    CONTEXT,
    AsJson,
    Cache,
    Command,
    ConfigFile,
    DatasetName,
    Group,
    Labels,
    Overrides,
    Quiet,
    Root,
    Verbose,
    resolve,
)

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

    def command(
        dataset: DatasetName = None,
        root: Root = None,
        cache: Cache = None,
        labels: Labels = None,
        cluster: Cluster = None,
        threads: Threads = None,
        timeout: Timeout = None,
        shard_samples: ShardSamples = None,
        codec: Codec = None,
        device: Device = None,
        repair: Repair = False,
        retry: Retry = False,
        join: Join = False,
        dry_run: DryRun = False,
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
        config: ConfigFile = None,
        overrides: Overrides = None,
        **settings: Any,
    ) -> None:
        section = f"extract__{name.replace('-', '_')}"
        resolved = resolve(
            config,
            overrides,
            dataset=dataset,
            data=root,
            cache=cache,
            labels=labels,
            **{f"{section}__{field}": value for field, value in settings.items()},
            **execution(cluster, threads, timeout, shard_samples, codec, device),
        )
        run(name, resolved, repair=repair, retry=retry, join=join, dry_run=dry_run, as_json=as_json)

    command.__doc__ = row.title
    shared = [each for each in inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
    known = {each.name for each in shared}
    own = [
        inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(field, info))
        for field, info in row.settings.model_fields.items()
        if field not in known  # a setting that is called as a shared flag is set by KEY=VALUE
    ]
    command.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (*shared, *own)}
    return command


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
