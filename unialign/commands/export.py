"""`unialign export`: a trained model as one file."""

from pathlib import Path
from typing import Annotated

import typer

from unialign import console
from unialign.commands.options import AsJson, Cache, Command, ConfigFile, Overwrite, Quiet, Runs, Verbose, resolve
from unialign.errors import UsageError

A_RUN = "A run: its folder, or the beginning of its name or key in --runs. Default: the run that was finished last."


def add_commands(app: typer.Typer) -> None:
    """Put the command into the application."""
    app.command("export", cls=Command, epilog="Example: unialign export folder-unialign --out gestures.safetensors")(
        export
    )


def export(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help=A_RUN, show_default=False)] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The .safetensors file to write. [default: RUN.safetensors]"),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", metavar="FILE", help="Also the network as this ONNX file, compared with torch."),
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="The best epoch's weights instead of the last's.")] = False,
    overwrite: Overwrite = False,
    cache: Cache = None,
    runs: Runs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Write a trained model to one file that works without its run and cache.

    The safetensors file holds weights, settings, classes, text embeddings, keys of the stores, the skeleton encoder and
    where they come from; `unialign predict --run FILE` and `unialign.load_model` read it. The weights of pose networks
    are not in it.
    """
    resolved = resolve(config, None, cache=cache, runs=runs)
    from unialign.cache.paths import expanded_path
    from unialign.pipeline.training.run_folder import find_run, newest_run

    root = resolved.runs.resolve()
    folder = find_run(root, expanded_path(run)) if run else newest_run(root)
    path = expanded_path(out) if out else Path(f"{folder.name}.safetensors")
    network = expanded_path(onnx) if onnx else None
    for each in (path, network):
        if each is not None and each.exists() and not overwrite:
            raise UsageError(f"{each} exists; give another name, or --overwrite.")
    from unialign.pipeline.prediction.export import export_model
    from unialign.pipeline.prediction.trained import trained_run

    trained = trained_run(folder, resolved, best=best)
    export_model(trained, path, folder)
    written = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "run": folder.name,
        "encoder": trained.encoder is not None,
    }
    traced = None
    if network is not None:
        from unialign.pipeline.prediction.onnx_export import export_onnx

        traced = export_onnx(folder, resolved, network, best=best)
    if as_json:
        console.show_json({**written, "onnx": traced.result() if traced else None})
        return
    fields: dict[str, object] = {
        "file": f"{path} ({console.human_bytes(path.stat().st_size)})",
        "run": folder.name,
        "classes": len(trained.columns),
        "skeleton encoder": "in the file" if trained.encoder is not None else "not in the file",
    }
    if traced is not None:
        fields["onnx"] = f"{traced.path}, within {traced.difference:.1g} of torch on {traced.clips} clips"
        fields["inputs"] = "; ".join(f"{name} {list(shape)}" for name, shape in traced.inputs.items())
        fields["outputs"] = "; ".join(f"{name} {list(shape)}" for name, shape in traced.outputs.items())
    console.show_result(str(path), fields)
