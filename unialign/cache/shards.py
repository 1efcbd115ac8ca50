"""One shard file: the bytes of Zarr v3's `sharding_indexed` codec, with inner chunks stored as in `cache.codecs`.

Implemented here rather than with a Zarr library because the bytes of a store must be the same each time (zarrs orders
chunks arbitrarily) and because a chunk that equals the fill value must still be written. zarr-python, tensorstore and
zarrs can read the files.

Layout of a file: inner chunks in slot order, each followed by its crc32c (zstd frames contain their own checksum); then
the index, one (offset, bytes) pair of uint64 per inner chunk in C order, (2^64-1, 2^64-1) for absent chunks; then the
crc32c of the index.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.codecs import CODECS, CRC_BYTES, chunk_payload, crc_bytes, sample_checksum, trailer
from unialign.errors import DamagedStore

ABSENT = np.uint64(2**64 - 1)
REMEDY = "run `unialign cache verify`, then `unialign extract MODALITY --repair`."


def little_endian(spec: ArraySpec) -> np.dtype[np.generic]:
    """The type of an array on disk."""
    return np.dtype(spec.dtype).newbyteorder("<")


def chunk_bytes(spec: ArraySpec) -> int:
    """Bytes of one inner chunk before it is encoded."""
    return int(np.prod(spec.inner, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def count_chunks(spec: ArraySpec, length: int | None) -> int:
    """Number of inner chunks of a sample, the first ones of its row in the index. length: of a ragged first axis."""
    return spec.chunks_per_sample if length is None else -(-length // spec.inner[0])


def check_sample(spec: ArraySpec, value: np.ndarray) -> np.ndarray:
    """The value as it is written to disk. Raises `ValueError` if type or shape are not those of the array."""
    if value.dtype != np.dtype(spec.dtype):
        raise ValueError(f"array {spec.name}: {value.dtype} given, {spec.dtype} declared")
    fits = value.shape == spec.shape
    if spec.ragged:
        fits = (
            value.ndim == len(spec.shape) and 0 < value.shape[0] <= spec.shape[0] and value.shape[1:] == spec.shape[1:]
        )
    if not fits:
        raise ValueError(f"array {spec.name}: shape {value.shape} given, {spec.shape} declared")
    return np.ascontiguousarray(value, dtype=little_endian(spec)).reshape(value.shape)


def cut_chunks(spec: ArraySpec, value: np.ndarray) -> Iterator[bytes]:
    """The inner chunks of one sample in order, the last one padded to full size."""
    if not spec.inner:
        yield value.tobytes()
        return
    step = spec.inner[0]
    for start in range(0, value.shape[0], step):
        chunk = value[start : start + step]
        if chunk.shape[0] < step:
            full = np.full(spec.inner, spec.fill, dtype=chunk.dtype)
            full[: chunk.shape[0]] = chunk
            chunk = full
        yield chunk.tobytes()


def encode_shard(
    spec: ArraySpec, values: Sequence[np.ndarray | None], num_slots: int, codec: str = "none"
) -> tuple[list[bytes], dict[int, int]]:
    """The parts of a shard file, to be written one after the other, and the checksum of each sample by slot.

    values: one array per slot, None where the sample has no features; at most `num_slots`.
    Raises `ValueError` for a value of another type or shape.
    """
    index = np.full((num_slots, spec.chunks_per_sample, 2), ABSENT, dtype="<u8")
    itemsize, encode = np.dtype(spec.dtype).itemsize, CODECS[codec].encode
    parts: list[bytes] = []
    checksums: dict[int, int] = {}
    offset = 0
    for slot, value in enumerate(values):
        if value is None:
            continue
        payloads = [encode(chunk, itemsize) for chunk in cut_chunks(spec, check_sample(spec, value))]
        checksums[slot] = sample_checksum(payloads)
        for number, payload in enumerate(payloads):
            parts += (payload, trailer(codec, payload))
            size = len(payload) + len(parts[-1])
            index[slot, number] = offset, size
            offset += size
    table = index.tobytes()
    return [*parts, table, crc_bytes(table)], checksums


def index_bytes(spec: ArraySpec, num_slots: int) -> int:
    """Bytes of the index at the end of a shard file, with its checksum."""
    return num_slots * spec.chunks_per_sample * 16 + CRC_BYTES


def read_index(spec: ArraySpec, data: memoryview, num_slots: int, name: str, *, before: int = 0) -> np.ndarray:
    """The index of a shard file: (num_slots, chunks_per_sample, 2) uint64 of (offset, bytes).

    data: the whole file, or the end of one that has `before` more bytes in front. Raises `DamagedStore` when the index
    does not match its checksum or points outside the file.
    """
    size = num_slots * spec.chunks_per_sample * 16
    if len(data) < size + CRC_BYTES:
        raise DamagedStore(f"{name}: shorter than its index; run `unialign cache verify`.")
    table = data[len(data) - size - CRC_BYTES : len(data) - CRC_BYTES]
    if crc_bytes(bytes(table)) != data[len(data) - CRC_BYTES :]:
        raise DamagedStore(f"{name}: the shard index does not match its checksum; run `unialign cache verify`.")
    index = np.frombuffer(table, dtype="<u8").reshape(num_slots, spec.chunks_per_sample, 2)
    present, end = index[index[..., 0] != ABSENT], before + len(data) - size - CRC_BYTES
    # Each bound is checked separately: the sum of two numbers near 2^64 wraps around.
    if ((present > end).any(axis=-1) | (present.sum(axis=-1) > end)).any():
        raise DamagedStore(f"{name}: the shard index points outside the file; run `unialign cache verify`.")
    return index


def read_sample(
    spec: ArraySpec,
    data: memoryview,
    chunks: np.ndarray,
    length: int | None,
    *,
    codec: str = "none",
    checksum: int | None = None,
    name: str = "",
) -> np.ndarray:
    """One sample from a shard file, copied.

    chunks: its rows of the index, (chunks_per_sample, 2). length: entries along a ragged first axis, None otherwise.
    checksum, name: see `decode_sample`. Raises `DamagedStore` if a chunk that the sample needs is absent or damaged.
    """
    needed = chunks[: count_chunks(spec, length)]
    if (needed[:, 0] == ABSENT).any():
        raise DamagedStore(f"{name or spec.name}: a chunk that the record covers is missing; {REMEDY}")
    stored = [bytes(data[offset : offset + size]) for offset, size in needed.tolist()]
    return decode_sample(spec, stored, length, codec=codec, checksum=checksum, name=name)


def decode_sample(
    spec: ArraySpec,
    stored: Sequence[bytes],
    length: int | None,
    *,
    codec: str = "none",
    checksum: int | None = None,
    name: str = "",
) -> np.ndarray:
    """One sample, (length, *shape[1:]) or `spec.shape`, from its chunks as stored in the file, in chunk order.

    checksum: that of this sample and array in the record; None: it is not compared, and chunks of another sample would
        be accepted. name: the name of the file in errors. Raises `DamagedStore` if a chunk is not what was written.
    """
    try:
        if len(stored) != count_chunks(spec, length):
            raise ValueError(f"{len(stored)} chunks are there, the sample takes {count_chunks(spec, length)}")
        payloads = [chunk_payload(codec, chunk) for chunk in stored]
        if checksum is not None and sample_checksum(payloads) != checksum:
            raise ValueError("the chunks of a sample are not those in its record")
        size, decode = chunk_bytes(spec), CODECS[codec].decode
        chunks = [np.frombuffer(decode(payload, size), dtype=little_endian(spec)) for payload in payloads]
    except (ValueError, RuntimeError) as error:
        raise DamagedStore(f"{name or spec.name}: {error}; {REMEDY}") from error
    if not spec.inner:
        return np.array(chunks[0].reshape(()), dtype=spec.dtype)
    out = np.empty((spec.shape[0] if length is None else length, *spec.shape[1:]), dtype=spec.dtype)
    for number, chunk in enumerate(chunks):
        part = out[number * spec.inner[0] : (number + 1) * spec.inner[0]]
        part[...] = chunk.reshape(spec.inner)[: len(part)]
    return out
