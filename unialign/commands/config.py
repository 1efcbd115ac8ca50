"""`unialign config show`: the resolved configuration, and where each of its values comes from."""

from collections.abc import Iterator, Mapping

import typer

from unialign import console
from unialign.commands.groups import SplitData, given, grouped
from unialign.commands.options import FLAGS, AsJson, Command, ConfigFile, Group, Overrides, load
from unialign.commands.train import Loop, Name, Seed, System
from unialign.types import Json

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Show the resolved configuration.", epilog="Example: unialign config show"
)
# Columns before the comments with the origins.
WIDEST = 60


@app.command("show", cls=Command, epilog="Example: unialign config show --epochs 20 train.settings.optimizer=adamw")
@grouped
def show(
    *,
    data: SplitData,
    system: System,
    loop: Loop,
    seed: Seed = None,
    name: Name = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Print every value of the configuration and where it comes from.

    The output can be saved as unialign.yaml. Flags are those of `unialign train`.
    """
    flags = given(data, system, loop, train__settings__seed=seed, train__name=name)
    values = load(config, overrides, flags).dump()
    from unialign.pipeline.config import config_file
    from unialign.pipeline.config_origins import DEFAULT, value_origins

    origins = value_origins(values, {key: FLAGS[key] for key in flags}, overrides or (), file=config)
    if as_json:
        path = config_file(config)
        console.show_json({"file": str(path) if path.is_file() else None, "config": values, "origins": origins})
        return
    lines = list(_yaml_lines(values, origins))
    width = min(WIDEST, max(len(line) for line, _ in lines))
    for line, origin in lines:
        comment = f"  # {origin}" if origin not in ("", DEFAULT) else ""
        console.output.print(f"{line:<{width}}{comment}" if comment else line)


def _yaml_lines(
    values: Mapping[str, Json], origins: Mapping[str, str], prefix: str = "", indent: str = ""
) -> Iterator[tuple[str, str]]:
    """Lines of YAML, each with the origin of its value; sections have none."""
    import yaml

    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:", ""
            yield from _yaml_lines(value, origins, f"{prefix}{name}.", f"{indent}  ")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20)
            yield (
                f"{indent}{name}: {text.removesuffix(chr(10)).removesuffix('...').rstrip()}",
                origins[f"{prefix}{name}"],
            )
