"""`unialign cache ...`: what lies in the cache, and whether it is whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from unialign import console
from unialign.commands import transfer
from unialign.commands.options import AsJson, Cache, Command, ConfigFile, Group, Quiet, Runs, Verbose, resolve
from unialign.types import Json
from unialign.words import counted

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="List, measure, verify, compare, export, import and prune stores.",
    epilog="Example: unialign cache ls",
)

Name = Annotated[str, typer.Argument(metavar="STORE", help="A store: a path, or the beginning of its name or key.")]


@app.command("ls", cls=Command, epilog="Example: unialign cache ls --cache cache")
def list_stores(cache: Cache = None, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """List all stores with their counts."""
    from unialign.cache.inventory import iterate_stores, summarise
    from unialign.cache.mirrors import bucket_of

    root = resolve(config, None, cache=cache).cache.resolve()
    where = bucket_of(root) or str(root)
    found = [summarise(path) for path in iterate_stores(root)]
    if as_json:
        console.show_json({"cache": where, "stores": [summary.row() for summary in found]})
        return
    if not found:
        _say_empty(root)
        return
    rows = [
        (
            summary.collection,
            summary.modality,
            summary.name,
            summary.samples,
            sum(summary.quarantined.values()),
            summary.problem or console.human_bytes(summary.bytes),
        )
        for summary in found
    ]
    console.show_table(where, ("collection", "modality", "store", "samples", "quarantined", "size"), rows)


@app.command("info", cls=Command, epilog="Example: unialign cache info yolo-0123")
def info(store: Name, cache: Cache = None, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Describe one store: its key field by field, its arrays, its counts."""
    from unialign.cache.index import load_table
    from unialign.cache.inventory import find_store, summarise
    from unialign.cache.keys import flatten
    from unialign.cache.records import count_environments
    from unialign.cache.store import open_store

    path = find_store(resolve(config, None, cache=cache).cache.resolve(), store)
    opened, summary = open_store(path), summarise(path)
    table, environments = load_table(opened), count_environments(path)
    failed = {entry.id: entry.status for entry in map(table.entry, (~table.ok).nonzero()[0].tolist())}
    if as_json:
        arrays: list[Json] = [
            {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape), "dims": list(spec.dims)}
            for spec in opened.arrays
        ]
        console.show_json(
            {
                **summary.row(),
                "key": opened.key.digest,
                "fields": dict(opened.key.fields),
                "arrays": arrays,
                "attributes": dict(opened.attributes),
                "environment": environments,
                "failed": failed,
            }
        )
        return
    console.show_fields({"store": path, "samples": summary.samples, "size": console.human_bytes(summary.bytes)})
    console.show_table(
        "arrays (after the sample axis)",
        ("array", "type", "shape", "axes"),
        [(spec.name, spec.dtype, str(spec.shape), ", ".join(spec.dims)) for spec in opened.arrays],
    )
    console.show_table(f"key {opened.key.digest}", ("field", "value"), list(flatten(opened.key.fields)))
    mixed = " (mixed: outputs of networks may differ in their last digits)" if len(environments) > 1 else ""
    rows = [(row["shards"], described(row)) for row in environments]
    console.show_table(f"built by{mixed}", ("shards", "processor, device, libraries"), rows)
    if failed:
        console.show_table("quarantined", ("sample", "status"), sorted(failed.items()))


def _say_empty(root: Path) -> None:
    from unialign.cache.inventory import why_empty

    console.say(f"{why_empty(root)}; `unialign extract` makes stores, and --cache names another cache.")


