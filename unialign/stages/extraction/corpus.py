"""The entity corpus of ALT: visible things (objects, places, people, body parts) that action texts mention.

Source: Chen et al., "Align before Adapt", CVPR 2024. There, candidates come from two part-of-speech taggers and a
language model, and descriptions from WordNet and a language model. Deviation: no network and no tagger; candidates
are the entries of a given word list (nouns and phrases, for example those of WordNet, with its glosses as
descriptions).

Rule: texts are split into lower-case words (letters, digits, apostrophes; "BrushHair" and "brush_hair" are two words).
From left to right, the longest phrase of the list that begins at a word is taken, and the search continues after
it. A word that is not on the list is tried without a plural ending. Body parts are always added, at the end.

Files of entities, word lists and body parts (UTF-8, no header) have one entity per line, with tabs between the columns:

    name <TAB> description <TAB> provenance

The last two columns may be missing or empty. `read_entities` reads such a file, `entities_text` writes it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unialign.errors import UsageError
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.templates import read_lines

COLUMNS = 3
BODY = "body parts"


@dataclass(frozen=True)
class Entity:
    """One entity. provenance: where it was found ("kinetics: playing guitar"), in order, joined by "; " in a file."""

    name: str
    description: str = ""
    provenance: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The text that is embedded: the name and its description."""
        return f"{self.name}: {self.description}" if self.description else self.name


# Wording of this project. Always in the corpus, since every action involves a body.
BODY_PARTS: tuple[Entity, ...] = tuple(
    Entity(name, description, (BODY,))
    for name, description in (
        ("head", "the round top part of the body above the neck"),
        ("face", "the front of the head with eyes, nose and mouth"),
        ("hair", "the strands that grow on the head"),
        ("forehead", "the part of the face above the eyes"),
        ("eye", "one of the two organs of sight in the face"),
        ("eyebrow", "the line of short hair above an eye"),
        ("ear", "one of the two organs of hearing at the sides of the head"),
        ("nose", "the part that stands out in the middle of the face"),
        ("cheek", "the soft side of the face below the eye"),
        ("mouth", "the opening in the face used to eat and speak"),
        ("lip", "one of the two soft edges of the mouth"),
        ("tooth", "one of the hard white pieces in the mouth"),
        ("chin", "the bottom of the face below the mouth"),
        ("beard", "the hair on the lower part of a face"),
        ("neck", "the part between the head and the shoulders"),
        ("shoulder", "the joint where an arm meets the body"),
        ("arm", "the limb from the shoulder to the hand"),
        ("elbow", "the joint in the middle of an arm"),
        ("wrist", "the joint between the forearm and the hand"),
        ("hand", "the end of an arm with palm and fingers"),
        ("finger", "one of the five long parts at the end of a hand"),
        ("chest", "the front of the upper body below the neck"),
        ("back", "the rear of the body from the shoulders to the hips"),
        ("belly", "the front of the body below the chest"),
        ("waist", "the narrow part of the body above the hips"),
        ("hip", "the side of the body where a leg begins"),
        ("leg", "the limb from the hip to the foot"),
        ("thigh", "the upper part of a leg above the knee"),
        ("knee", "the joint in the middle of a leg"),
        ("ankle", "the joint between the leg and the foot"),
        ("foot", "the end of a leg that stands on the ground"),
    )
)


def read_entities(path: Path) -> tuple[Entity, ...]:
    """The entities of a file in file order, see the module.

    Raises `UsageError` for a file that cannot be read or is empty, a line without a name, with more than three columns
    or a name with "|" (which separates the parts of a row's id), and a repeated name.
    """
    lines = read_lines(path)
    if not lines:
        raise UsageError(f"{path}: the file holds no entity; write one per line: name, tab, description.")
    found: dict[str, int] = {}
    entities = []
    for number, line in enumerate(lines, start=1):
        columns = [" ".join(column.split()) for column in line.split("\t")]
        name, description, provenance = (*columns, "", "")[:COLUMNS]
        if not name or "|" in name or len(columns) > COLUMNS:
            raise UsageError(
                f"{path}: line {number} is not `name`, tab, `description`, tab, `provenance` with a name without '|'."
            )
        if name in found:
            raise UsageError(f"{path}: lines {found[name]} and {number} both hold {name!r}; remove one.")
        found[name] = number
        entities.append(Entity(name, description, tuple(part for part in provenance.split("; ") if part)))
    return tuple(entities)


