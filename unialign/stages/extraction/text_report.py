"""Which classes have almost the same text: they cannot be told apart by their text alone."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from unialign.stages.extraction.text import unit_rows


def closest_pairs(ids: Sequence[str], embeddings: np.ndarray, count: int = 10) -> list[tuple[str, str, float]]:
    """The `count` most similar pairs of classes as (class, class, cosine), most similar first.

    ids: of the rows, as `text_rows` makes them; the part after the last `|` is the class. embeddings: (N, D). The rows
    of a class are scaled to length 1 and averaged first. Cosines are rounded to 6 places, which is what single
    precision carries; equal ones are sorted by name. Raises `ValueError` if ids and rows do not match or a class
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
