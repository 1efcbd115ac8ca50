"""`unialign data`: which datasets there are, what of one is here, and what a sample looks like."""

from pathlib import Path
from typing import Annotated

import typer

from unialign import console
from unialign.commands.options import (
    AsJson,
    Command,
    ConfigFile,
    DatasetName,
    Group,
    Labels,
    Overrides,
    Overwrite,
    Protocol,
    Quiet,
    Root,
    Verbose,
    resolve,
)
from unialign.errors import UsageError
from unialign.words import counted

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    epilog="Example: unialign data ls",
    help="List datasets, count what is present of one, and show one of its samples.",
)


@app.command("ls", cls=Command, epilog="Example: unialign data ls")
def list_datasets(as_json: AsJson = False) -> None:
    """List every dataset with the kind of its data root and its published sizes."""
    from unialign.pipeline.dataset_check import known_datasets

    found = known_datasets()
    if as_json:
        console.show_json(found)
        return
    rows = []
    for each in found:
        sizes = [
            f"{protocol}: {', '.join(f'{count:,} {part}' for part, count in parts.items())}"
            for protocol, parts in each["sizes"].items()
        ]
        rows.append((each["name"], each["title"], each["root"], "; ".join(sizes)))
    console.show_table("datasets", ("name", "what it is", "root", "published sizes"), rows)


@app.command("check", cls=Command, epilog="Example: unialign data check --dataset ucf101 --root UCF-101")
def check(
    dataset: DatasetName = None,
    root: Root = None,
    labels: Labels = None,
    protocol: Protocol = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Count the samples found, listed, published and missing, for each part of each split.

    With `--protocol`, of that split alone, such as `unseen=FILE` or `subject=anna`.
    """
    resolved = resolve(config, overrides, dataset=dataset, data=root, labels=labels, protocol=protocol)
    from unialign.pipeline.dataset_check import check_dataset, lists_alone
    from unialign.pipeline.datasets import rooted_dataset
    from unialign.stages.datasets.official_lists import NoClips

    try:
        found = check_dataset(rooted_dataset(resolved), resolved.protocol)
    except NoClips as error:
        # Nothing to extract, but something to count.
        found = lists_alone(error)
    if as_json:
        console.show_json(found)
        return
    files = ", ".join(f"{count:,} {kind}" for kind, count in found["files"].items())
    shown = {"dataset": found["dataset"], "samples": f"{found['samples']:,}"}
    if "classes" in found:
        shown["classes"] = found["classes"]
    shown["files"] = files or "none"
    if not found.get("mirror", True):
        shown["mirrored clips"] = "change their class: no flips"
    if found.get("empty_classes"):
        shown["without samples"] = (
            f"{counted(len(found['empty_classes']), 'class', 'classes')}, such as {found['empty_classes'][0]}"
        )
    console.show_fields(shown)
    columns = ("split", "part", "found", "listed", "published", "missing", "for example")
    console.show_table("parts", columns, [_cells(part) for part in found["parts"]])
    for note in found["notes"]:
        console.output.print(f"note: {note}")


def _cells(part: dict[str, object]) -> list[object]:
    counts = ["" if part[name] is None else f"{part[name]:,}" for name in ("found", "listed", "published", "missing")]
    examples = part["examples"]
    return [part["protocol"], part["part"], *counts, examples[0] if isinstance(examples, list) and examples else ""]


@app.command(
    "show",
    cls=Command,
    epilog="Example: unialign data show v_YoYo_g08_c01 --dataset ucf101 --root UCF-101",
)
def show(
    sample: Annotated[str, typer.Argument(metavar="ID", help="Id of the sample, or its beginning.")],
    dataset: DatasetName = None,
    root: Root = None,
    labels: Labels = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Image to write. [default: ID.png]")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Show class, files and parts of one sample, and write a PNG of some of its frames or skeletons."""
    resolved = resolve(config, overrides, dataset=dataset, data=root, labels=labels)
    from unialign.cache.atomic import write_file
    from unialign.cache.paths import expanded_path
    from unialign.pipeline.dataset_check import describe_sample, draw_sample, find_sample
    from unialign.pipeline.datasets import rooted_dataset

    loaded = rooted_dataset(resolved)
    found = find_sample(loaded, sample)
    path = expanded_path(out) if out else Path(f"{found.id.replace('/', '-')}.png")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; give another name with --out, or --overwrite.")
    write_file(path, draw_sample(loaded, found, resolved))
    facts = {**describe_sample(loaded, found), "image": str(path)}
    if as_json:
        console.show_json(facts)
        return
    flat = {name: value for name, value in facts.items() if not isinstance(value, dict)}
    for name in ("files", "attributes", "parts"):
        flat |= {f"{name} {key}": value for key, value in facts[name].items()}
    console.show_fields(flat)
