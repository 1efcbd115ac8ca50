"""The schema of a store's metadata; nothing in it is trusted before it has been validated here.

Digests detect accidents, but not attackers, who recompute them after a change.

The models are strict: numbers are not parsed from strings, nor strings made of numbers. Unknown fields are rejected
where the format is entirely ours (arrays, entries, files); they are kept in a store's body, which holds what its
extractor declares, and ignored in a record's body, where later versions may add more.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from unialign.cache.arrays import ArraySpec

# Maximum size of a `zarr.json` and of a record; real ones are a thousandth of it.
METADATA_BYTES, RECORD_BYTES = 16 << 20, 16 << 20
# Maximum size of one inner chunk, which is held in memory, and of the index at the end of a shard file.
CHUNK_BYTES, SHARD_INDEX_BYTES = 256 << 20, 256 << 20
MAX_SHARD = 2**31 - 1
_LARGE = 2**62
# Names that are part of the layout of a store.
_RESERVED = {"records", "c", "zarr.json"}


def folder_name(name: str) -> str:
    """The name, if it is valid for a folder. Raises `ValueError` for one that leads elsewhere or is hidden."""
    if not name or name.startswith(".") or set(name) & set("/\\") or not name.isprintable():
        raise ValueError(f"{name[:80]!r} cannot be the name of a folder")
    if len(name.encode()) > 200:
        raise ValueError(f"{name[:80]!r}... is too long for the name of a folder")
    return name


def array_name(name: str) -> str:
    """The name, if it is valid for an array in a store. Raises `ValueError` for any other."""
    if name in _RESERVED:
        raise ValueError(f"{name!r} cannot be the name of an array: a store uses it itself")
    return folder_name(name)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


Folder = Annotated[str, AfterValidator(folder_name)]
Name = Annotated[str, AfterValidator(array_name)]
Id = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_without_nul)]
Axis = Annotated[str, Field(min_length=1, max_length=200)]
Size = Annotated[int, Field(ge=1, le=_LARGE)]
DataType = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ArrayBody(_Body):
    """One array of a store."""

    name: Name
    dtype: DataType
    shape: Annotated[tuple[Size, ...], Field(max_length=16)]
    dims: tuple[Axis, ...]
    ragged: bool = False
    chunk: Annotated[int, Field(ge=0, le=_LARGE)] = 0
    attributes: dict[str, Any] = {}

    def spec(self) -> ArraySpec:
        """The same as an `ArraySpec`. Raises `ValueError` if shape, names and raggedness do not fit."""
        return ArraySpec(self.name, self.dtype, self.shape, self.dims, self.ragged, self.chunk, self.attributes)


class StoreBody(BaseModel):
    """The body of a store's `zarr.json`; `model_extra` holds what the extractor declares."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    format: Literal[1]
    collection: Folder
    modality: Folder
    key: dict[str, Any]
    arrays: Annotated[tuple[ArrayBody, ...], Field(min_length=1, max_length=1000)]
    shard_samples: Annotated[int, Field(ge=1, le=1 << 24)]
    # Missing in stores of earlier versions.
    codec: str = "none"
    numcodecs: str = ""

    @model_validator(mode="after")
    def _fits(self) -> "StoreBody":
        folder_name(_text(self.key.get("extractor")))
        names = [array.name for array in self.arrays]
        if len(set(names)) < len(names):
            raise ValueError("two arrays have one name")
        for array in self.arrays:
            spec = array.spec()
            item = np.dtype(spec.dtype).itemsize
            # Python's integers: those of numpy wrap around.
            chunk = item * _product(spec.inner)
            if chunk > CHUNK_BYTES:
                raise ValueError(f"a chunk of array {spec.name} has {chunk} bytes, more than {CHUNK_BYTES}")
            index = 16 * self.shard_samples * spec.chunks_per_sample
            if index > SHARD_INDEX_BYTES:
                raise ValueError(f"a shard index of array {spec.name} has {index} bytes, more than {SHARD_INDEX_BYTES}")
        return self


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("the key names no extractor")
    return value


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


class _Attributes(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    unialign: StoreBody


class GroupBody(BaseModel):
    """A store's `zarr.json`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    attributes: _Attributes


class FileBody(_Body):
    """One array's file in a shard."""

    bytes: Annotated[int, Field(ge=0, le=_LARGE)]
    sha256: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class EntryBody(_Body):
    """One sample in a record."""

    id: Id
    status: str
    source: Annotated[str, Field(max_length=4096), AfterValidator(_without_nul)] = ""
    lengths: dict[Axis, Annotated[int, Field(ge=1, le=2**31 - 1)]] = {}
    detail: dict[str, Any] = {}
    checksums: dict[Name, Annotated[int, Field(ge=0, lt=2**32)]] = {}


class RecordBody(BaseModel):
    """A record."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    format: int
    store: str = ""
    shard: Annotated[int, Field(ge=0, le=MAX_SHARD)]
    samples: Annotated[tuple[EntryBody, ...], Field(min_length=1)]
    files: dict[Name, FileBody]
    environment: dict[str, Any] = {}


class NoteBody(_Body):
    """What the index says about a sample besides its columns."""

    detail: dict[str, Any] = {}
    source: str = ""


class IndexHead(_Body):
    """The first line of an index. columns: name, type, shape, place of the first byte."""

    format: Literal[1]
    store: str
    columns: Annotated[
        tuple[
            tuple[
                str,
                str,
                Annotated[tuple[Annotated[int, Field(ge=0, le=2**40)], ...], Field(min_length=1, max_length=2)],
                Annotated[int, Field(ge=0, le=2**40)],
            ],
            ...,
        ],
        Field(max_length=5000),
    ]


def reason(error: Exception) -> str:
    """The error in one line: for a `ValidationError` the first problem and its location, without the value."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:120]
        return f"{place}: {first['msg']}"[:300] if place else first["msg"][:300]
    return " ".join(str(error).split())[:300] or type(error).__name__
