"""A whole store as one HDF5 file, for readers that have h5py and nothing else; `hdf5_import` makes the store again.

    /                    attributes: format, version, collection, modality, store, key, num_shards, index, digest
    /metadata            text: the store's own `zarr.json` (key field by field, arrays, shard_samples, licence)
    /records/shard       (shards,) numbers;  /records/text: the record of each, JSON as it lies in the store
    /samples/id          (rows,) text;  /samples/shard, /samples/slot: where each row lay in the store
    /samples/current     (rows,) bool; false for data that a later extraction of the same sample superseded
    /arrays/<name>       (rows, ...) of a fixed-shape array; all rows end to end along the first axis of a ragged one
    /offsets/<name>      (rows + 1,) int64, of ragged arrays only: row i is arrays/<name>[offsets[i]:offsets[i + 1]]

Rows are the slots that hold data, in the order of shard and slot. Samples without features are in the records.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from unialign.cache import atomic
from unialign.cache.arrays import ArraySpec
from unialign.cache.errors import DamagedStore, UsageError
from unialign.cache.index import index_path
from unialign.cache.keys import canonical
from unialign.cache.reader import Place, StoreReader
from unialign.cache.records import Record, list_records, read_record
from unialign.cache.shards import little_endian
from unialign.cache.store import Store

FORMAT, VERSION = "unialign store", 1
# Object headers with checksums, so that the library itself notices damage; readable from HDF5 1.10 (2016) on.
_LIBRARY = ("v110", "v110")

Progress = Callable[[int, int], None]


def export_hdf5(path: Path, target: Path, progress: Progress = lambda done, total: None) -> int:
    """Write the store at `path` to a new file, put in place when it is complete; returns its bytes.

    progress: called with (rows written, rows). Memory: one sample, and what the records say.
    Raises `MissingCache` without a store, `DamagedStore` for one that is not what was written, and `UsageError` when
    the file exists.
    """
    if target.exists():
        raise UsageError(f"{target} exists; remove it or give another name.")
    reader = StoreReader(path)
    temporary = atomic.temporary_name(target)
    try:
        with h5py.File(temporary, "w", libver=_LIBRARY) as file:
            offsets = _write_head(file, reader)
            _write_arrays(file, reader, offsets, progress)
        size = temporary.stat().st_size
        atomic.replace(temporary, target)
    except RuntimeError as error:
        # What h5py makes of a full disk when it finds it while closing the file.
        raise OSError(f"{target} cannot be written ({error})") from error
    finally:
        atomic.remove(temporary)
    return size


def row_lengths(spec: ArraySpec, record: Record) -> list[int]:
    """Entries along a ragged array's first axis, of each sample of a shard that holds data."""
    return [entry.lengths[spec.dims[0]] for entry in record.entries if entry.status == "ok"]


def head_digest(file: h5py.File) -> str:
    """SHA-256 of everything in a file that makes a store, but for the arrays, whose own are in the records."""
    shards, texts = file["records/shard"][:].tolist(), file["records/text"]
    plain = [int(file.attrs["num_shards"]), bool(file.attrs["index"]), shards]
    checksum = hashlib.sha256(canonical(plain) + file["metadata"][()])
    for number in range(len(texts)):
        checksum.update(texts[number])
    return checksum.hexdigest()


def _write_head(file: h5py.File, reader: StoreReader) -> dict[str, np.ndarray]:
    """Everything but the arrays; returns the offsets of the rows, (rows + 1,) int64 for every array."""
    store, paths = reader.store, list_records(reader.path)
    ids: list[str] = []
    places: list[tuple[int, int, bool]] = []
    lengths: dict[str, list[int]] = {spec.name: [] for spec in store.arrays if spec.ragged}
    texts, numbers = _texts(file, "records/text", len(paths)), []
    for number, path in enumerate(paths):
        record = read_record(path)
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
        num_shards=_num_shards(store),
        index=index_path(store.path).is_file(),
    )
    _texts(file, "metadata", None)[()] = (store.path / "zarr.json").read_text(encoding="utf-8")
    file["records/shard"] = np.array(numbers, dtype=np.int64)
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
        record = read_record(shard)
        if number >= len(texts) or texts[number] != shard.read_text(encoding="utf-8"):
            raise DamagedStore(f"{shard} was changed during the export; export the store again when nobody writes it.")
        for values in _held(reader, record):
            for spec in store.arrays:
                start, end = offsets[spec.name][row : row + 2].tolist()
                file[f"arrays/{spec.name}"][start:end] = values[spec.name] if spec.ragged else values[spec.name][None]
            row += 1
        progress(row, rows)


def _held(reader: StoreReader, record: Record) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of every slot of a shard that holds data, in slot order, superseded ones included."""
    old: Mapping[str, Any] | None = None
    for slot, entry in enumerate(record.entries):
        if entry.status != "ok":
            continue
        if _is_current(reader, entry.id, Place(record.shard, slot)):
            yield reader.read_one(entry.id)
            continue
        old = old or _checked_arrays(reader.store, record)
        values = {}
        for spec in reader.store.arrays:
            place = record.shard * reader.store.shard_samples + slot
            end = entry.lengths[spec.dims[0]] if spec.ragged else None
            found = old[spec.name][place, :end] if spec.ragged else old[spec.name][place]
            values[spec.name] = np.asarray(found, dtype=spec.dtype)
        yield values


def _is_current(reader: StoreReader, sample: str, place: Place) -> bool:
    return reader.status(sample) == "ok" and reader.place(sample) == place


def _checked_arrays(store: Store, record: Record) -> dict[str, Any]:
    """The arrays of a store as Zarr gives them, once the files of one shard are known to be what was written."""
    for name, expected in record.files.items():
        path = store.shard_path(name, record.shard)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                raise DamagedStore(f"{path} is not what was written; run `unialign cache verify`.")
    return {spec.name: zarr.open_array(store.path / spec.name, mode="r") for spec in store.arrays}


def _num_shards(store: Store) -> int:
    """Length of the sample axis in shards; an extraction that is cut short leaves it longer than the records."""
    spec = store.arrays[0]
    return int(zarr.open_array(store.path / spec.name, mode="r").shape[0]) // store.shard_samples


def _texts(file: h5py.File, name: str, count: int | None) -> h5py.Dataset:
    return file.create_dataset(name, () if count is None else (count,), h5py.string_dtype())
