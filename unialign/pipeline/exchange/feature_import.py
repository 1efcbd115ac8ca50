"""Precomputed third-party features as a store: per sample (skeleton features of SynSE, SMIE and others) or per class.

Legend: N rows of a file, D width of a feature.

Supported are .npy, .npz, .pt and .pth (weights only), .csv and HDF5; nothing is unpickled. A row is a vector (D), or
for samples also (views, D).
"""

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import file_digest
from unialign.cache.reader import StoreReader
from unialign.cache.writing import write_store
from unialign.errors import CorruptInput, UsageError
from unialign.pipeline.manifest import save_manifest
from unialign.stages.archives import npy_header
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.labels_csv import read_rows
from unialign.stages.datasets.npz_files import read_npz_arrays, texts
from unialign.stages.extraction.text import description_id, label_id

ENDINGS = (".npy", ".npz", ".pt", ".pth", ".csv", ".h5", ".hdf5")
# Possible names of the features and the ids in a file; the first one present is used.
FEATURES, IDS = ("features", "feature", "embeddings", "embedding", "x"), ("ids", "id", "names", "sample_name")
MODALITIES = ("pose-features", "text")
MAX_WIDTH = 65_536
# How much larger than a compressed HDF5 file its features may be; real ones compress to more than half.
MOST_GROWTH = 16
_BARE = "{}"
# Of HDF5: an entry of variable length, the head of a heap, and that of an object in it.
_ENTRY, _HEAP, _OBJECT = struct.Struct("<IQI"), struct.Struct("<8sQ"), struct.Struct("<H6xQ")


@dataclass(frozen=True, eq=False)
class Features:
    """The content of a file: values (N, ...) float32, all finite, and the ids of the rows, or None if it has none."""

    values: np.ndarray
    ids: tuple[str, ...] | None


def import_features(
    file: Path,
    dataset: Dataset,
    cache: Path,
    *,
    modality: str = "pose-features",
    ids: Path | None = None,
    rows: str = "label",
    source: str = "",
    license: str = "",
) -> StoreReader:
    """Write the features of a file into a store of a dataset, and return a reader of it.

    modality: "pose-features" (one row per sample) or "text" (one row per class, in label order).
    ids: a text file with one sample id per line, for files without ids. rows: of classes, "label" or "description";
    files with the same source go into one store, so a file of labels and one of descriptions can be joined.
    source: where the features come from, by default the file's name; it is part of the store's key. license: recorded.
    Raises `CorruptInput` for a malformed file, `UsageError` for rows that do not fit the dataset.
    """
    if modality not in MODALITIES:
        raise UsageError(f"features of the modality {modality!r} are not imported; known are {', '.join(MODALITIES)}.")
    found = read_features(file)
    source = source or file.name
    about = {
        "source": source,
        "licence": license or "not stated",
        "file": file.name,
        "file_digest": file_digest(file),
        "encoder": f"features of {source}",
    }
    named = _of_classes(file, found, dataset, rows) if modality == "text" else _of_samples(file, found, dataset, ids)
    arrays, specs = _as_text(found) if modality == "text" else _as_pose_features(found)
    store = write_store(
        cache,
        dataset.collection,
        modality,
        "imported",
        ((name, {array: values[row] for array, values in arrays.items()}) for row, name in named),
        arrays=specs,
        parameters={"source": source, "width": int(found.values.shape[-1])},
        attributes=about,
    )
    save_manifest(dataset, cache)
    return store


def _of_classes(file: Path, found: Features, dataset: Dataset, rows: str) -> list[tuple[int, str]]:
    if len(found.values) != len(dataset.classes) or found.values.ndim != 2:
        raise UsageError(
            f"{file}: holds features {found.values.shape}, but {dataset.name} has {len(dataset.classes)} classes; give "
            "one vector for each class, in label order."
        )
    if rows not in ("label", "description"):
        raise UsageError(f"rows are {rows!r}; known are label and description.")
    names = [label_id(_BARE, name) if rows == "label" else description_id(0, name) for name in dataset.classes]
    return list(enumerate(names))


def _of_samples(file: Path, found: Features, dataset: Dataset, ids: Path | None) -> list[tuple[int, str]]:
    names = _listed(ids) if ids is not None else found.ids
    if names is None:
        raise UsageError(
            f"{file}: has no ids of its {len(found.values)} rows; give a text with one id a line as --ids."
        )
    if len(names) != len(found.values):
        raise UsageError(f"{ids or file}: {len(names)} ids for {len(found.values)} rows of features.")
    if len(set(names)) < len(names):
        raise UsageError(f"{ids or file}: an id occurs twice; each row needs its own.")
    if found.values.ndim > 3:
        raise UsageError(f"{file}: features of samples are vectors, or vectors by view, not {found.values.shape[1:]}.")
    known = {sample.id for sample in dataset.samples}
    used = sorted((name, row) for row, name in enumerate(names) if name in known)
    if not used:
        raise UsageError(
            f"{ids or file}: none of the {len(names)} ids ({names[0][:80]!r}) is a sample of {dataset.name}."
        )
    return [(row, name) for name, row in used]


