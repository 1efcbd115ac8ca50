"""A store in common formats: npz, npy files with a CSV, WebDataset, and a Hugging Face dataset folder.

    npz, npy     one array each, samples in order of id along the first axis; a ragged array is all samples end to end,
                 and <array>_lengths says how long each is. `ids` (npz) or samples.csv (npy) has ids, labels, parts.
    tar          WebDataset: <number>.<array>.npy for each array, and <number>.json with id, label, class and part
    folder       Hugging Face: data/<part>.jsonl with one object per sample, NaN as null, and README.md that names the
                 parts, so that `datasets.load_dataset(FOLDER)` reads it

Samples without features are left out. Source, license and key of the store are written next to the data.
"""

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic_core

from unialign.cache import atomic
from unialign.cache.arrays import ArraySpec
from unialign.cache.reader import StoreReader
from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset
from unialign.types import Json

Progress = Callable[[int, int], None]
# Terms used by the Hugging Face hub.
_PARTS = {"train": "train", "val": "validation", "test": "test"}
# How archives are written: into an in-memory `_Outlet`, whose bytes `atomic.write_parts` writes to disk.
_INTO_OUTLET: Literal["w"] = "w"


@dataclass(frozen=True)
class _Row:
    """What is known about a sample besides its arrays; label -1 if no dataset provides it."""

    id: str
    label: int = -1
    name: str = ""
    part: str = ""


@dataclass(frozen=True)
class _Content:
    reader: StoreReader
    specs: tuple[ArraySpec, ...]
    rows: tuple[_Row, ...]
    about: dict[str, Json]


def export_arrays(
    kind: str,
    store: Path,
    target: Path,
    dataset: Dataset | None = None,
    progress: Progress = lambda done, total: None,
    *,
    protocol: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write a store as "npz", "npy", "webdataset" or "huggingface"; returns how many bytes were written.

    dataset: adds labels, class names and the parts of a protocol. overwrite: replace what is there.
    Raises `UsageError` if the target exists, or for a store without samples of the dataset; `MissingCache` and
    `DamagedStore` for one that cannot be read.
    """
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; remove it, give another name, or pass --overwrite.")
    reader = StoreReader(store)
    rows = _rows(reader, dataset, protocol)
    if not rows:
        raise UsageError(
            f"{store}: holds no sample{f' of {dataset.name}' if dataset else ''}; there is nothing to write."
        )
    about = {
        "modality": reader.store.modality,
        "collection": reader.store.collection,
        "key": dict(reader.store.key.fields),
        "attributes": dict(reader.attributes),
        "arrays": {spec.name: {"dims": list(spec.dims), **dict(spec.attributes)} for spec in reader.store.arrays},
    }
    content = _Content(reader, tuple(reader.store.arrays), rows, about)
    if target.is_dir():
        atomic.remove(target)
    return _WRITERS[kind](content, target, progress)


def _rows(reader: StoreReader, dataset: Dataset | None, protocol: str | None) -> tuple[_Row, ...]:
    if dataset is None:
        return tuple(_Row(name) for name in reader.ids)
    split = dataset.split(protocol)
    part_of = {name: part for part in _PARTS for name in getattr(split, part)}
    return tuple(
        _Row(sample.id, sample.label, dataset.classes[sample.label], part_of.get(sample.id, ""))
        for sample in dataset.samples
        if sample.id in reader and reader.status(sample.id) == "ok"
    )


def _array_blocks(content: _Content, spec: ArraySpec, progress: Callable[[], None]) -> tuple[bytes, Iterator[bytes]]:
    """The npy header of an array of all samples, and its bytes sample by sample."""
    lengths = _lengths(content, spec)
    first = sum(lengths) if spec.ragged else len(content.rows)
    shape = (first, *(spec.shape[1:] if spec.ragged else spec.shape))
    header = io.BytesIO()
    kind = np.dtype(spec.dtype).newbyteorder("<")
    described = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)

    def blocks() -> Iterator[bytes]:
        for row in content.rows:
            yield np.ascontiguousarray(content.reader.read_one(row.id, [spec.name])[spec.name], kind).tobytes()
            progress()

    return header.getvalue(), blocks()


def _lengths(content: _Content, spec: ArraySpec) -> list[int]:
    return [content.reader.length(row.id, spec.dims[0]) for row in content.rows] if spec.ragged else []


@contextmanager
def _folder(target: Path) -> Iterator[Path]:
    """A folder to write into that gets its final name only once it is complete."""
    temporary = atomic.temporary_name(target)
    atomic.make_folder(temporary)
    try:
        yield temporary
    except BaseException:
        atomic.remove(temporary)
        raise
    atomic.replace(temporary, target)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _counter(content: _Content, progress: Progress, each: int = 1) -> Callable[[], None]:
    done = 0
    total = len(content.rows) * each

    def one() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return one


class _Outlet(io.RawIOBase):
    """A file that archives write to and that returns their bytes piece by piece."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any, /) -> int:
        """Keep the bytes until `take`."""
        self.parts.append(bytes(data))
        self.size += len(self.parts[-1])
        return len(self.parts[-1])

    def tell(self) -> int:
        """Bytes so far, for offsets within the archive."""
        return self.size

    def take(self) -> list[bytes]:
        """The bytes written since the last call."""
        found, self.parts = self.parts, []
        return found


def _write_npz(content: _Content, target: Path, progress: Progress) -> int:
    one = _counter(content, progress, len(content.specs))

    def parts() -> Iterator[bytes]:
        outlet = _Outlet()
        with zipfile.ZipFile(outlet, "w") as archive:
            for name, array in _columns(content).items():
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy(array))
            for spec in content.specs:
                header, blocks = _array_blocks(content, spec, one)
                with archive.open(zipfile.ZipInfo(f"{spec.name}.npy"), _INTO_OUTLET, force_zip64=True) as member:
                    member.write(header)
                    for block in blocks:
                        member.write(block)
                        yield from outlet.take()
        yield from outlet.take()

    return atomic.write_parts(target, parts())[0]


