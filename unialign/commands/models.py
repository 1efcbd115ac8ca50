"""`unialign models`: what can be trained, and what it costs."""

from typing import Annotated

import typer

from unialign import console
from unialign.commands.options import AsJson, ConfigFile, Overrides, resolve


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into the application."""
    app.command("models", epilog="Example: unialign models --only art train.art.backbone=uniformerv2-l14")(models)


def models(
    only: Annotated[list[str] | None, typer.Option("--only", help="A system or backbone; may be given again.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Systems as configured, and video backbones: parameters, and multiply-adds ("GFLOPs") a view and a test clip."""
    resolved = resolve(config, overrides)
    from unialign.pipeline.evaluation.costs import model_costs

    found = model_costs(resolved, only or ())
    if as_json:
        console.show_json(found)
        return
    assumed = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in found["assumed"].items())
    for title in ("systems", "backbones"):
        rows = [
            (
                row["name"],
                row["network"],
                f"{row['num_frames']} x {row['image_size']}",
                f"{row['parameters'] / 1e6:.2f}",
                f"{row['trained'] / 1e6:.2f}",
                f"{row['gflops_view']:.2f}",
                row["views"],
                f"{row['gflops']:.2f}",
            )
            for row in found[title]
        ]
        columns = ("name", "network", "frames x side", "M parameters", "M trained", "GFLOPs a view", "views", "GFLOPs")
        if rows:
            console.show_table(f"{title} ({assumed})" if title == "systems" else title, columns, rows)
