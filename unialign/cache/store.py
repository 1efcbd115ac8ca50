"""A store on disk: where it lies, its Zarr metadata, and how it is made, opened and grown.

<cache root>/<collection>/<modality>/<extractor>-<first 12 hex of the key>.zarr/
    zarr.json              the group: key field by field, array layout, license of the weights
    <array>/zarr.json      one Zarr v3 array a feature; axis 0 is the slot, one shard file per work unit
    <array>/c/<shard>/0..  shard files
    records/000000.json    one per shard, written last
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from unialign.cache import atomic
from unialign.cache.arrays import ArraySpec
from unialign.cache.bounded import check_inside, parse_json, read_plain
from unialign.cache.codecs import CODECS, codec_versions
from unialign.cache.keys import SHORT, Key, digest
from unialign.cache.records import Entry, Record, ShardFile, write_record
from unialign.cache.schema import METADATA_BYTES, GroupBody, reason
from unialign.cache.shards import check_sample, encode_shard
from unialign.errors import DamagedStore, MissingCache, UsageError
from unialign.types import Json

FORMAT = 1


@dataclass(frozen=True)
class Store:
    """The content of a store's group metadata.

    shard_samples: slots per shard; fixed when the store is created.
    attributes: what the extractor declares for readers: license of the weights, type of encoder.
    codec: how inner chunks are stored, one of `cache.codecs.CODECS`; fixed when the store is created. Not part of the
        key: the values are the same.
    """

    path: Path
    collection: str
    modality: str
    key: Key
    arrays: tuple[ArraySpec, ...]
    shard_samples: int
    attributes: Mapping[str, Json]
    codec: str = "none"

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ValueError(f"unknown codec {self.codec!r}; known: {', '.join(CODECS)}")

    def array(self, name: str) -> ArraySpec:
        """The array of that name. Raises `MissingCache` if the store has none."""
        for spec in self.arrays:
            if spec.name == name:
                return spec
        raise MissingCache(f"{self.path}: no array {name!r}; it has {', '.join(spec.name for spec in self.arrays)}.")

    def shard_path(self, name: str, shard: int) -> Path:
        """The file of one array in one shard."""
        # One string operation: creating a Path per component would take a fifth of the time that opening a shard takes.
        return Path(f"{self.path}/{name}/c/{shard}" + "/0" * len(self.array(name).shape))

    @property
    def name(self) -> str:
        """Folder name without the suffix: extractor and short key."""
        return self.path.stem


def store_path(cache: Path, collection: str, modality: str, key: Key) -> Path:
    """Path of the store of a key, whether it exists or not."""
    return cache / collection / modality / f"{key.fields['extractor']}-{key.short}.zarr"


def array_metadata(store: Store, spec: ArraySpec, num_shards: int) -> dict[str, Json]:
    """The `zarr.json` of one array (Zarr v3: sharding_indexed over bytes and the store's codec)."""
    itemsize, shard_samples = np.dtype(spec.dtype).itemsize, store.shard_samples
    endian: dict[str, Json] = {"configuration": {"endian": "little"}} if itemsize > 1 else {}
    codecs: list[Json] = [{"name": "bytes", **endian}, *CODECS[store.codec].metadata(itemsize)]
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    padded = (spec.chunks_per_sample * spec.inner[0], *spec.shape[1:]) if spec.shape else ()
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [num_shards * shard_samples, *spec.shape],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_samples, *padded]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if np.dtype(spec.dtype).kind == "f" else 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [1, *spec.inner],
                    "codecs": codecs,
                    "index_codecs": index,
                    "index_location": "end",
                },
            }
        ],
        "attributes": {"ragged": spec.ragged, **spec.attributes},
        "dimension_names": ["sample", *spec.dims],
        "storage_transformers": [],
    }


