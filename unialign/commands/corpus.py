"""`unialign corpus`: the file of entities that ALT's corpus is embedded from."""

from pathlib import Path
from typing import Annotated

import typer

from unialign import console
from unialign.cache.paths import expanded_path
from unialign.commands.options import AsJson, Command, Overwrite
from unialign.errors import UsageError


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into the application."""
    app.command(
        "corpus",
        cls=Command,
        epilog="Example: unialign corpus entities.tsv --labels ucf101=ucf101.txt --words nouns.tsv",
    )(corpus)


def corpus(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File to write: one entity per line, as name, description and provenance, tab-separated.",
        ),
    ],
    labels: Annotated[
        list[str],
        typer.Option(
            "--labels",
            metavar="NAME=FILE[,FILE]",
            help="File with a collection's labels, one per line, and optionally one with descriptions (repeatable).",
        ),
    ],
    words: Annotated[
        list[Path],
        typer.Option(
            "--words", help="File of words and phrases that may be entities, in the format of the result (repeatable)."
        ),
    ],
    body_parts: Annotated[
        Path | None,
        typer.Option(
            "--body-parts", help="File of entities that are always added. Default: body parts that are built in."
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the file of entities for ALT's corpus.

    It holds the entities of the word lists that labels and descriptions name, and the body parts.
    """
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists, perhaps corrected by hand; give another name, or --overwrite to replace it.")
    from unialign.cache.atomic import write_text
    from unialign.stages.extraction.corpus import (
        BODY_PARTS,
        build_corpus,
        entities_text,
        label_texts,
        read_entities,
    )

    texts: dict[str, list[tuple[str, str]]] = {}
    for given in labels:
        name, _, paths = given.partition("=")
        first, _, second = paths.partition(",")
        if not name or not first:
            raise UsageError(f"--labels {given!r} is not of the form NAME=FILE, such as ucf101=ucf101.txt.")
        files = [expanded_path(Path(path)) for path in (first, second) if path]
        texts.setdefault(name, []).extend(label_texts(*files))
    parts = read_entities(expanded_path(body_parts)) if body_parts else BODY_PARTS
    found = build_corpus(texts, [read_entities(expanded_path(path)) for path in words], parts)
    write_text(file, entities_text(found))
    described = sum(bool(entity.description) for entity in found)
    if as_json:
        console.show_json({"file": str(file), "entities": len(found), "described": described})
        return
    console.show_fields({"file": file, "entities": len(found), "with a description": described})
