"""How similar the texts of classes are, as the text encoder sees them.

Legend: L classes.
"""

from collections.abc import Sequence

import numpy as np

from unialign.cache.reader import Recorded
from unialign.errors import UnialignError
from unialign.pipeline.pages.page import packed
from unialign.stages.extraction.text import unit_rows
from unialign.types import Json

NEAREST = 15


def texts_content(reader: Recorded, classes: Sequence[str]) -> Json:
    """The `texts` of a page; None for a store that lacks a class, and for a single class."""
    from unialign.pipeline.training.text_bank_start import load_text_bank

    try:
        bank = load_text_bank(reader, classes).numpy()
    except UnialignError:
        return None
    if len(classes) < 2:
        return None
    rows = unit_rows(np.asarray(bank, np.float64).reshape(-1, bank.shape[-1])).reshape(bank.shape)
    means = unit_rows(rows.mean(axis=0))
    cosines = np.round(means @ means.T, 6)
    first, second = np.triu_indices(len(classes), k=1)
    low, high = float(cosines[first, second].min()), 1.0
    shades = np.round(255 * (cosines - low) / max(high - low, 1e-9)).clip(0, 255).astype(np.uint8)
    order = np.argsort(-cosines[first, second], kind="stable")[:NEAREST]
    return {
        "similarity": packed(shades),
        "low": low,
        "high": high,
        "nearest": [[int(first[at]), int(second[at]), float(cosines[first[at], second[at]])] for at in order],
        "note": f"Cosine of the mean text of each class over {len(bank)} prompts ({reader.store.name}): white is "
        f"{low:.2f}, the lowest of two classes, full color 1. Texts that are nearly the same cannot tell their classes "
        "apart, whatever is trained on them.",
    }
