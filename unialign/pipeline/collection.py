"""Finds the collection of a cache that belongs to a dataset whose collection is named after its folder or file.

Two folders named clips, or two lists named train.pkl, are separate collections even if their ids are equal; the same
data stay one collection when they change (their samples are then stale) and when they or the cache are moved. So the
name alone is not enough, and a content digest cannot be part of it: every change would start a new collection. A
collection belongs to a dataset if it was created from the same path, which is stored with its digests, or, if the path
differs, if the samples they have in common come from the same bytes.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from unialign.cache.digests import file_digest, spanned_digest
from unialign.errors import CacheProblem
from unialign.pipeline.extraction.source_digests import SourceDigests
from unialign.pipeline.manifest import manifest_path, read_manifest
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.frame_files import content_digest

# Number of files read to determine whether data at another path are the same; whether each clip is up to date is
# checked elsewhere.
_COMPARED = 8


def own_collection(dataset: Dataset, cache: Path) -> Dataset:
    """The dataset with its collection name in a cache: its plain name, or with eight hex digits added if taken.

    Reads up to eight source files to compare with a collection of that name that was created from another path.
    """
    if dataset.published:
        return dataset
    known = list(_candidates(cache, dataset.collection))
    for is_own in (_same_place, _same_content):
        for name in known:
            if is_own(dataset, cache, name):
                return replace(dataset, collection=name)
    if dataset.collection not in known:
        return dataset
    place = hashlib.sha256(str(dataset.root).encode(errors="surrogatepass")).hexdigest()
    return replace(dataset, collection=f"{dataset.collection}-{place[:8]}")


def claim_collection(dataset: Dataset, cache: Path) -> None:
    """Record in the cache that the collection was created from the dataset's root; not for one from a manifest."""
    if dataset.published or not any(sample.files for sample in dataset.samples):
        return
    digests = SourceDigests(cache, dataset.collection)
    if not digests.knows(dataset.root):
        digests.place(dataset.root)
        digests.save()


def collection_at(root: Path, name: str, cache: Path) -> str | None:
    """The collection that has a dataset with that name from that root, even if the root is gone; None if ambiguous."""
    folders = [path.parent.name for path in cache.glob("*/datasets")]
    found = [each for each in folders if manifest_path(cache, each, name).is_file()]
    here = [each for each in found if SourceDigests(cache, each).knows(root)]
    return here[0] if len(here) == 1 else None


def _candidates(cache: Path, plain: str) -> Iterator[str]:
    """Names of non-empty collections, the plain name first."""
    named = re.compile(rf"{re.escape(plain)}(-[0-9a-f]{{8}})?")
    for folder in sorted(cache.glob(f"{plain}*")):
        if named.fullmatch(folder.name) and (
            any(folder.glob("datasets/*.json")) or any(len(_table_ids(path)) for path in _stores(cache, folder.name))
        ):
            yield folder.name


def _same_place(dataset: Dataset, cache: Path, name: str) -> bool:
    digests = SourceDigests(cache, name)
    if digests.knows(dataset.root):
        return True
    # Older collections do not record the root, only the files they were created from.
    files = [sample for sample in dataset.samples if any(digests.knows(path) for path in sample.files.values())]
    return bool(files) and bool(_ids(dataset, cache, name) & {sample.id for sample in files})


def _same_content(dataset: Dataset, cache: Path, name: str) -> bool:
    """Whether at least half of up to eight shared clips come from the same bytes; without any, whether labels agree."""
    from unialign.cache.index import load_table
    from unialign.cache.store import open_store

    samples = {sample.id: sample for sample in dataset.samples}
    for path in _stores(cache, name):
        with suppress(CacheProblem):
            store = open_store(path)
            table = load_table(store)
            shared = [each for each in table.ids if each in samples]
            chosen = shared[:: max(1, len(shared) // _COMPARED)][:_COMPARED]
            said = [table.source_of(table.row(each)) for each in chosen]
            now = [_sources(samples[each], str(store.key.fields.get("extractor"))) for each in chosen]
            # Samples whose files are or were missing are no evidence.
            pairs = [(before, found) for before, found in zip(said, now, strict=True) if before and found]
            if pairs:
                return 2 * sum(before in found for before, found in pairs) >= len(pairs)
    listed = _listed(dataset, cache, name)
    return {sample.id: sample.label for sample in dataset.samples} == listed


def _sources(sample: Sample, extractor: str) -> tuple[str, ...]:
    """The source digests a record may hold for a sample in its current state; older records of pickles hold the
    digest of the whole file.
    """
    path = sample.files.get("video" if "skeleton" not in sample.files else "skeleton")
    if path is None or not path.exists():
        return ()
    if sample.digest:
        return (sample.digest, file_digest(path))
    span = sample.span if "skeleton" not in sample.files else None
    return () if extractor == "pyskl" else (spanned_digest(content_digest(path), span),)


def _ids(dataset: Dataset, cache: Path, name: str) -> set[str]:
    return set(_listed(dataset, cache, name)).union(*(_table_ids(path) for path in _stores(cache, name)))


def _listed(dataset: Dataset, cache: Path, name: str) -> dict[str, int]:
    """Labels by id, from the collection's manifest for the dataset's name."""
    path = manifest_path(cache, name, dataset.name)
    if path.is_file():
        with suppress(CacheProblem):
            return {sample.id: sample.label for sample in read_manifest(path).samples}
    return {}


def _stores(cache: Path, name: str) -> list[Path]:
    """Stores that are extracted directly from files."""
    from unialign.cache.inventory import iterate_stores  # imported late, as below: needs zarr, which --help does not

    return [path for path in iterate_stores(cache) if path.parts[-3] == name and path.parts[-2] in ("frames", "poses")]


def _table_ids(path: Path) -> tuple[str, ...]:
    from unialign.cache.index import load_table
    from unialign.cache.store import open_store

    with suppress(CacheProblem):
        return load_table(open_store(path)).ids
    return ()
