"""A whole store as one HDF5 file, for readers that only have h5py; `hdf5_import` restores the store.

    /                    attributes: format, version, collection, modality, store, key, num_shards, index, digest
    /metadata            text: the store's own `zarr.json` (key field by field, arrays, shard_samples, license)
    /records/shard       (shards,) numbers;  /records/text: the record of each, JSON as it lies in the store
    /samples/id          (rows,) text;  /samples/shard, /samples/slot: where each row lay in the store
    /samples/current     (rows,) bool; false for data that a later extraction of the same sample superseded
    /arrays/<name>       (rows, ...) of a fixed-shape array; all rows end to end along the first axis of a ragged one
    /offsets/<name>      (rows + 1,) int64, of ragged arrays only: row i is arrays/<name>[offsets[i]:offsets[i + 1]]

Rows are the slots that hold data, in the order of shard and slot. Samples without features are in the records.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from unialign.cache import atomic
from unialign.cache.arrays import ArraySpec
from unialign.cache.checks import check_record
from unialign.cache.index import index_path
from unialign.cache.keys import canonical
from unialign.cache.reader import Place, StoreReader
from unialign.cache.records import Record, list_records, read_record
from unialign.cache.shards import little_endian, read_sample
from unialign.cache.store import Store, read_num_shards
from unialign.errors import DamagedStore, UsageError

FORMAT, VERSION = "unialign store", 1
# Object headers with checksums, so that the library itself detects damage; readable from HDF5 1.10 (2016) on.
_LIBRARY = ("v110", "v110")
# Bytes of the length and address of a string, which are in the dataset; the string itself is elsewhere in the file.
_REFERENCE = 16

Progress = Callable[[int, int], None]


def export_hdf5(
    path: Path, target: Path, progress: Progress = lambda done, total: None, *, overwrite: bool = False
) -> int:
    """Write the store at `path` to a new file, put in place when it is complete; returns its size in bytes.

    progress: called with (rows written, rows). Memory: one sample, plus the records.
    Raises `MissingCache` without a store, `DamagedStore` for one that differs from what was written, and `UsageError`
    if the file exists and may not be overwritten.
    """
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; give another name, or --overwrite to replace it.")
    reader = StoreReader(path)
    temporary = atomic.temporary_name(target)
    try:
        with h5py.File(temporary, "w", libver=_LIBRARY) as file:
            offsets = _write_head(file, reader)
            _write_arrays(file, reader, offsets, progress)
        size = temporary.stat().st_size
        atomic.replace(temporary, target)
    except RuntimeError as error:
        # What h5py raises if it notices a full disk while closing the file.
        raise OSError(f"{target} cannot be written ({error})") from error
    finally:
        atomic.remove(temporary)
    return size


def row_lengths(spec: ArraySpec, record: Record) -> list[int]:
    """Length along a ragged array's first axis, for each sample of a shard that holds data."""
    return [entry.lengths[spec.dims[0]] for entry in record.entries if entry.status == "ok"]