def entities_text(entities: Iterable[Entity]) -> str:
    """The content of a file of entities."""
    rows = ((each.name, each.description, "; ".join(each.provenance)) for each in entities)
    return "".join("\t".join(" ".join(column.split()) for column in row) + "\n" for row in rows)


def entity_id(name: str) -> str:
    """Id of the row of an entity."""
    return f"entity|{name}"


def entity_rows(entities: Sequence[Entity]) -> tuple[Source, ...]:
    """One source per entity, in order, with the text to embed."""
    return tuple(Source(entity_id(each.name), text=each.text) for each in entities)


def label_texts(labels: Path, descriptions: Path | None = None) -> tuple[tuple[str, str], ...]:
    """(label, text) pairs of a file with one label per line: each label itself and, with a second file of as many
    lines, its descriptions after it (tabs between several).

    Raises `UsageError` for a file that cannot be read or is empty, a blank line, and a different number of lines.
    """
    names = [" ".join(name.split()) for name in read_lines(labels)]
    if not names or not all(names):
        where = f"line {names.index('') + 1} is blank" if names else "the file is empty"
        raise UsageError(f"{labels}: {where}; write one label per line.")
    if descriptions is None:
        return tuple((name, name) for name in names)
    lines = read_lines(descriptions)
    if len(lines) != len(names):
        raise UsageError(f"{descriptions}: has {len(lines)} lines for {len(names)} labels of {labels}; write one each.")
    return tuple(
        (name, text)
        for name, line in zip(names, lines, strict=True)
        for text in (name, *(part for part in line.split("\t") if part.strip()))
    )


def build_corpus(
    texts: Mapping[str, Sequence[tuple[str, str]]],
    words: Sequence[Sequence[Entity]],
    body_parts: Sequence[Entity] = BODY_PARTS,
) -> tuple[Entity, ...]:
    """The corpus: entities in the order in which the texts first mention them, then the body parts that none mentions.

    texts: (label, text) pairs by the name of a collection, see `label_texts`. words: lists of nouns and phrases; the
        first list that contains a word describes it, and a body part that no list describes keeps its own description.
        Each entity occurs once, with all its provenance. Raises `UsageError` if no text contains any word.
    """
    known: dict[str, Entity] = {}
    for each in (*(entity for listed in words for entity in listed), *body_parts):
        name = " ".join(words_of(each.name))
        if not name:
            raise UsageError(f"the word {each.name!r} has no letters; remove it from the list.")
        before = known.get(name)
        if before is None or not before.description:
            known[name] = replace(each, name=name, provenance=())
    longest = max((name.count(" ") + 1 for name in known), default=0)
    found: dict[str, list[str]] = {}
    for collection, pairs in texts.items():
        for label, text in pairs:
            where = f"{collection}: {label}".replace(";", ",")  # which separates provenances in a file
            for name in phrases_in(text, known, longest):
                places = found.setdefault(name, [])
                if where not in places:
                    places.append(where)
    if not found:
        raise UsageError(
            f"no label or description holds any of the {len(known)} words; give word lists of the labels' language."
        )
    for each in body_parts:
        found.setdefault(" ".join(words_of(each.name)), []).append(BODY)
    return tuple(replace(known[name], provenance=tuple(places)) for name, places in found.items())


def phrases_in(text: str, known: Mapping[str, object], longest: int) -> list[str]:
    """The phrases of `known` in a text, by the rule of the module, in order, with repeats. longest: words of the
    longest one.
    """
    words = words_of(text)
    found = []
    start = 0
    while start < len(words):
        for length in range(min(longest, len(words) - start), 0, -1):
            rest = words[start : start + length - 1]
            last = words[start + length - 1]
            names = (" ".join([*rest, form]) for form in (last, *singulars(last)))
            name = next((name for name in names if name in known), None)
            if name is not None:
                found.append(name)
                start += length
                break
        else:
            start += 1
    return found


def words_of(text: str) -> list[str]:
    """Lower-case words of a text; a capital letter after a small one begins a word."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", parted)


def singulars(word: str) -> list[str]:
    """Words that a word may be the regular English plural of: "berry" and "berrie" for "berries", "box" and "boxe"
    for "boxes"; the likeliest first.
    """
    if len(word) <= 3 or not word.endswith("s") or word.endswith("ss"):
        return []
    forms = [word[:-1]]
    if word.endswith("es"):
        forms.append(word[:-2])
    if word.endswith("ies"):
        forms.insert(0, word[:-3] + "y")
    return forms
