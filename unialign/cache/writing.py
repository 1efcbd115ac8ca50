"""Writing your own arrays as a store: for features that no extractor of this package produced."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from unialign.cache import atomic
from unialign.cache.arrays import ArraySpec
from unialign.cache.index import load_table, write_index
from unialign.cache.keys import Key
from unialign.cache.lock import store_lock
from unialign.cache.mirrors import check_whole
from unialign.cache.paths import expanded_path
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry
from unialign.cache.store import Store, create_store, grow_store, store_path, write_shard
from unialign.cache.table import SampleTable
from unialign.errors import UsageError
from unialign.types import Json

SHARD_SAMPLES = 128
Arrays = Mapping[str, np.ndarray]


def write_store(
    cache: str | Path,
    collection: str,
    modality: str,
    name: str,
    samples: Mapping[str, Arrays] | Iterable[tuple[str, Arrays]],
    *,
    arrays: Sequence[ArraySpec] | None = None,
    parameters: Mapping[str, Json] | None = None,
    attributes: Mapping[str, Json] | None = None,
    shard_samples: int = SHARD_SAMPLES,
) -> StoreReader:
    """Write samples into the store of a method, making it if needed, and return a reader of all that it holds.

    samples: id to arrays, or (id, arrays) pairs, which are taken one shard at a time, so they need not fit in memory.
    Samples that the store holds with the same values are skipped; other values for a known id replace the old ones.
    name: of the method; together with `parameters` (plain JSON values: versions, settings) it makes the key, so other
    parameters make another store.
    arrays: what each array looks like; by default taken from the first sample, for arrays that have the same shape in
    all samples. Give them where samples differ in length (`ArraySpec(..., ragged=True)`).
    attributes: what readers should know: units, license, citation. shard_samples: samples per file of a new store.

    Raises `UsageError` for no samples at all, arrays that do not fit the specification, ids that are no text or come
    twice, and parameters or attributes that JSON cannot hold;
    `LockedStore` while another process writes this store. Interrupted, finished shards stay.
    """
    pairs = iter(samples.items() if isinstance(samples, Mapping) else samples)
    first = next(pairs, None)
    if first is None:
        raise UsageError(f"no samples to write into {modality} of {collection}; give at least one.")
    if first[0] == "" or not name:
        raise UsageError("a sample's id and the method's name must not be empty.")
    _check_named(*first)
    specs = tuple(arrays) if arrays is not None else _seen_in(first[1])
    key = Key(
        {"extractor": name, "modality": modality, "parameters": _plain("parameters", parameters), "origin": "python"}
    )
    root = expanded_path(cache).resolve()
    check_whole(root, "writing a store")
    path = store_path(root, collection, modality, key)
    wanted = Store(path, collection, modality, key, specs, shard_samples, _plain("attributes", attributes))
    with store_lock(path, root):
        atomic.sweep_beside(path)
        store = create_store(wanted)
        if store.arrays != specs:
            raise UsageError(
                f"{path} holds other arrays; give other parameters, so that they get a store of their own."
            )
        table = load_table(store)
        number = int(table.shards.numbers.max()) + 1 if len(table.shards.numbers) else 0
        for part in _shards(_fresh(_chained(first, pairs), table, specs), store.shard_samples):
            grow_store(store, number + 1)
            write_shard(store, number, [entry for entry, _ in part], [values for _, values in part])
            number += 1
        write_index(store)
    return StoreReader(path)


def _plain(what: str, values: Mapping[str, Json] | None) -> dict[str, Json]:
    """The values. Raises `UsageError` for one that JSON cannot hold, such as numbers of numpy."""
    for name, value in (values or {}).items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{what}: {name} is {value!r}, which is not a JSON value; give text, finite numbers (of numpy's the "
                "`.item()`), lists or dicts."
            ) from error
    return dict(values or {})


def _chained(first: tuple[str, Arrays], rest: Iterator[tuple[str, Arrays]]) -> Iterator[tuple[str, Arrays]]:
    yield first
    yield from rest


def _check_named(identifier: str, given: object) -> None:
    if not isinstance(given, Mapping):
        raise UsageError(
            f"sample {identifier!r} is of type {type(given).__name__}; give a dict of arrays by name, such as "
            '{"feature": array}.'
        )


def _seen_in(sample: Arrays) -> tuple[ArraySpec, ...]:
    found = {name: np.asarray(value) for name, value in sample.items()}
    return tuple(
        ArraySpec(name, str(value.dtype), value.shape, tuple(f"axis{place}" for place in range(value.ndim)))
        for name, value in sorted(found.items())
    )


def _fresh(
    pairs: Iterator[tuple[str, Arrays]], table: SampleTable, specs: Sequence[ArraySpec]
) -> Iterator[tuple[Entry, Arrays]]:
    """The samples that the store does not hold with these values yet."""
    seen: set[str] = set()
    for identifier, given in pairs:
        if not isinstance(identifier, str):
            raise UsageError(f"the sample id {identifier!r} is not a string; give ids as str.")
        if identifier in seen:
            raise UsageError(f"sample {identifier!r} is given twice; give each id once.")
        seen.add(identifier)
        _check_named(identifier, given)
        values = {spec.name: _fitting(identifier, spec, given) for spec in specs}
        if extra := sorted(set(given) - set(values)):
            raise UsageError(
                f"sample {identifier!r} has the array {extra[0]!r}, which the first sample or `arrays` lacks."
            )
        source = _content(values)
        row = table.row(identifier)
        if row < 0 or table.source_of(row) != source:
            yield Entry(identifier, "ok", source), values


def _fitting(identifier: str, spec: ArraySpec, given: Arrays) -> np.ndarray:
    if spec.name not in given:
        raise UsageError(f"sample {identifier!r} lacks the array {spec.name!r}.")
    value = np.asarray(given[spec.name])
    fits = value.ndim == len(spec.shape) and (
        value.shape == spec.shape
        or (spec.ragged and 0 < value.shape[0] <= spec.shape[0] and value.shape[1:] == spec.shape[1:])
    )
    if not fits:
        longest = f"at most {spec.shape} with ragged first axis" if spec.ragged else f"{spec.shape}"
        raise UsageError(
            f"sample {identifier!r}: array {spec.name!r} has shape {value.shape} instead of {longest}; where samples "
            "differ in length, give `arrays` with ArraySpec(..., ragged=True)."
        )
    if value.dtype != np.dtype(spec.dtype):
        raise UsageError(
            f"sample {identifier!r}: array {spec.name!r} is {value.dtype}, not {spec.dtype}; convert it first."
        )
    return value


def _content(values: Arrays) -> str:
    checksum = hashlib.sha256()
    for name, value in sorted(values.items()):
        checksum.update(f"{name} {value.dtype.str} {value.shape} ".encode())
        checksum.update(np.ascontiguousarray(value).tobytes())
    return f"sha256:{checksum.hexdigest()}"


def _shards(samples: Iterator[tuple[Entry, Arrays]], size: int) -> Iterator[list[tuple[Entry, Arrays]]]:
    while part := list(islice(samples, size)):
        yield part


__all__ = ["write_store"]