def plain(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset as an export holds it: in the file itself, unfiltered, and no larger than the file.

    Raises `ValueError` for any other kind: links and virtual datasets read other files, filters run code of their own,
    and a dataset that is compressed or was never written can unpack to any size. Raises `KeyError` for a missing one.
    """
    group: h5py.Group = file
    for part in name.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link to another place")
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        raise ValueError(f"{name} is no dataset")
    layout, count = group.id.get_create_plist(), math.prod(group.shape)
    if layout.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or layout.get_external_count():
        raise ValueError(f"{name} is cut into chunks, compressed, or lies in other files")
    kind = group.id.get_type()
    variable = isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
    taken = count * (_REFERENCE if variable else kind.get_size())
    if taken > file.id.get_filesize() or (count and group.id.get_storage_size() != taken):
        raise ValueError(f"{name} has {count} entries, which are not all in the file")
    return group


def head_digest(file: h5py.File) -> str:
    """SHA-256 of everything in a file that belongs to a store, except for the arrays, whose digests are in the records.

    Raises what `plain` raises, and `ValueError` for strings that refer repeatedly to one part of the file.
    """
    shards, texts, metadata = plain(file, "records/shard")[:].tolist(), plain(file, "records/text"), metadata_of(file)
    checksum = hashlib.sha256(canonical([int(file.attrs["num_shards"]), bool(file.attrs["index"]), shards]) + metadata)
    left = file.id.get_filesize()
    for number in range(len(texts)):
        text = bytes(texts[number])
        left -= len(text)
        if left < 0:
            raise ValueError("the records are longer than the file")
        checksum.update(text)
    return checksum.hexdigest()


def metadata_of(file: h5py.File) -> bytes:
    """The content of the store's `zarr.json`, as a string. Raises what `plain` raises."""
    return bytes(plain(file, "metadata")[()])


def _write_head(file: h5py.File, reader: StoreReader) -> dict[str, np.ndarray]:
    """Everything but the arrays; returns the offsets of the rows, (rows + 1,) int64 for every array."""
    store, paths = reader.store, list_records(reader.path)
    ids: list[str] = []
    places: list[tuple[int, int, bool]] = []
    lengths: dict[str, list[int]] = {spec.name: [] for spec in store.arrays if spec.ragged}
    texts, numbers = _texts(file, "records/text", len(paths)), []
    for number, path in enumerate(paths):
        record = _checked_record(store, path)
        texts[number] = path.read_text(encoding="utf-8")
        numbers.append(record.shard)
        for slot, entry in enumerate(record.entries):
            if entry.status == "ok":
                ids.append(entry.id)
                places.append((record.shard, slot, _is_current(reader, entry.id, Place(record.shard, slot))))
        for spec in store.arrays:
            if spec.ragged:
                lengths[spec.name] += row_lengths(spec, record)
    file.attrs.update(
        format=FORMAT,
        version=VERSION,
        collection=store.collection,
        modality=store.modality,
        store=store.name,
        key=store.key.digest,
        num_shards=read_num_shards(store, store.arrays[0]),
        index=index_path(store.path).is_file(),
    )
    _texts(file, "metadata", None)[()] = (store.path / "zarr.json").read_text(encoding="utf-8")
    file["records/shard"] = np.array(numbers, dtype=np.int64)
    file.flush()
    file.attrs["digest"] = head_digest(file)
    _texts(file, "samples/id", len(ids))[:] = ids
    for column, (name, dtype) in enumerate((("shard", np.int64), ("slot", np.int64), ("current", np.bool_))):
        file[f"samples/{name}"] = np.array([place[column] for place in places], dtype=dtype)
    rows = np.arange(len(ids) + 1, dtype=np.int64)
    return {
        spec.name: np.concatenate([[0], np.cumsum(lengths[spec.name], dtype=np.int64)]) if spec.ragged else rows
        for spec in store.arrays
    }


def _write_arrays(file: h5py.File, reader: StoreReader, offsets: Mapping[str, np.ndarray], progress: Progress) -> None:
    store = reader.store
    for spec in store.arrays:
        ends = offsets[spec.name]
        shape = (int(ends[-1]), *(spec.shape[1:] if spec.ragged else spec.shape))
        data = file.create_dataset(f"arrays/{spec.name}", shape, little_endian(spec))
        for axis, name in enumerate(spec.dims if spec.ragged else ("sample", *spec.dims)):
            data.dims[axis].label = name
        data.attrs["attributes"] = json.dumps(dict(spec.attributes), ensure_ascii=False)
        if spec.ragged:
            file[f"offsets/{spec.name}"] = ends
    row, rows, texts = 0, len(file["samples/id"]), file["records/text"].asstr()
    progress(0, rows)
    for number, shard in enumerate(list_records(store.path)):
        record = _checked_record(store, shard)
        if number >= len(texts) or texts[number] != shard.read_text(encoding="utf-8"):
            raise DamagedStore(
                f"{shard} was changed during the export; export the store again when no process writes it."
            )
        for values in _held(reader, record):
            for spec in store.arrays:
                start, end = offsets[spec.name][row : row + 2].tolist()
                file[f"arrays/{spec.name}"][start:end] = values[spec.name] if spec.ragged else values[spec.name][None]
            row += 1
        progress(row, rows)


def _checked_record(store: Store, path: Path) -> Record:
    record = read_record(path)
    try:
        check_record(store, record)
    except ValueError as error:
        raise DamagedStore(f"{path}: {error}; run `unialign cache verify`.") from error
    return record


def _held(reader: StoreReader, record: Record) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of every slot of a shard that holds data, in slot order, superseded ones included.

    Follows the records, not the index: the lengths in the file are those of the records.
    """
    store = reader.store
    for slot, entry in enumerate(record.entries):
        if entry.status != "ok":
            continue
        values = {}
        for spec in store.arrays:
            shard, path = reader.shard(spec.name, record.shard), store.shard_path(spec.name, record.shard)
            values[spec.name] = read_sample(
                spec,
                shard.data.data,
                shard.index[slot],
                entry.lengths[spec.dims[0]] if spec.ragged else None,
                codec=store.codec,
                checksum=entry.checksums[spec.name],
                name=str(path),
            )
        yield values


def _is_current(reader: StoreReader, sample: str, place: Place) -> bool:
    return reader.status(sample) == "ok" and reader.place(sample) == place


def _texts(file: h5py.File, name: str, count: int | None) -> h5py.Dataset:
    return file.create_dataset(name, () if count is None else (count,), h5py.string_dtype())
