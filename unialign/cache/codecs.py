"""How the bytes of one inner chunk are stored in a shard file: raw, or compressed by zstd or blosc.

The compressors are those of numcodecs, which zarr-python itself uses, so every Zarr tool can read the files. Every
codec has a checksum, and the decoded size, which follows from the array's shape, must be declared exactly: a small
chunk that unpacks to gigabytes is rejected before memory is allocated for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import google_crc32c
import numcodecs
import numcodecs.blosc
import numcodecs.zstd
import numpy as np

from unialign.types import Json

CRC_BYTES = 4
ZSTD_LEVEL = 3
BLOSC_LEVEL = 5

# With threads, blosc stores its blocks in order of completion, so the bytes would differ from run to run.
numcodecs.blosc.use_threads = False


@dataclass(frozen=True)
class Codec:
    """One way to store a chunk.

    metadata: what follows `bytes` in Zarr's list of codecs, by the size of one number. encode: payload of a chunk, from
    its bytes and the size of one number. decode: the chunk's bytes, from a payload and the size that they must have;
    raises `ValueError` or `RuntimeError`. crc: whether a crc32c follows the payload (zstd frames hold their own).
    """

    metadata: Callable[[int], list[Json]]
    encode: Callable[[bytes, int], bytes]
    decode: Callable[[bytes, int], bytes]
    crc: bool


def crc_bytes(data: bytes) -> bytes:
    """The crc32c of some bytes as stored in files: 4 bytes, little endian."""
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def sample_checksum(payloads: Sequence[bytes]) -> int:
    """The crc32c over the payloads of one sample, in chunk order and without the checksums in between.

    It is kept in the record, so that a reader of a few chunks can verify that they belong to this sample.
    """
    value = 0
    for payload in payloads:
        value = int(google_crc32c.extend(value, payload))
    return value


def trailer(codec: str, payload: bytes) -> bytes:
    """What follows a payload in the file: its crc32c, or nothing if the codec has its own checksum."""
    return crc_bytes(payload) if CODECS[codec].crc else b""


def chunk_payload(codec: str, stored: bytes) -> bytes:
    """The payload of a chunk as stored in the file. Raises `ValueError` if its crc32c differs."""
    if not CODECS[codec].crc:
        return stored
    payload = stored[:-CRC_BYTES]
    if len(stored) < CRC_BYTES or crc_bytes(payload) != stored[-CRC_BYTES:]:
        raise ValueError("a chunk does not match its checksum")
    return payload


def _check_size(announced: int, size: int) -> None:
    if announced != size:
        raise ValueError(f"a chunk holds {announced} bytes instead of {size}")


def _decode_none(payload: bytes, size: int) -> bytes:
    _check_size(len(payload), size)
    return payload


def _encode_zstd(data: bytes, itemsize: int) -> bytes:
    return bytes(numcodecs.Zstd(level=ZSTD_LEVEL, checksum=True).encode(data))


def _decode_zstd(payload: bytes, size: int) -> bytes:
    _check_size(zstd_size(payload), size)
    # The library allocates the declared size, and rejects a frame that unpacks to another or fails its checksum.
    return bytes(numcodecs.Zstd().decode(payload))


def zstd_size(payload: bytes | memoryview) -> int:
    """The size that the header of a zstd frame announces (RFC 8878, 3.1.1.1).

    Raises `ValueError` for other bytes, and for a frame that announces no size or has no checksum.
    """
    descriptor = payload[4] if len(payload) > 4 else 0
    single_segment, has_checksum = bool(descriptor & 0x20), bool(descriptor & 0x04)
    # Number of size bytes, by the flag in the top two bits; before them are the window (1 byte) and the dictionary's
    # id.
    width = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if payload[:4] != b"\x28\xb5\x2f\xfd" or not has_checksum or not width or len(payload) < start + width:
        raise ValueError("a chunk is not a zstd frame with its size and a checksum")
    return int.from_bytes(payload[start : start + width], "little") + (256 if width == 2 else 0)


def _blosc_metadata(itemsize: int) -> list[Json]:
    settings = {"cname": "lz4", "clevel": BLOSC_LEVEL, "shuffle": "bitshuffle", "typesize": itemsize, "blocksize": 0}
    return [{"name": "blosc", "configuration": settings}, {"name": "crc32c"}]


def _encode_blosc(data: bytes, itemsize: int) -> bytes:
    shuffle = numcodecs.blosc.BITSHUFFLE
    return bytes(numcodecs.Blosc("lz4", BLOSC_LEVEL, shuffle, blocksize=0, typesize=itemsize).encode(data))


def _check_blosc(payload: bytes | memoryview, size: int) -> None:
    # The unpacked and packed sizes are at 4 and 12. The library trusts the second one, and reads past the end.
    _check_size(int.from_bytes(payload[4:8], "little"), size)
    if len(payload) < 16 or int.from_bytes(payload[12:16], "little") != len(payload):
        raise ValueError("a chunk is not a whole blosc buffer")


def _decode_blosc(payload: bytes, size: int) -> bytes:
    _check_blosc(payload, size)
    return bytes(numcodecs.Blosc().decode(payload))


CODECS: Mapping[str, Codec] = {
    "none": Codec(lambda itemsize: [{"name": "crc32c"}], lambda data, itemsize: data, _decode_none, True),
    "zstd": Codec(
        lambda itemsize: [{"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}}],
        _encode_zstd,
        _decode_zstd,
        False,
    ),
    "blosc": Codec(_blosc_metadata, _encode_blosc, _decode_blosc, True),
}


def decode_into(codec: str, payload: bytes | memoryview, out: np.ndarray) -> None:
    """Unpack the payload of a chunk into memory of its size, (bytes,) uint8. Raises what `Codec.decode` raises."""
    if codec == "zstd":
        _check_size(zstd_size(payload), len(out))
        numcodecs.zstd.decompress(payload, out)
    elif codec == "blosc":
        _check_blosc(payload, len(out))
        numcodecs.blosc.decompress(payload, out)
    else:
        _check_size(len(payload), len(out))
        out[:] = np.frombuffer(payload, dtype=np.uint8)


def codec_versions(codec: str) -> dict[str, Json]:
    """What a store records about the library that may affect a codec's bytes; nothing for uncompressed chunks."""
    return {} if codec == "none" else {"numcodecs": numcodecs.__version__}