def group_metadata(store: Store) -> dict[str, Json]:
    """The `zarr.json` of the group."""
    specs: list[Json] = [json.loads(json.dumps(asdict(spec))) for spec in store.arrays]
    body: dict[str, Json] = {
        "format": FORMAT,
        "collection": store.collection,
        "modality": store.modality,
        "key": dict(store.key.fields),
        "arrays": specs,
        "shard_samples": store.shard_samples,
        "codec": store.codec,
        **codec_versions(store.codec),
        **store.attributes,
    }
    return _group({**body, "digest": digest(body)})


def _group(body: Json) -> dict[str, Json]:
    return {"zarr_format": 3, "node_type": "group", "attributes": {"unialign": body}}


def json_bytes(value: Json) -> bytes:
    """Metadata as stored in a file."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def create_store(store: Store) -> Store:
    """Create an empty store (or return the existing one): metadata only, put in place by one rename.

    Raises `DamagedStore` if the existing one belongs to another key; `UsageError` for one that could not be opened
    again, because of its names or sizes.
    """
    if store.path.exists():
        found = open_store(store.path)
        if found.key.digest != store.key.digest:
            raise DamagedStore(f"{store.path}: the folder holds another key; move it away.")
        return found
    group = json_bytes(group_metadata(store))
    try:
        decode_store(store.path, group, f"{store.path} cannot be made")
    except DamagedStore as error:
        raise UsageError(str(error)) from error
    temporary = atomic.temporary_name(store.path)
    atomic.write_file(temporary / "zarr.json", group)
    for spec in store.arrays:
        atomic.write_file(temporary / spec.name / "zarr.json", json_bytes(array_metadata(store, spec, 0)))
    # A store that Zarr itself cannot read is never published. It is asked about the metadata alone: opening an array
    # starts its thread, which it waits too little for at the end of a process on a loaded machine.
    from zarr.core.metadata.v3 import ArrayV3Metadata

    for spec in store.arrays:
        ArrayV3Metadata.from_dict(parse_json((temporary / spec.name / "zarr.json").read_bytes()))
    atomic.replace(temporary, store.path)
    return store


def layout(store: Store) -> list[Json]:
    """What determines whether a sample fits into a store; how it is cut into chunks is internal to the store."""
    return [(spec.name, spec.dtype, spec.shape, spec.dims, spec.ragged) for spec in store.arrays]


def open_store(path: Path) -> Store:
    """The store at a path. Raises `MissingCache` if there is none, `DamagedStore` if its metadata was changed."""
    file = path / "zarr.json"
    try:
        data = read_plain(file, METADATA_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingCache(f"{path} is not a store; `unialign cache ls` lists the stores that exist.") from None
    except OSError as error:
        raise DamagedStore(f"{file}: the metadata cannot be read ({error.strerror}).") from error
    return decode_store(path, data, str(file))


def decode_store(path: Path, data: bytes, name: str) -> Store:
    """The store described by the bytes of a `zarr.json`. name: the name of the file in errors.

    Raises `DamagedStore` if they do not match their own digest, or are not valid metadata of a store.
    """
    try:
        plain = parse_json(data)["attributes"]["unialign"]
        claimed = plain.pop("digest")
        if digest(plain) != claimed or data != json_bytes(_group({**plain, "digest": claimed})):
            raise DamagedStore(f"{name}: the metadata does not match its own digest.")
        body = GroupBody.model_validate_json(data).attributes.unialign
        return Store(
            path=path,
            collection=body.collection,
            modality=body.modality,
            key=Key(body.key),
            arrays=tuple(array.spec() for array in body.arrays),
            shard_samples=body.shard_samples,
            attributes={name: value for name, value in (body.model_extra or {}).items() if name != "digest"},
            codec=body.codec,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStore(f"{name}: the metadata cannot be read ({reason(error)}).") from error


def read_num_shards(store: Store, spec: ArraySpec) -> int:
    """Length of an array's sample axis in shards, from its own metadata; may include shards beyond the records.

    Raises `DamagedStore` if the metadata is not what the store writes.
    """
    path = store.path / spec.name / "zarr.json"
    try:
        data = read_plain(path, METADATA_BYTES)
        num_shards = int(parse_json(data)["shape"][0]) // store.shard_samples
        if data != json_bytes(array_metadata(store, spec, num_shards)):
            raise DamagedStore(f"{path}: the array's metadata was changed; run `unialign extract MODALITY --repair`.")
    except OSError as error:
        raise DamagedStore(f"{path}: the array's metadata cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, IndexError, ArithmeticError) as error:
        raise DamagedStore(f"{path}: the array's metadata cannot be read ({reason(error)}).") from error
    return num_shards


def grow_store(store: Store, num_shards: int) -> None:
    """Grow the sample axis to at least `num_shards` shards. Changes only metadata, and never shrinks it."""
    for spec in store.arrays:
        if read_num_shards(store, spec) < num_shards:
            path = store.path / spec.name / "zarr.json"
            check_inside(store.path, path)
            atomic.write_file(path, json_bytes(array_metadata(store, spec, num_shards)))


def check_arrays(store: Store, values: Mapping[str, np.ndarray]) -> None:
    """Raises `ValueError` unless these arrays are a complete sample of the store, with the declared types and
    shapes.
    """
    missing = [spec.name for spec in store.arrays if spec.name not in values]
    if missing:
        raise ValueError(f"no array {', '.join(missing)}")
    for spec in store.arrays:
        check_sample(spec, values[spec.name])
    _lengths(values, [spec for spec in store.arrays if spec.ragged])


def write_shard(
    store: Store,
    shard: int,
    entries: Sequence[Entry],
    values: Sequence[Mapping[str, np.ndarray]],
    environment: Mapping[str, Json] | None = None,
) -> Record:
    """Store one work unit: every array's shard file, then the record that covers them.

    Raises `ValueError` for arrays of one sample that disagree on the length of an axis, `DamagedStore` if a link leads
    out of the store.
    entries, values: per slot, in slot order; `values` of a sample that is not "ok" is empty. The lengths of ragged axes
        and the checksums are filled in from the values. environment: what computed the values (processor, device,
        library builds): always the same on one machine, since it is part of the record's bytes. Returns the record.
    """
    if not 0 < len(entries) <= store.shard_samples:
        raise ValueError(f"a shard holds 1 to {store.shard_samples} samples, {len(entries)} given")
    files: dict[str, ShardFile] = {}
    checksums: list[dict[str, int]] = [{} for _ in entries]
    if any(entry.status == "ok" for entry in entries):
        for spec in store.arrays:
            column = [
                value[spec.name] if entry.status == "ok" else None for entry, value in zip(entries, values, strict=True)
            ]
            parts, found = encode_shard(spec, column, store.shard_samples, store.codec)
            path = store.shard_path(spec.name, shard)
            check_inside(store.path, path)
            files[spec.name] = ShardFile(*atomic.write_parts(path, parts))
            for slot, checksum in found.items():
                checksums[slot][spec.name] = checksum
    ragged = [spec for spec in store.arrays if spec.ragged]
    complete = tuple(
        Entry(
            entry.id,
            entry.status,
            entry.source,
            _lengths(value, ragged) if entry.status == "ok" else {},
            entry.detail,
            own,
        )
        for entry, value, own in zip(entries, values, checksums, strict=True)
    )
    record = Record(shard, complete, files, environment or {})
    write_record(store.path, record)
    return record


def _lengths(values: Mapping[str, np.ndarray], ragged: Sequence[ArraySpec]) -> dict[str, int]:
    """The length of each ragged axis of a sample. Raises `ValueError` where two arrays disagree on one."""
    lengths: dict[str, int] = {}
    for spec in ragged:
        length = len(values[spec.name])
        if lengths.setdefault(spec.dims[0], length) != length:
            raise ValueError(f"its arrays disagree on the length of axis {spec.dims[0]!r}")
    return lengths


def is_store_name(name: str) -> bool:
    """Whether a folder name looks like a store's: `<extractor>-<12 hex>.zarr`."""
    stem = name.removesuffix(".zarr")
    tail = stem[-SHORT:]
    return (
        name != stem
        and not name.startswith(atomic.PREFIX)
        and len(tail) == SHORT
        and set(tail) <= set("0123456789abcdef")
    )