@app.command("du", cls=Command, epilog="Example: unialign cache du --cache cache")
def usage(cache: Cache = None, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Show apparent size and disk usage per store and array."""
    from unialign.cache.usage import cache_usage

    root = resolve(config, None, cache=cache).cache.resolve()
    with console.progress_bar("du", hidden=as_json) as progress:
        found = cache_usage(root, progress)
    result = found.result()
    if as_json:
        console.show_json({"cache": str(root), **result})
        return
    if not result["stores"]:
        _say_empty(root)
        return
    rows: list[tuple[str, str, int | str, str, str, str]] = []
    for store in result["stores"]:
        name = f"{store['collection']}/{store['modality']}/{store['name']}"
        rows.append((name, "", store["shards"], *_sizes(store), f"{store['percent']:.1f} %"))
        parts = {**store["arrays"], "(records)": store["records"], "(metadata)": store["metadata"]}
        rows += [("", part, "", *_sizes(taken), "") for part, taken in parts.items()]
        if store["temporaries"]["files"]:
            rows.append(("", "(temporaries)", "", *_sizes(store["temporaries"]), ""))
    rows.append(("lists, locks, digests", "", "", *_sizes(result["other"]), ""))
    if result["temporaries"]["files"]:
        rows.append(("temporaries beside the stores", "", "", *_sizes(result["temporaries"]), ""))
    rows.append(("total", "", sum(store.shards for store in found.stores), *_sizes(result), "100.0 %"))
    console.show_table(str(root), ("store", "array", "shards", "size", "on disk", "share"), rows)


def _sizes(taken: dict[str, Json]) -> tuple[str, str]:
    return console.human_bytes(taken["bytes"]), console.human_bytes(taken["on_disk"])


@app.command("verify", cls=Command, epilog="Example: unialign cache verify --json")
def verify(
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="A store. Default: all of them.", show_default=False)
    ] = None,
    cache: Cache = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Compare every byte with the records.

    The exit code is 4 if anything is damaged.
    """
    from unialign.cache.inventory import find_store, iterate_stores
    from unialign.cache.verify import damage_rows, verify_store

    root = resolve(config, None, cache=cache).cache.resolve()
    stores = [find_store(root, store)] if store else list(iterate_stores(root))
    damaged: list[dict[str, Json]] = []
    for path in stores:
        with console.progress_bar(f"verify {path.stem}", hidden=as_json) as progress:
            damaged += [{"store": str(path), **row} for row in damage_rows(verify_store(path, progress))]
    if as_json:
        console.show_json({"ok": not damaged, "damaged": damaged, "stores": len(stores)})
    elif damaged:
        rows = [(Path(str(row["store"])).stem, row["file"], row["problem"]) for row in damaged]
        console.show_table("damaged", ("store", "file", "problem"), rows)
        console.messages.print("Extract damaged shards again with `unialign extract MODALITY ... --repair`.")
    else:
        console.output.print(f"{counted(len(stores), 'store')} checked, every byte is as it was written.")
    if damaged:
        raise typer.Exit(4)


@app.command("why", cls=Command, epilog="Example: unialign cache why yolo-0123 yolo-4567")
def why(first: Name, second: Name, cache: Cache = None, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Say which fields of two stores' keys differ, and what computed each store."""
    from unialign.cache.inventory import find_store
    from unialign.cache.keys import differences
    from unialign.cache.records import count_environments
    from unialign.cache.store import open_store

    root = resolve(config, None, cache=cache).cache.resolve()
    left, right = open_store(find_store(root, first)), open_store(find_store(root, second))
    rows = differences(left.key.fields, right.key.fields)
    environments = [count_environments(store.path) for store in (left, right)]
    if as_json:
        found = {"first": left.name, "second": right.name, "differences": [dict(row) for row in rows]}
        console.show_json({**found, "environment": {"first": environments[0], "second": environments[1]}})
        return
    if rows:
        shown = [(row["field"], str(row["first"]), str(row["second"])) for row in rows]
        console.show_table("different fields", ("field", left.name, right.name), shown)
    else:
        console.output.print("The two keys are equal.")
    console.show_fields(
        {
            f"{store.name} built by": "; ".join(f"{described(row)} ({counted(row['shards'], 'shard')})" for row in each)
            for store, each in zip((left, right), environments, strict=True)
        }
    )


def described(environment: Mapping[str, Json]) -> str:
    """What computed a shard, in one line."""
    values = [
        str(value) if name in ("processor", "device") else f"{name} {value}"
        for name, value in environment.items()
        if name != "shards" and value is not None
    ]
    return ", ".join(values) or "not recorded"


@app.command("prune", cls=Command, epilog="Example: unialign cache prune --dry-run")
def prune(
    cache: Cache = None,
    runs: Runs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Remove the stores that no run in --runs has read."""
    from unialign.pipeline.prune import prune as prune_cache

    resolved = resolve(config, None, cache=cache, runs=runs)
    with console.progress_bar("prune", hidden=as_json) as progress:
        done = prune_cache(resolved.cache.resolve(), resolved.runs.resolve(), dry_run=dry_run, progress=progress)
    if as_json:
        console.show_json(
            {
                "dry_run": dry_run,
                "removed": [summary.row() for summary in done.removed],
                "bytes": sum(summary.bytes for summary in done.removed),
                "kept": done.kept,
                "busy": list(map(str, done.busy)),
                "unreadable": list(map(str, done.unreadable)),
                "temporaries": list(map(str, done.temporaries)),
            }
        )
        return
    rows = [
        (summary.collection, summary.modality, summary.name, console.human_bytes(summary.bytes))
        for summary in done.removed
    ]
    if console.is_quiet():
        console.output.print(f"{len(rows)} stores {'would be removed' if dry_run else 'removed'}, {done.kept} kept")
        return
    console.show_table("would be removed" if dry_run else "removed", ("collection", "modality", "store", "size"), rows)
    console.messages.print(
        f"{counted(done.kept, 'store')} kept, {counted(len(done.temporaries), 'unfinished folder')} cleared."
    )
    for why, paths in (("it is being written or read", done.busy), ("it cannot be read", done.unreadable)):
        for path in paths:
            console.messages.print(f"kept because {why}: {path}")


transfer.add_commands(app)
