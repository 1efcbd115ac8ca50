"""Which samples the stores hold, and why the others are not there, by class.

Legend: L classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from unialign.cache.reader import Recorded
from unialign.cache.records import STATUSES
from unialign.cache.table import ABSENT
from unialign.pipeline.pages.page import packed
from unialign.types import Json

NEVER = "never extracted"
WORDS = (*STATUSES, NEVER)


def status_codes(reader: Recorded, ids: Sequence[str]) -> np.ndarray:
    """(len(ids),) uint8: places in `WORDS`."""
    rows = reader.table.find(ids)
    if not len(reader.table):
        return np.full(len(ids), len(STATUSES), np.uint8)
    return np.where(rows == ABSENT, len(STATUSES), reader.table.status[rows]).astype(np.uint8)


def coverage_content(
    readers: Mapping[str, Recorded], ids: Sequence[str], labels: Sequence[int], count: int, note: str
) -> Json:
    """The `coverage` of a page: samples of each of `count` classes, and for each store its samples by status."""
    places = np.asarray(labels, np.int64)
    stores = []
    for modality, reader in readers.items():
        if modality == "text":
            continue
        codes = status_codes(reader, ids)
        by_status = {
            WORDS[code]: np.bincount(places[codes == code], minlength=count).tolist() for code in np.unique(codes)
        }
        lacking = np.bincount(places[codes != 0], minlength=count).tolist()
        stores.append({"name": modality, "store": reader.store.name, "by_status": by_status, "lacking": lacking})
    if not stores or not len(places):
        return None
    return {"stores": stores, "samples": np.bincount(places, minlength=count).tolist(), "note": note}


def statuses_content(readers: Mapping[str, Recorded], ids: Sequence[str]) -> list[Json]:
    """The `statuses` of the clips of a page, one entry per store."""
    return [
        {"name": f"{modality}", "words": list(WORDS), "codes": packed(status_codes(reader, ids))}
        for modality, reader in readers.items()
        if modality != "text"
    ]
