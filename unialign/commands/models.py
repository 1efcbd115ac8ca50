"""`unialign models`: what can be trained, and what it costs."""

from typing import Annotated

import typer

from unialign import console
from unialign.commands.options import AsJson, Command, ConfigFile, Overrides, resolve


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into the application."""
    app.command("models", cls=Command, epilog="Example: unialign models --only art train.art.backbone=uniformerv2-l14")(
        models
    )


def models(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A system or backbone (repeatable). Default: all.")
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Show parameters and multiply-adds of systems and video backbones.

    Multiply-adds ("GFLOPs") are per view and per test clip; systems are counted as configured.
    """
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
                # Systems of features and of skeletons see no images.
                f"{row['num_frames']} x {row['image_size']}" if row["image_size"] else row["num_frames"] or "-",
                f"{row['parameters'] / 1e6:.2f}",
                f"{row['trained'] / 1e6:.2f}",
                f"{row['gflops_view']:.2f}",
                row["views"],
                f"{row['gflops']:.2f}",
            )
            for row in found[title]
        ]
        columns = (
            "name",
            "network",
            "frames x side",
            "M parameters",
            "M trained",
            "GFLOPs per view",
            "views",
            "GFLOPs",
        )
        if rows:
            console.show_table(f"{title} ({assumed})" if title == "systems" else title, columns, rows)
