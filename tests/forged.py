"""What a stranger can do to a store: change what its files say and sign it again, as whoever knows the format can."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache.codecs import crc_bytes
from unialign.cache.keys import canonical, digest

Change = Callable[[Any], object]


def forge_group(store: Path, change: Change) -> None:
    """Change the body of a store's metadata; `change` gets it as plain JSON."""
    path = store / "zarr.json"
    path.write_bytes(signed_group(path.read_bytes(), change))


def signed_group(data: bytes, change: Change) -> bytes:
    group = json.loads(data)
    body = {name: value for name, value in group["attributes"]["unialign"].items() if name != "digest"}
    change(body)
    group["attributes"]["unialign"] = {**body, "digest": digest(body)}
    return json.dumps(group, indent=2, ensure_ascii=False).encode() + b"\n"


def forge_record(store: Path, shard: int, change: Change) -> None:
    """Change the body of a record. The index, which covers records by their size, goes."""
    path = store / "records" / f"{shard:06d}.json"
    path.write_bytes(signed_record(path.read_bytes(), change))
    (store / "records" / "index.bin").unlink(missing_ok=True)


def signed_record(data: bytes, change: Change) -> bytes:
    body = {name: value for name, value in json.loads(data).items() if name != "digest"}
    change(body)
    text = canonical(body)
    checksum = hashlib.sha256(text).hexdigest()
    return f'{{"digest":"{checksum}",'.encode() + text[1:] + b"\n"


def forge_index(store: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], object]) -> None:
    """Change the head of an index or its columns in place, which are given by name."""
    path = store / "records" / "index.bin"
    path.write_bytes(signed_index(path.read_bytes(), change))


def signed_index(data: bytes, change: Callable[[dict[str, Any], dict[str, np.ndarray]], object]) -> bytes:
    end = data.index(b"\n") + 1
    head, content = json.loads(data[:end]), bytearray(data[end:-32])
    columns = {
        name: np.frombuffer(content, kind, int(np.prod(shape)), offset).reshape(shape)
        for name, kind, shape, offset in head["columns"]
    }
    change(head, columns)
    body = json.dumps(head).encode() + b"\n" + bytes(content)
    return body + hashlib.sha256(body).digest()


def forge_shard(store: Path, array: str, shard: int, change: Callable[[bytearray, np.ndarray], object]) -> None:
    """Change a shard file, whose record covers it; `change` gets its bytes and its index, flat (offset, bytes)."""
    folder = store / array
    path = next(path for path in (folder / "c" / str(shard)).rglob("*") if path.is_file())
    found = json.loads((folder / "zarr.json").read_bytes())
    outer, inner = (
        found["chunk_grid"]["configuration"]["chunk_shape"],
        found["codecs"][0]["configuration"]["chunk_shape"],
    )
    size = 16 * int(np.prod([one // other for one, other in zip(outer, inner, strict=True)]))
    data = signed_shard(path.read_bytes(), size, change)
    path.write_bytes(data)
    signed = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    forge_record(store, shard, lambda body: body["files"].update({array: signed}))


def signed_shard(data: bytes, size: int, change: Callable[[bytearray, np.ndarray], object]) -> bytes:
    content, table = bytearray(data[: -size - 4]), np.frombuffer(data[-size - 4 : -4], "<u8").copy()
    change(content, table)
    return bytes(content) + table.tobytes() + crc_bytes(table.tobytes())
