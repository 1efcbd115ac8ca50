"""`unialign cache export` and `unialign cache import`: whole stores as single files of other formats."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unialign import console
from unialign.commands.extraction import show_reasons
from unialign.commands.options import (
    AsJson,
    Cache,
    Command,
    ConfigFile,
    DatasetName,
    Labels,
    Overwrite,
    Quiet,
    Root,
    Verbose,
    resolve,
)
from unialign.errors import UsageError
from unialign.types import Json

if TYPE_CHECKING:
    from unialign.pipeline.config import Config

SUFFIXES: Mapping[str, str] = {
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".pkl": "pyskl",
    ".pickle": "pyskl",
    ".npz": "npz",
    ".tar": "webdataset",
}
FEATURES = (".npy", ".npz", ".pt", ".pth", ".csv")
FORMATS = ("hdf5", "pyskl", "npz", "npy", "webdataset", "huggingface")


def add_commands(app: typer.Typer) -> None:
    """Put both commands on the application of `unialign cache`."""
    app.command("export", cls=Command, epilog="Example: unialign cache export yolo-0123 poses.h5")(export)
    app.command("import", cls=Command, epilog="Example: unialign cache import poses.h5 --cache other")(import_file)


def export(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="A store: a path, or the beginning of its name or key.")
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File to write: .h5 (the whole store), .pkl (poses, for pyskl), .npz, .tar (WebDataset); or a folder; "
            "or the URL of a folder (s3://bucket/stores), to which the store itself is copied.",
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar=f"[{'|'.join(FORMATS)}]",
            help="Format, if the extension does not say it: npy and huggingface write a folder.",
        ),
    ] = None,
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Write a store in another format.

    Labels and splits are taken from --dataset; only a .pkl needs them.
    """
    from unialign.cache.inventory import find_store, summarise
    from unialign.stages.datasets.remote_tree import remote_url

    started = time.monotonic()
    resolved = resolve(config, None, dataset=dataset, data=root, cache=cache, labels=labels)
    target = str(file)
    if kind is not None and kind not in FORMATS:
        raise UsageError(f"unknown format {kind!r}; known are {', '.join(FORMATS)}.")
    url = remote_url(file)
    if url and kind is not None:
        raise UsageError(f"--format does not go with {url}, to which the store is copied as it is.")
    kind = "store" if url else kind or _format(file)
    path = find_store(resolved.cache.resolve(), store)
    not_held: tuple[str, ...] = ()
    with console.progress_bar(f"export {path.stem}", hidden=as_json) as progress:
        if url:
            from unialign.pipeline.exchange.remote_export import export_remote

            target, size = export_remote(path, url, progress, overwrite=overwrite)
        elif kind == "hdf5":
            from unialign.pipeline.exchange.hdf5_export import export_hdf5

            size = export_hdf5(path, file, progress, overwrite=overwrite)
        elif kind != "pyskl":
            from unialign.pipeline.datasets import the_dataset
            from unialign.pipeline.exchange.arrays_export import export_arrays

            chosen = the_dataset(resolved) if resolved.dataset else None
            size = export_arrays(kind, path, file, chosen, progress, overwrite=overwrite)
        else:
            from unialign.pipeline.datasets import the_dataset
            from unialign.pipeline.exchange.pyskl_export import export_pyskl

            done = export_pyskl(path, the_dataset(resolved), file, progress, overwrite=overwrite)
            size, not_held = done.bytes, done.not_held
    summary = summarise(path)
    result: dict[str, Json] = {
        "file": target,
        "format": kind,
        "store": str(path),
        "modality": summary.modality,
        "samples": summary.samples,
        "quarantined": summary.quarantined,
        "bytes": size,
        "not_held": list(not_held),
        "seconds": round(time.monotonic() - started, 3),
    }
    _show(result, as_json=as_json)


