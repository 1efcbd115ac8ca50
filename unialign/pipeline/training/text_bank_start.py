"""The initial text bank of training, from the rows of a text store."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unialign.errors import MissingCache, UsageError
from unialign.stages.extraction.text import label_id, unit_rows
from unialign.stages.sample_reader import SampleReader

ADVICE = "run `unialign extract text` for this dataset."


def shared_templates(reader: SampleReader, class_names: Sequence[str]) -> tuple[str, ...]:
    """The templates of a text store that have a row for every class, sorted.

    Raises `MissingCache` if there are none, naming a class that has no rows at all, if any.
    """
    held: dict[str, set[str]] = {}
    for name in reader.ids:
        kind, _, rest = name.partition("|")
        template, _, class_name = rest.partition("|")
        if kind == "label":
            held.setdefault(template, set()).add(class_name)
    wanted = set(class_names)
    lost = sorted(wanted.difference(*held.values()))
    if lost:
        raise MissingCache(f"the text store has no row for class {lost[0]!r} ({len(lost)} such classes); {ADVICE}")
    found = tuple(sorted(template for template, names in held.items() if wanted <= names))
    if not found:
        raise MissingCache(f"no template of the text store has a row for each of {len(wanted)} classes; {ADVICE}")
    return found


def label_rows(templates: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """The row ids of these classes for these templates."""
    return tuple(label_id(template, name) for template in templates for name in class_names)


def description_rows(reader: SampleReader, class_names: Sequence[str]) -> tuple[str, ...]:
    """The ids of the description rows of these classes that exist in a text store."""
    ends = {f"|{name}" for name in class_names}
    return tuple(row for row in reader.ids if row.startswith("description|") and any(map(row.endswith, ends)))


def similar_classes(reader: SampleReader, class_names: Sequence[str], count: int) -> list[tuple[str, str, float]]:
    """The classes with the most similar texts: (class, class, cosine), most similar first; see `closest_pairs`."""
    bank = load_text_bank(reader, class_names)
    ids = [label_id(str(number), name) for number in range(len(bank)) for name in class_names]
    return closest_pairs(ids, bank.flatten(0, 1).numpy(), count)


def load_text_bank(reader: SampleReader, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Tensor:
    """The label rows of a text store, (templates, classes, width) float32, classes in label order.

    templates: which to load, in this order; default: `shared_templates`. Raises `MissingCache` if a row is missing,
    `UsageError` if two classes have equal rows.
    """
    chosen = tuple(templates) if templates else shared_templates(reader, class_names)
    held = set(reader.ids)
    for template in chosen:
        lacking = [name for name in class_names if label_id(template, name) not in held]
        if lacking:
            raise MissingCache(
                f"the text store has no row for template {template!r} and class {lacking[0]!r} "
                f"({len(lacking)} such classes); {ADVICE}"
            )
    rows = [[reader.read_one(label_id(each, name))["embedding"] for name in class_names] for each in chosen]
    bank = np.asarray(rows, dtype=np.float32)
    for template, of_classes in zip(chosen, bank, strict=True):
        first = {row.tobytes(): name for name, row in reversed([*zip(class_names, of_classes, strict=True)])}
        for name, row in zip(class_names, of_classes, strict=True):
            if first[row.tobytes()] != name:
                raise UsageError(
                    f"the text store has the same embedding for {first[row.tobytes()]!r} and {name!r} in template "
                    f"{template!r}: the encoder cannot tell them apart; rename them, or take another encoder."
                )
    return torch.from_numpy(bank)


def load_descriptions(reader: SampleReader, class_names: Sequence[str]) -> Tensor:
    """The mean description of each class, (classes, width) float32, from the description rows of a text store.

    Raises `UsageError` if a class has none.
    """
    rows: dict[str, list[np.ndarray]] = {name: [] for name in class_names}
    for row in reader.ids:
        kind, _, rest = row.partition("|")
        name = rest.partition("|")[2]
        if kind == "description" and name in rows:
            rows[name].append(reader.read_one(row)["embedding"].astype(np.float32))
    lacking = [name for name, found in rows.items() if not found]
    if lacking:
        raise UsageError(
            f"the text store has no description of class {lacking[0]!r} ({len(lacking)} such classes); run `unialign "
            "extract text --descriptions FILE`, or set train.dvta.enhancement to false."
        )
    return torch.from_numpy(np.stack([np.mean(found, axis=0) for found in rows.values()]))


def closest_pairs(ids: Sequence[str], embeddings: np.ndarray, count: int = 10) -> list[tuple[str, str, float]]:
    """The `count` most similar pairs of classes as (class, class, cosine), most similar first.

    ids: of the rows, as created by `text_rows`; the part after the last `|` is the class. embeddings: (N, D). The rows
    of a class are first normalized to length 1 and averaged. Cosines are rounded to 6 decimal places, the limit of
    single precision; ties are sorted by name. Raises `ValueError` if ids and rows do not match or a class
    has no direction (zeros, NaN).
    """
    if len(ids) != len(embeddings):
        raise ValueError(f"{len(ids)} ids for {len(embeddings)} rows")
    members: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(ids):
        members[name.rpartition("|")[2]].append(row)
    names = sorted(members)
    if len(names) < 2:
        return []
    rows = unit_rows(np.asarray(embeddings, dtype=np.float64))
    classes = unit_rows(np.stack([rows[members[name]].mean(axis=0) for name in names]))  # (L, D)
    if not np.isfinite(classes).all():
        bad = [name for name, row in zip(names, classes, strict=True) if not np.isfinite(row).all()]
        raise ValueError(f"no direction for class {bad[0]!r}: its rows are zeros, cancel out, or are not finite")
    first, second = np.triu_indices(len(names), k=1)
    cosines = np.round((classes @ classes.T)[first, second], 6)
    order = np.argsort(-cosines, kind="stable")[:count]
    return [(names[first[pair]], names[second[pair]], float(cosines[pair])) for pair in order]
