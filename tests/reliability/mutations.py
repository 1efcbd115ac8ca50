"""Changes to a small store, as lists of plain values: what a stranger changes before signing it again.

A case is a list of steps, each `[kind, ...]`. They come from a seed, and those that once broke something are kept in
`corpus.json`, so that they stay the same when the drawing of new ones changes.
"""

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.forged import signed_group, signed_index, signed_record, signed_shard

Files = dict[str, bytes]
Step = list[Any]

# fmt: off
VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 5, 16, 17, 63, 64, 65, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63, 2**64,
    -2, -(2**31), -(2**63), 1.0, 1.5, -0.0, 1e300, True, False, None, "", "a", "../x", "/dev/shm/x", "a\0b", "..", "c",
    "records", "zarr.json", "rows", "frame", "byte", "ok", "truncated", "float64", "int8", "object", "zstd", "blosc",
    "x" * 300, "0" * 64, "sha256:" + "1" * 64, [], {}, [0], [64], {"rows": 1}, [[[]]], "\ud7ff", "clip001",
)
# fmt: on
# Words of shard indexes.
WORDS = (0, 1, 4, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 2, 2**64 - 4096, 4095, 4096)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a value of JSON."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, (*path, number))


def drawn(generator: random.Random, files: Files, sizes: dict[str, int]) -> list[Step]:
    """One to three steps for these files. sizes: of the index at the end of each shard file."""
    return [_drawn(generator, files, sizes) for _ in range(generator.choice((1, 1, 1, 2, 3)))]


def _drawn(generator: random.Random, files: Files, sizes: dict[str, int]) -> Step:
    kind = generator.choice(("json", "json", "json", "record", "record", "words", "words", "column", "column", "file"))
    if kind == "words":
        name = generator.choice(sorted(sizes))
        place = generator.randrange(sizes[name] // 8)
        how = generator.choice(("set", "add", "copy"))
        return ["words", name, place, how, generator.choice(WORDS) if how == "set" else generator.randrange(-40, 40)]
    if kind == "column":
        names = [column[0] for column in _head(files["records/index.bin"])["columns"]]
        value = generator.choice((0, 1, 2, -1, 3, 15, 16, 17, 64, 65, 127, 200, 2**31 - 1, -(2**31)))
        return ["column", generator.choice(names), generator.randrange(-8, 8), value, generator.random() < 0.2]
    if kind == "file":
        name, other = generator.choice(sorted(files)), generator.choice(sorted(files))
        how = generator.choice(("delete", "cut", "swap", "flip", "append", "link", "pipe", "folder", "linked folder"))
        return ["file", name, how, other, generator.randrange(10**6)]
    names = [name for name in files if name.endswith(".json") and (kind == "json") != name.startswith("records/")]
    name = generator.choice([*sorted(names), *(["records/index.bin"] if kind == "json" else [])])
    value = _head(files[name]) if name.endswith(".bin") else json.loads(files[name])
    way = list(generator.choice(list(places(value))))
    how = generator.choice(("set", "set", "set", "add", "times", "delete", "rename", "double", "deep"))
    return ["json", name, way, how, generator.choice(VALUES)]


def applied(files: Files, steps: list[Step], sizes: dict[str, int], *, signed: bool = True) -> Files:
    """The files after those steps, signed again. signed: records and index follow what was changed below them."""
    changed = dict(files)
    for kind, name, *rest in steps:
        # A step that makes no sense, also after an earlier one, leaves things as they are.
        with contextlib.suppress(LookupError, TypeError, ValueError, OverflowError, AttributeError, StopIteration):
            if kind == "json":
                changed[name] = _json(changed[name], name, *rest)
            elif kind == "words":
                changed[name] = signed_shard(changed[name], sizes[name], lambda _, table, r=rest: _word(table, *r))
            elif kind == "column":
                data = changed["records/index.bin"]
                changed["records/index.bin"] = signed_index(data, lambda _, c, n=name, r=rest: _column(c[n], *r))
    if signed:
        with contextlib.suppress(LookupError, TypeError, ValueError, OverflowError, AttributeError):
            _sign(files, changed)
    return changed


def _json(data: bytes, name: str, way: list[Any], how: str, value: Any) -> bytes:
    def change(body: Any) -> None:
        *folders, last = way
        inner = body
        for step in folders:
            inner = inner[step]
        if how == "set":
            inner[last] = value
        elif how in ("add", "times"):
            inner[last] = inner[last] + 1 if how == "add" else inner[last] * 2
        elif how == "delete":
            del inner[last]
        elif how == "rename":
            inner[str(value)] = inner.pop(last)
        elif how == "double":
            inner.append(inner[last])
        else:
            for _ in range(50):
                inner[last] = [inner[last]]

    if name == "zarr.json":
        way = way[2:] if way[:2] == ["attributes", "unialign"] else way
        return signed_group(data, change)
    if name.endswith(".bin"):
        return signed_index(data, lambda head, _: change(head))
    if name.startswith("records/"):
        return signed_record(data, change)
    body = json.loads(data)
    change(body)
    return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"


def _word(table: np.ndarray, place: int, how: str, value: int) -> None:
    if how == "set":
        table[place] = value
    elif how == "add":
        table[place] = (int(table[place]) + value) % 2**64
    else:
        table[place] = table[(place + value) % len(table)]


def _column(column: np.ndarray, place: int, value: int, everywhere: bool) -> None:
    if column.dtype.kind == "S":
        column.view(np.uint8)[place] = value % 256
    elif everywhere:
        column[...] = value
    else:
        column.reshape(-1)[place] = value


def _head(data: bytes) -> Any:
    return json.loads(data[: data.index(b"\n")])


def _sign(files: Files, changed: Files) -> None:
    """Let records say what the shard files are now, and the index what size the records have."""
    numbers = {name: int(name.split("/")[1][:-5]) for name in files if name.startswith("records/0")}
    for name, number in numbers.items():
        shards = [n for n in files if n.split("/")[1:3] == ["c", str(number)] and changed[n] != files[n]]
        if shards:
            signed = {n.split("/")[0]: {"bytes": len(changed[n]), "sha256": _sha(changed[n])} for n in shards}
            changed[name] = signed_record(changed[name], lambda body, v=signed: body["files"].update(v))
    if any(changed[name] != files[name] for name in numbers):
        sizes = [len(changed[name]) for name in sorted(numbers)]
        index = changed["records/index.bin"]
        changed["records/index.bin"] = signed_index(index, lambda _, columns: _follow(columns, sizes))


def _follow(columns: dict[str, np.ndarray], sizes: list[int]) -> None:
    columns["shards.record_bytes"][:] = sizes


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