def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A .h5 file that `export` wrote, a pyskl pickle (.pkl), or features (see --modality); or the URL of a "
            "store (s3://bucket/stores/NAME.zarr), which is fetched as it is.",
        ),
    ],
    modality: Annotated[
        str | None,
        typer.Option(
            metavar="[pose-features|text]",
            help="What the features in FILE are: one row per sample (pose-features, the default of .npy, .npz, .pt and "
            ".csv) or one row per class (text).",
        ),
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sample ids of the rows, one per line, if FILE has none.")
    ] = None,
    rows: Annotated[str, typer.Option(metavar="[label|description]", help="What the rows of classes embed.")] = "label",
    source: Annotated[
        str, typer.Option(metavar="TEXT", help="Where the features come from: recorded, and part of the store's key.")
    ] = "",
    license: Annotated[str, typer.Option("--license", metavar="TEXT", help="License of the features: recorded.")] = "",
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Make a store from a file.

    A .pkl becomes poses of --dataset, or without it of the file's own samples. Features become a store of --dataset.
    """
    from unialign.stages.datasets.remote_tree import remote_url

    started = time.monotonic()
    resolved = resolve(config, None, dataset=dataset, data=root, cache=cache, labels=labels)
    with console.progress_bar(f"import {file.name}", hidden=as_json) as progress:
        if url := remote_url(file):
            result = _import_remote(url, resolved, progress)
        elif modality is not None or file.suffix.lower() in FEATURES:
            given = {"modality": modality or "pose-features", "ids": ids, "rows": rows}
            result = _import_features(file, resolved, {**given, "source": source, "license": license})
        elif _format(file) == "hdf5":
            result = _import_hdf5(file, resolved, progress)
        else:
            result = _import_pyskl(file, resolved, progress, own=dataset in (None, "pyskl"))
    _show({**result, "seconds": round(time.monotonic() - started, 3)}, as_json=as_json)
    if "extracted" in result and result["quarantined"]:
        raise typer.Exit(3)


def _import_hdf5(file: Path, config: "Config", progress: console.Update) -> dict[str, Json]:
    from unialign.cache.inventory import summarise
    from unialign.pipeline.exchange.hdf5_import import import_hdf5

    done = import_hdf5(file, config.cache.resolve(), progress)
    summary = summarise(done.store.path)
    return {
        "file": str(file),
        "format": "hdf5",
        "store": str(summary.path),
        "key": done.store.key.digest,
        "modality": summary.modality,
        "samples": summary.samples,
        "quarantined": summary.quarantined,
        "reused": done.reused,
        "not_held": [],
    }


def _import_remote(url: str, config: "Config", progress: console.Update) -> dict[str, Json]:
    from unialign.cache.inventory import summarise
    from unialign.cache.store import open_store
    from unialign.pipeline.exchange.remote_import import import_remote

    done = import_remote(url, config.cache.resolve(), progress)
    summary = summarise(done.path)
    return {
        "file": url,
        "format": "store",
        "store": str(done.path),
        "key": open_store(done.path).key.digest,
        "modality": summary.modality,
        "samples": summary.samples,
        "quarantined": summary.quarantined,
        "reused": not done.bytes,
        "bytes": done.bytes,
        "not_held": [],
    }


def _import_features(file: Path, config: "Config", given: Mapping[str, Any]) -> dict[str, Json]:
    from unialign.pipeline.datasets import the_dataset
    from unialign.pipeline.exchange.feature_import import import_features

    store = import_features(file, the_dataset(config), config.cache.resolve(), **given)
    return {
        "file": str(file),
        "format": "features",
        "store": str(store.path),
        "key": store.store.key.digest,
        "modality": store.store.modality,
        "samples": len(store.ids),
        "quarantined": {},
        "reused": False,
        "not_held": [],
    }


def _import_pyskl(file: Path, config: "Config", progress: console.Update, *, own: bool) -> dict[str, Json]:
    from unialign.pipeline.collection import own_collection
    from unialign.pipeline.datasets import the_dataset
    from unialign.pipeline.exchange.pyskl_import import import_pyskl
    from unialign.stages.datasets.catalog import load_dataset

    cache = config.cache.resolve()
    chosen = own_collection(load_dataset("pyskl", file.resolve(), config.labels), cache) if own else the_dataset(config)
    done = import_pyskl(file.resolve(), chosen, config, progress)
    found = done.extraction.result()
    return {
        "file": str(file),
        "format": "pyskl",
        "store": found["store"],
        "key": found["key"],
        "modality": "poses",
        "samples": found["total"] - sum(found["quarantined"].values()),
        "quarantined": found["quarantined"],
        "reasons": found["reasons"],
        "extracted": found["extracted"],
        "reused": found["attempted"] == 0,
        "not_held": list(done.not_held),
    }


def _format(file: Path) -> str:
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{file}: the extension decides the format; known are {', '.join(SUFFIXES)}.")
    return SUFFIXES[file.suffix.lower()]


def _show(result: dict[str, Json], *, as_json: bool) -> None:
    if as_json:
        console.show_json(result)
        return
    shown = {
        name: value for name, value in result.items() if name not in {"not_held", "quarantined", "reasons", "extracted"}
    }
    failed = ", ".join(f"{count} {status}" for status, count in result["quarantined"].items())
    line = f"{result['file']}: {result['samples']:,} samples of {result['store']}"
    console.show_result(line, {**shown, "quarantined": failed or "none"})
    show_reasons(result.get("reasons", []))
    for phrase in result["not_held"]:
        console.say(f"not held by the format: {phrase}")
