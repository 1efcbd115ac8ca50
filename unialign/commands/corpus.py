"""`unialign corpus`: the file of entities that ALT's corpus is embedded from."""

from pathlib import Path
from typing import Annotated

import typer

from unialign import console
from unialign.cache.paths import expanded_path
from unialign.commands.options import AsJson
from unialign.errors import UsageError


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into the application."""
    app.command("corpus", epilog="Example: unialign corpus entities.tsv --labels ucf101=ucf101.txt --words nouns.tsv")(
        corpus
    )


def corpus(
    file: Annotated[Path, typer.Argument(help="Where the entities go: name, description, provenance; tabs between.")],
    labels: Annotated[
        list[str],
        typer.Option("--labels", metavar="NAME=FILE[,FILE]", help="A collection's labels, one a line[, descriptions]."),
    ],
    words: Annotated[
        list[Path], typer.Option("--words", help="Words and phrases that may be entities, a file like the result.")
    ],
    body_parts: Annotated[
        Path | None, typer.Option("--body-parts", help="Entities that are always added, instead of the built-in ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pick the entities of a word list that labels and descriptions name, and add the body parts."""
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
