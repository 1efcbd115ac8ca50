"""Consistency of a store's records with its arrays: checked once, for all rows, when it is opened.

After that, the compiled copy loop uses lengths, shards and slots unchecked. A store of a million samples is checked in
a tenth of a second.
"""

from collections.abc import Mapping

import numpy as np

from unialign.cache.records import STATUSES, Record
from unialign.cache.schema import MAX_SHARD
from unialign.cache.shards import index_bytes
from unialign.cache.store import Store
from unialign.cache.table import ABSENT, OK, SampleTable, Texts, table_of

_BLOCK = 1 << 16
_MAX_CHECKSUM = 2**32 - 1


def check_table(store: Store, table: SampleTable) -> None:
    """Raise `ValueError` naming the first inconsistency between the records and the store."""
    _check_names(table.names)
    _check_texts(table.notes)
    _check_shards(store, table)
    _check_places(table)
    _check_rows(store, table)


def check_record(store: Store, record: Record) -> None:
    """The same for all samples of one shard, including those superseded by a later shard. Raises `ValueError`."""
    check_table(store, table_of([record], [0]))


def _require(fine: np.ndarray, table: SampleTable, what: str) -> None:
    """Raise `ValueError` with the first sample that fails."""
    if not fine.all():
        row = int(np.argmin(fine))
        raise ValueError(f"sample {bytes(table.names[row])[:80]!r} of shard {int(table.shard[row])} has {what}")


def _check_names(names: np.ndarray) -> None:
    """Sorted, unique, not empty, UTF-8 without NUL."""
    if not (names[1:] > names[:-1]).all():
        raise ValueError("the ids of the samples are not in order")
    for start in range(0, len(names), _BLOCK):
        block = np.ascontiguousarray(names[start : start + _BLOCK])
        lengths, data = np.char.str_len(block), block.view(np.uint8).reshape(len(block), -1)
        # A NUL inside would make the length wrong by one; one at the end is not part of an id.
        if lengths.min() < 1 or np.count_nonzero(data) != lengths.sum():
            raise ValueError("an id of a sample is empty or holds a NUL character")
        # Concatenated, the second half of one character could complete the first half of another.
        if ((data[:, 0] & 0xC0) == 0x80).any():
            raise ValueError("an id of a sample is not UTF-8")
        data.tobytes().decode()


def _check_texts(notes: Texts) -> None:
    ends = notes.ends
    last = int(ends[-1]) if len(ends) else 0
    if (np.diff(ends, prepend=0) < 0).any() or last != len(notes.data):
        raise ValueError("the notes on samples are not cut at the ends that are given")


def _check_shards(store: Store, table: SampleTable) -> None:
    shards = table.shards
    if len(shards.numbers) and (shards.numbers[0] < 0 or shards.numbers[-1] > MAX_SHARD):
        raise ValueError("a shard has no possible number")
    if not (shards.numbers[1:] > shards.numbers[:-1]).all():
        raise ValueError("the shards are not in order")
    if ((shards.samples < 1) | (shards.samples > store.shard_samples)).any():
        raise ValueError(f"a shard holds 1 to {store.shard_samples} samples, another number is given")
    _check_axes(shards.bytes, {spec.name for spec in store.arrays}, "files of arrays")
    _check_axes(shards.sha256, set(shards.bytes), "SHA-256 of files of arrays", complete=True)
    for name, sizes in shards.bytes.items():
        if ((sizes != ABSENT) & (sizes < index_bytes(store.array(name), store.shard_samples))).any():
            raise ValueError(f"a file of array {name} is shorter than its index")


def _check_places(table: SampleTable) -> None:
    """Every sample is in a shard that has a record, in a slot that the record fills."""
    numbers = table.shards.numbers
    if not len(table):
        return
    if not len(numbers):
        raise ValueError("there are samples without a shard")
    at = _places_of(table.shard, numbers)
    _require(numbers[at] == table.shard, table, "no record of that shard")
    _require((table.slot >= 0) & (table.slot < table.shards.samples[at]), table, "a slot that the shard has not")
    _require(table.status < len(STATUSES), table, "an unknown status")
    held = table.status == OK
    for name, sizes in table.shards.bytes.items():
        there = sizes != ABSENT
        if not there.all():
            _require(there[at] | ~held, table, f"no file of array {name}")


def _places_of(shards: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The place of each shard among the numbers, which ascend from 0 or more; any place where it is not among them."""
    last = int(numbers[-1])
    if last >= 2 * len(shards) + _BLOCK:
        return np.asarray(np.minimum(np.searchsorted(numbers, shards), len(numbers) - 1))
    # Looked up instead of searched: a third of the time where shards are numbered without large gaps, as they all are.
    places = np.zeros(last + 1, dtype=np.int32)
    places[numbers] = np.arange(len(numbers), dtype=np.int32)
    return np.asarray(places[np.clip(shards, 0, last)])


def _check_rows(store: Store, table: SampleTable) -> None:
    """Lengths fit the arrays; lengths and checksums exist exactly for samples with features."""
    held = table.status == OK
    limits: dict[str, int] = {}
    for spec in store.arrays:
        if spec.ragged:
            limits[spec.dims[0]] = min(spec.shape[0], limits.get(spec.dims[0], spec.shape[0]))
    _check_axes(table.lengths, set(limits), "lengths of axes", complete=bool(held.any()))
    names = {spec.name for spec in store.arrays}
    _check_axes(table.checksums, names, "checksums of arrays", complete=bool(held.any()))
    for axis, lengths in table.lengths.items():
        fine = np.where(held, (lengths >= 1) & (lengths <= limits[axis]), lengths == ABSENT)
        _require(fine, table, f"a length of axis {axis} other than 1 to {limits[axis]}")
    for name, checksums in table.checksums.items():
        fine = np.where(held, (checksums >= 0) & (checksums <= _MAX_CHECKSUM), checksums == ABSENT)
        _require(fine, table, f"no possible checksum of array {name}")


def _check_axes(found: Mapping[str, object], known: set[str], what: str, *, complete: bool = False) -> None:
    if not set(found) <= known or (complete and set(found) != known):
        raise ValueError(f"{what} {sorted(found)[:5]} are given, the store has {sorted(known)[:5]}")