def _listed(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text; give one id a line.") from error
    return tuple(line.strip() for line in lines if line.strip())


def _as_text(found: Features) -> tuple[dict[str, np.ndarray], tuple[ArraySpec, ...]]:
    units = {"units": "as the source gives them"}
    return {"embedding": found.values}, (
        ArraySpec("embedding", "float32", found.values.shape[1:], ("channel",), attributes=units),
    )


def _as_pose_features(found: Features) -> tuple[dict[str, np.ndarray], tuple[ArraySpec, ...]]:
    """The same arrays as extracted pose features: a feature for each view, and a single token for each."""
    feature = found.values if found.values.ndim == 3 else found.values[:, None]  # (N, views, D)
    views = [{"offset": at, "num_offsets": feature.shape[1], "flip": False} for at in range(feature.shape[1])]
    held = {"views": views}
    shape = feature.shape[1:]
    specs = (
        ArraySpec("tokens", "float16", (shape[0], 1, shape[1]), ("view", "token", "channel"), chunk=1, attributes=held),
        ArraySpec("feature", "float32", shape, ("view", "channel"), chunk=1, attributes=held),
    )
    return {"feature": feature, "tokens": feature[:, :, None].astype(np.float16)}, specs


def read_features(path: Path) -> Features:
    """The features of a file. Raises `CorruptInput` for a malformed one, `UsageError` for an unsupported extension."""
    readers = {
        ".npy": _from_npy,
        ".npz": _from_npz,
        ".pt": _from_torch,
        ".pth": _from_torch,
        ".csv": _from_csv,
        ".h5": _from_hdf5,
        ".hdf5": _from_hdf5,
    }
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path}: the extension decides the format; known for features are {', '.join(ENDINGS)}.")
    values, ids = readers[path.suffix.lower()](path)
    if values.dtype.kind not in "fiu" or values.dtype.itemsize > 8 or values.ndim < 2 or 0 in values.shape:
        raise CorruptInput(f"{path}: holds an array {values.shape} of {values.dtype}, not rows of numbers.")
    if int(np.prod(values.shape[1:])) > MAX_WIDTH:
        raise CorruptInput(
            f"{path}: rows of {int(np.prod(values.shape[1:]))} numbers; features have up to {MAX_WIDTH}."
        )
    with np.errstate(over="ignore"):
        whole = np.ascontiguousarray(values, np.float32)
    bad = ~np.isfinite(whole.reshape(len(whole), -1)).all(axis=1)
    if bad.any():
        raise CorruptInput(
            f"{path}: row {int(bad.argmax())} holds numbers that are not finite ({int(bad.sum())} rows do)."
        )
    if ids is not None and len(ids) != len(whole):
        raise CorruptInput(f"{path}: {len(ids)} ids for {len(whole)} rows.")
    return Features(whole, None if ids is None else tuple(ids))


_Found = tuple[np.ndarray, Sequence[str] | None]


def _from_npy(path: Path) -> _Found:
    try:
        with path.open("rb") as file:
            shape, in_columns, kind = npy_header(file)
            start = file.tell()
        if kind.hasobject:
            raise ValueError("it holds Python objects")
        # Mapped: an array whose header declares more than the file holds is rejected, however much memory there is.
        return np.memmap(path, kind, "r", start, shape, "F" if in_columns else "C"), None
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise CorruptInput(f"{path}: is no npy file of numbers ({str(error)[:100]}).") from error


def _from_npz(path: Path) -> _Found:
    arrays = read_npz_arrays(path)
    values, ids = _picked(path, {name: value for name, value in arrays.items() if value.ndim >= 2}, arrays)
    return values, None if ids is None else texts(path, "ids", ids)


def _picked(path: Path, wide: Mapping[str, Any], named: Mapping[str, Any]) -> tuple[Any, Any]:
    """The features among arrays: by name, or the only one with rows; and the name of the ids in the file."""
    name = next((each for each in FEATURES if each in wide), None) or (next(iter(wide)) if len(wide) == 1 else None)
    if name is None:
        raise CorruptInput(
            f"{path}: which of {', '.join(map(repr, wide)) or 'no arrays'} are the features is not said; call them "
            f"{FEATURES[0]!r}."
        )
    return wide[name], next((named[each] for each in IDS if each in named), None)


