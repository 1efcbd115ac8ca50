"""One shard file: the bytes of Zarr v3's `sharding_indexed` codec for uncompressed inner chunks with crc32c.

Written here rather than through a Zarr library because the bytes of a store must be the same each time (zarrs orders
chunks freely) and because a chunk that equals the fill value must still be written. Zarr-python, tensorstore and zarrs
read it.

Layout of a file: inner chunks in slot order, each followed by its crc32c (4 bytes, little endian); then the index, one
(offset, bytes) pair of uint64 per inner chunk in C order, (2^64-1, 2^64-1) where a chunk is absent; then the index'
crc32c.
"""

from collections.abc import Sequence

import google_crc32c
import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.errors import DamagedStore

ABSENT = np.uint64(2**64 - 1)
CRC_BYTES = 4


def little_endian(spec: ArraySpec) -> np.dtype[np.generic]:
    """The type of an array on disk."""
    return np.dtype(spec.dtype).newbyteorder("<")


def check_sample(spec: ArraySpec, value: np.ndarray) -> np.ndarray:
    """The value as it goes to disk. Raises `ValueError` when type or shape are not the array's."""
    if value.dtype != np.dtype(spec.dtype):
        raise ValueError(f"array {spec.name}: {value.dtype} given, {spec.dtype} declared")
    fits = value.shape == spec.shape
    if spec.ragged:
        fits = (
            value.ndim == len(spec.shape) and 0 < value.shape[0] <= spec.shape[0] and value.shape[1:] == spec.shape[1:]
        )
    if not fits:
        raise ValueError(f"array {spec.name}: shape {value.shape} given, {spec.shape} declared")
    return np.ascontiguousarray(value, dtype=little_endian(spec))


def encode_shard(spec: ArraySpec, values: Sequence[np.ndarray | None], num_slots: int) -> list[bytes]:
    """The parts of a shard file, to be written one after the other.

    values: one array per slot, None where the sample has no features; at most `num_slots`.
    Raises `ValueError` for a value of another type or shape.
    """
    index = np.full((num_slots, spec.chunks_per_sample, 2), ABSENT, dtype="<u8")
    inner = spec.inner
    parts: list[bytes] = []
    offset = 0
    for slot, value in enumerate(values):
        if value is None:
            continue
        stored = check_sample(spec, value)
        step = inner[0] if inner else 1
        for number in range(-(-stored.shape[0] // step) if inner else 1):
            chunk = stored[number * step : (number + 1) * step] if inner else stored
            if inner and chunk.shape[0] < step:
                full = np.full(inner, spec.fill, dtype=chunk.dtype)
                full[: chunk.shape[0]] = chunk
                chunk = full
            data = chunk.tobytes()
            parts += (data, int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little"))
            index[slot, number] = offset, len(data) + CRC_BYTES
            offset += len(data) + CRC_BYTES
    table = index.tobytes()
    return [*parts, table, int(google_crc32c.value(table)).to_bytes(CRC_BYTES, "little")]


def read_index(spec: ArraySpec, data: memoryview, num_slots: int, name: str) -> np.ndarray:
    """The index of a shard file: (num_slots, chunks_per_sample, 2) uint64 of (offset, bytes).

    data: the whole file. Raises `DamagedStore` when the index does not match its checksum or points outside the file.
    """
    size = num_slots * spec.chunks_per_sample * 16
    if len(data) < size + CRC_BYTES:
        raise DamagedStore(f"{name}: shorter than its index; run `unialign cache verify`.")
    table = data[len(data) - size - CRC_BYTES : len(data) - CRC_BYTES]
    if int(google_crc32c.value(bytes(table))) != int.from_bytes(data[len(data) - CRC_BYTES :], "little"):
        raise DamagedStore(f"{name}: the shard index does not match its checksum; run `unialign cache verify`.")
    index = np.frombuffer(table, dtype="<u8").reshape(num_slots, spec.chunks_per_sample, 2)
    present = index[index[..., 0] != ABSENT]
    if present.size and int((present[:, 0] + present[:, 1]).max()) > len(data) - size - CRC_BYTES:
        raise DamagedStore(f"{name}: the shard index points outside the file; run `unialign cache verify`.")
    return index


def read_sample(spec: ArraySpec, data: memoryview, chunks: np.ndarray, length: int | None) -> np.ndarray:
    """One sample out of a shard file, copied.

    chunks: its rows of the index, (chunks_per_sample, 2). length: entries along a ragged first axis, None otherwise.
    Raises `DamagedStore` when a chunk that the sample needs is absent.
    """
    dtype, inner = little_endian(spec), spec.inner
    num_entries = spec.shape[0] if length is None and spec.shape else length
    num_chunks = -(-num_entries // inner[0]) if num_entries is not None and inner else 1
    if (chunks[:num_chunks, 0] == ABSENT).any():
        raise DamagedStore(f"array {spec.name}: a chunk that the record vouches for is absent from the shard.")
    shape = (num_entries, *spec.shape[1:]) if num_entries is not None else ()
    out = np.empty(shape, dtype=np.dtype(spec.dtype))
    count = int(np.prod(inner, dtype=np.int64))
    for number in range(num_chunks):
        chunk = np.frombuffer(data, dtype=dtype, count=count, offset=int(chunks[number, 0])).reshape(inner)
        if inner:
            start = number * inner[0]
            out[start : start + inner[0]] = chunk[: shape[0] - start]
        else:
            out[...] = chunk
    return out