def _columns(content: _Content) -> dict[str, np.ndarray]:
    """The arrays of an npz in addition to those of the store."""
    rows = content.rows
    found: dict[str, np.ndarray] = {"ids": np.array([row.id for row in rows])}
    if rows[0].label >= 0:
        found["labels"] = np.array([row.label for row in rows])
        found["class_of_sample"] = np.array([row.name for row in rows])
        found["splits"] = np.array([row.part for row in rows])
    for spec in content.specs:
        if spec.ragged:
            found[f"{spec.name}_lengths"] = np.array(_lengths(content, spec))
    found["about"] = np.array(json.dumps(content.about, ensure_ascii=False))
    return found


def _write_npy(content: _Content, target: Path, progress: Progress) -> int:
    one = _counter(content, progress, len(content.specs))
    with _folder(target) as folder:
        size = 0
        for spec in content.specs:
            header, blocks = _array_blocks(content, spec, one)
            size += atomic.write_parts(folder / f"{spec.name}.npy", _after(header, blocks))[0]
        text = io.StringIO()
        sheet = csv.writer(text, lineterminator="\n")
        ragged = {spec.name: _lengths(content, spec) for spec in content.specs if spec.ragged}
        sheet.writerow(["id", "label", "class", "split", *(f"{name}_length" for name in ragged)])
        for at, row in enumerate(content.rows):
            label = row.label if row.label >= 0 else ""
            sheet.writerow([row.id, label, row.name, row.part, *(lengths[at] for lengths in ragged.values())])
        for name, said in (("samples.csv", text.getvalue()), ("about.json", _pretty(content.about))):
            atomic.write_text(folder / name, said)
            size += len(said.encode())
    return size


def _after(header: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    yield header
    yield from blocks


def _pretty(value: Json) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _write_webdataset(content: _Content, target: Path, progress: Progress) -> int:
    one = _counter(content, progress)

    def parts() -> Iterator[bytes]:
        outlet = _Outlet()
        with tarfile.TarFile(fileobj=outlet, mode=_INTO_OUTLET, format=tarfile.PAX_FORMAT) as archive:
            for at, row in enumerate(content.rows):
                said = {
                    "id": row.id,
                    **({"label": row.label, "class": row.name, "split": row.part} if row.name else {}),
                }
                members = {"json": json.dumps(said, ensure_ascii=False).encode()}
                arrays = content.reader.read_one(row.id)
                members |= {f"{name}.npy": _npy(value) for name, value in arrays.items()}
                for ending, data in members.items():
                    member = tarfile.TarInfo(f"{at:08d}.{ending}")
                    member.size, member.mode = len(data), 0o644
                    archive.addfile(member, io.BytesIO(data))
                yield from outlet.take()
                one()
        yield from outlet.take()

    return atomic.write_parts(target, parts())[0]


def _write_huggingface(content: _Content, target: Path, progress: Progress) -> int:
    one = _counter(content, progress)
    parts = sorted({row.part for row in content.rows if row.part} or {"train"})
    with _folder(target) as folder:
        atomic.make_folder(folder / "data")
        size = 0
        for part in parts:
            rows = [
                row for row in content.rows if (row.part or "train") == part or (not row.part and parts == ["train"])
            ]
            size += atomic.write_parts(folder / "data" / f"{_PARTS[part]}.jsonl", _lines(content, rows, one))[0]
        files = "".join(f"  - split: {_PARTS[part]}\n    path: data/{_PARTS[part]}.jsonl\n" for part in parts)
        license_ = str(content.about["attributes"].get("licence", "not stated"))
        text = (
            f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n"
            f"# {content.about['collection']}: {content.about['modality']}\n\nLicense: {license_}\n\n"
            f"```json\n{_pretty(content.about)}```\n"
        )
        atomic.write_text(folder / "README.md", text)
        size += len(text.encode())
    return size


def _lines(content: _Content, rows: Iterable[_Row], one: Callable[[], None]) -> Iterator[bytes]:
    for row in rows:
        said: dict[str, Any] = {"id": row.id}
        if row.name:
            said |= {"label": row.label, "class": row.name}
        said |= {name: value.tolist() for name, value in content.reader.read_one(row.id).items()}
        yield pydantic_core.to_json(said, inf_nan_mode="null") + b"\n"
        one()


_WRITERS: dict[str, Callable[[_Content, Path, Progress], int]] = {
    "npz": _write_npz,
    "npy": _write_npy,
    "webdataset": _write_webdataset,
    "huggingface": _write_huggingface,
}