def _from_torch(path: Path) -> _Found:
    import torch

    from unialign.stages.foreign_weights import read_weights

    try:
        with path.open("rb") as file:
            content = read_weights(file)
    except Exception as error:  # torch.load raises many kinds of errors for foreign bytes
        raise CorruptInput(f"{path}: is no file of plain tensors; save tensors, lists and texts only.") from error
    if isinstance(content, torch.Tensor):
        return _numpy(content), None
    tensors = {str(name): value for name, value in content.items()} if isinstance(content, Mapping) else {}
    wide = {
        name: _numpy(value) for name, value in tensors.items() if isinstance(value, torch.Tensor) and value.ndim >= 2
    }
    flat = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor) and value.ndim == 1}
    if len(flat) > 1 and not wide and len({value.shape for value in flat.values()}) == 1 and len(flat) == len(tensors):
        return np.stack([_numpy(value) for value in flat.values()]), list(flat)  # a vector per id
    values, ids = _picked(path, wide, tensors)
    if ids is not None and not (isinstance(ids, list | tuple) and all(isinstance(each, str) for each in ids)):
        raise CorruptInput(f"{path}: the ids are no list of texts.")
    return values, ids


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().float().numpy())


def _from_csv(path: Path) -> _Found:
    rows = read_rows(path)
    if rows and not any(_is_number(cell) for cell in rows[0][1]):
        rows = rows[1:]  # a header
    if not rows:
        raise CorruptInput(f"{path}: holds no rows of numbers.")
    has_ids = not _is_number(rows[0][1][0])
    width = len(rows[0][1])
    values = []
    for line, cells in rows:
        if len(cells) != width or not all(_is_number(cell) for cell in cells[has_ids:]):
            raise CorruptInput(
                f"{path}: line {line} is not {'an id and ' if has_ids else ''}{width - has_ids} numbers."
            )
        values.append([float(cell) for cell in cells[has_ids:]])
    return np.array(values, np.float64), [cells[0] for _, cells in rows] if has_ids else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _texts(path: Path, texts: h5py.Dataset) -> list[str]:
    """The ids of an HDF5 file. Raises `CorruptInput` for ids in chunks, and for texts that the file does not hold.

    Texts of variable length are found here and not by the library, which allocates whatever length an entry declares
    and never ends in a heap whose objects have no size.
    Source: the HDF5 file format: an entry is a length (4 bytes), the address of a heap (8) and an object's number (4).
    """
    size = path.stat().st_size
    if texts.chunks is not None:
        raise CorruptInput(f"{path}: the ids are stored in chunks; save them without compression, in one piece.")
    if texts.dtype.kind != "O":
        if texts.nbytes > size:
            raise CorruptInput(f"{path}: the ids would be longer than the file; it is damaged.")
        return [str(each) for each in texts.asstr()[:]]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first, count = texts.id.get_offset() or 0, len(texts)
        entries = [_ENTRY.unpack_from(data, first + _ENTRY.size * at) for at in range(count)]
        heaps, left = {}, size
        for heap in {heap for _, heap, _ in entries}:
            heaps[heap], declared = _heap(data, heap)
            left -= declared
            if left < 0:
                raise ValueError("heaps of texts overlap")
        found = [(heaps[heap][number], length) for length, heap, number in entries]
        if any(end - start < length for (start, end), length in found):
            raise ValueError("a text is longer than its place")
        return [data[start : start + length].decode() for (start, _), length in found]


def _heap(data: mmap.mmap, start: int) -> tuple[dict[int, tuple[int, int]], int]:
    """Start and end of the objects of a global heap by number, and its size. Raises `ValueError` for anything else."""
    mark, declared = _HEAP.unpack_from(data, start)
    if mark != b"GCOL\x01\0\0\0" or not _HEAP.size < declared <= len(data) - start:
        raise ValueError("texts are not where they should be")
    found, at = {}, start + _HEAP.size
    while at + _OBJECT.size <= start + declared:
        number, size = _OBJECT.unpack_from(data, at)
        if not number:
            break  # the free space at the end
        found[number] = at + _OBJECT.size, min(at + _OBJECT.size + size, start + declared)
        at += _OBJECT.size + -(-size // 8) * 8
    return found, declared


def _from_hdf5(path: Path) -> _Found:
    try:
        with h5py.File(path, "r") as file:
            held = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
            wide = {name: item for name, item in held.items() if item.ndim >= 2 and item.dtype.kind in "fiu"}
            values, ids = _picked(path, wide, held)
            # Chunks that were never written take no space in the file, but do in memory, four bytes for each number.
            needed = 4 * values.size
            if needed > MOST_GROWTH * max(path.stat().st_size, 2**20) or values.is_virtual or values.external:
                raise CorruptInput(f"{path}: its features would take {needed} bytes; the file is far smaller.")
            names = None
            if ids is not None:
                if ids.ndim != 1 or len(ids) != len(values):
                    raise CorruptInput(f"{path}: {len(ids) if ids.ndim else 0} ids for {len(values)} rows.")
                names = _texts(path, ids)
            return values[:], names
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, struct.error) as error:
        raise CorruptInput(f"{path}: is no HDF5 file with rows of numbers ({str(error)[:100]}).") from error
