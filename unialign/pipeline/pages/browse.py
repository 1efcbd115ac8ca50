"""`unialign browse`: one page about what is in a cache before anything is trained on it, see `write_browser`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unialign.cache.inventory import find_store, iterate_stores
from unialign.cache.reader import StoreReader
from unialign.cache.records import STATUSES
from unialign.errors import MissingCache, UnialignError, UsageError
from unialign.pipeline.config import Config
from unialign.pipeline.manifest import read_manifest
from unialign.pipeline.pages.chosen import around_classes
from unialign.pipeline.pages.coverage import NEVER, coverage_content, status_codes, statuses_content
from unialign.pipeline.pages.maps import map_content
from unialign.pipeline.pages.page import Page, packed, write_page
from unialign.pipeline.pages.provenance import store_parts
from unialign.pipeline.pages.sources import stores_of
from unialign.pipeline.pages.strips import Progress, Sources, layout_content, strips_of
from unialign.pipeline.pages.texts import texts_content
from unialign.stages.datasets.base import Dataset
from unialign.types import Json
from unialign.words import counted

# More samples are shown evenly spaced: a page stays below 10 MB.
MOST_SAMPLES = 100_000
# Samples without features whose reason is told.
MOST_REASONS = 2000
UNLABELED = "(no label)"
CLAIMS = (
    "Skeletons are drawn where the store has joints. Lost and jumping tracks are found by rules, not by eye.",
    "A sample counts as stored if a record says so; `unialign cache verify` reads the bytes.",
    "Similar texts say what the text encoder can tell apart, not what a video network can.",
)
# What a page about runs has besides.
UNTRAINED: Mapping[str, Json] = {
    "rows": [],
    "baselines": [],
    "table": {"head": [], "rows": []},
    "over": "",
    "runs": [],
    "main": 0,
    "pairs": [],
    "speed": None,
}


def write_browser(
    config: Config,
    store: str | None = None,
    *,
    out: Path,
    progress: Progress = lambda done, total, text: None,
) -> Page:
    """Write one self-contained HTML page about the stores of a collection; returns where.

    store: the beginning of a store's name, whose collection is shown, and itself where its modality has several; None:
    the collection of `config.dataset`, or the only one in the cache. Of a modality with several stores, the one that
    the chosen one was made from is shown, else the one that holds most samples.
    Raises `MissingCache` for a cache without stores, `UsageError` for one of several collections, of which none is
    named.
    """
    cache = config.cache.resolve()
    chosen = StoreReader(find_store(cache, store)) if store else None
    collection = chosen.store.collection if chosen else _collection(cache, config)
    readers = _readers(cache, collection, chosen)
    content = browser_content(readers, _dataset(cache, collection, config), cache, progress)
    return write_page(out, content, f"{collection}: {', '.join(reader.store.name for reader in readers.values())}")


def _collection(cache: Path, config: Config) -> str:
    found = sorted({path.parts[-3] for path in iterate_stores(cache)})
    if not found:
        raise MissingCache(f"no store is in {cache}; `unialign extract` makes them.")
    own = [name for name in found if (cache / name / "datasets" / f"{config.dataset}.json").is_file()]
    if len(own) == 1 or len(found) == 1:
        return (own or found)[0]
    raise UsageError(f"{cache} holds {', '.join(found)}; name a store, or say which with --dataset.")


def _readers(cache: Path, collection: str, chosen: StoreReader | None) -> dict[str, StoreReader]:
    """One store per modality of the collection, by modality."""
    modalities = sorted({path.parts[-2] for path in iterate_stores(cache) if path.parts[-3] == collection})
    sources = [str(chosen.store.key.fields.get(name, "")) for name in modalities] if chosen else []
    found: dict[str, StoreReader] = {}
    for modality in modalities:
        stores = stores_of(cache, collection, modality)
        if chosen and modality == chosen.store.modality:
            found[modality] = chosen
        elif stores:
            found[modality] = max(stores, key=lambda each: (each.store.key.digest in sources, len(each)))
    if not found:
        raise MissingCache(f"no store of {collection} in {cache} can be opened; `unialign cache verify` says why.")
    return found


def _dataset(cache: Path, collection: str, config: Config) -> Dataset | None:
    """The list of samples beside the stores: that of the configured dataset, else the longest."""
    found = []
    for path in sorted((cache / collection / "datasets").glob("*.json")):
        try:
            found.append(read_manifest(path))
        except UnialignError:
            continue
    return max(found, key=lambda each: (each.name == config.dataset, len(each.samples)), default=None)


def browser_content(
    readers: dict[str, StoreReader], dataset: Dataset | None, cache: Path, progress: Progress
) -> dict[str, Json]:
    """Everything that the page shows, as `web/sections.js` reads it."""
    classes, ids, labels, parts, note = _samples(readers, dataset)
    sources = Sources(readers.get("frames"), readers.get("poses"))
    order = around_classes(labels, np.array([place for place, name in enumerate(ids) if sources.holds(name)], np.int64))
    shown = strips_of(sources, ids, order, progress)
    for clip in shown:
        clip |= {"top": None, "texts": None, "weights": None}
    clip_stores = {modality: reader for modality, reader in readers.items() if modality != "text"}
    said = [note, f"{len(shown)} of them come with frames or skeletons (▶), around the classes."]
    first = next(iter(readers.values())).store
    return {
        "title": f"{first.collection}: {counted(len(ids), 'sample')} in {counted(len(readers), 'store')}",
        "subtitle": f"{dataset.name if dataset else 'no list of samples beside the stores'}: "
        f"{counted(len(classes), 'class', 'classes')}; before any training.",
        "verdict": _verdict(clip_stores, ids),
        "cards": [
            [modality, f"{len(reader):,}", f"{'texts' if modality == 'text' else 'samples'} in {reader.store.name}"]
            for modality, reader in readers.items()
        ],
        "claims": list(CLAIMS),
        "rows": [],
        "baselines": [],
        "table": {"head": [], "rows": []},
        "over": "",
        "runs": [],
        "main": 0,
        "classes": list(classes),
        "order": list(range(len(classes))),
        "boxes": [],
        "clips": {
            "ids": list(ids),
            "labels": packed(labels.astype(np.uint16)),
            "predicted": [],
            "confidence": [],
            "importance": None,
            "notes": _notes(clip_stores, ids, parts),
            "statuses": statuses_content(clip_stores, ids),
        },
        "shown": shown,
        "chosen": " ".join(filter(None, said)),
        "layout": layout_content(sources.layout if any(clip["people"] for clip in shown) else None),
        "map": map_content(readers, ids, lambda done, total: progress(done, total, "map of features")),
        "texts": texts_content(readers["text"], classes) if "text" in readers and dataset else None,
        "coverage": coverage_content(
            clip_stores,
            ids,
            labels.tolist(),
            len(classes),
            f"All {len(ids):,} samples, by what the stores hold of them.",
        ),
        "provenance": [*store_parts(readers, {}), _others(cache, readers)],
    }


def _samples(
    readers: dict[str, StoreReader], dataset: Dataset | None
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray, dict[str, str], str]:
    """Classes; ids, sorted; label of each; its part of the default protocol by id; a sentence if not all are here."""
    parts: dict[str, str] = {}
    if dataset is not None:
        split = dataset.split()
        for part in ("train", "val", "test"):
            parts |= dict.fromkeys(getattr(split, part), part)
        known = {sample.id: sample.label for sample in dataset.samples}
        classes = dataset.classes
    else:
        known = {name: 0 for mode, reader in readers.items() if mode != "text" for name in reader.table.ids}
        classes = (UNLABELED,)
    ids = sorted(known)
    note = ""
    if len(ids) > MOST_SAMPLES:
        note = f"{MOST_SAMPLES:,} of {len(ids):,} samples, evenly spaced, are on this page."
        ids = [ids[place] for place in np.linspace(0, len(ids) - 1, MOST_SAMPLES).astype(int)]
    return classes, tuple(ids), np.array([known[name] for name in ids], np.int64), parts, note


def _verdict(readers: dict[str, StoreReader], ids: Sequence[str]) -> list[str]:
    said = []
    for modality, reader in readers.items():
        codes = status_codes(reader, ids)
        lacking = {
            (STATUSES[code] if code < len(STATUSES) else NEVER): int((codes == code).sum())
            for code in np.unique(codes).tolist()
            if code
        }
        if lacking:
            words = ", ".join(f"{count:,} {status}" for status, count in lacking.items())
            said.append(f"{modality}: {len(ids) - sum(lacking.values()):,} of {len(ids):,} samples ({words}).")
    return said or [f"Every store holds all {len(ids):,} samples."]


def _notes(readers: dict[str, StoreReader], ids: Sequence[str], parts: dict[str, str]) -> list[str]:
    """A line for each sample: its part of the split, and why a store does not have it."""
    notes = [parts.get(name, "") for name in ids]
    told = 0
    for modality, reader in readers.items():
        codes = status_codes(reader, ids)
        for place in np.flatnonzero(codes).tolist():
            status = STATUSES[codes[place]] if codes[place] < len(STATUSES) else NEVER
            why = ""
            if status != NEVER and told < MOST_REASONS:
                told += 1
                why = str(reader.table.entry(reader.table.row(ids[place])).detail.get("why", ""))
            reason = f"{modality}: {status}{f' ({why})' if why else ''}"
            notes[place] = "; ".join(filter(None, [notes[place], reason]))
    return notes


def _others(cache: Path, readers: dict[str, StoreReader]) -> Json:
    """The stores of the collection that are not shown."""
    collection = next(iter(readers.values())).store.collection
    shown = {reader.path for reader in readers.values()}
    paths = [path for path in iterate_stores(cache) if path.parts[-3] == collection and path not in shown]
    rows = [[path.parts[-2], path.stem] for path in paths]
    return {
        "title": f"Stores that are not on this page: {len(rows)}",
        "open": False,
        "table": {"head": ["modality", "store"], "rows": rows},
    }
