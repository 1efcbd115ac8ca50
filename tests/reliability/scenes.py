"""What the reliability tests share: a small store with the arrays that it must give, damage to it, honest reading."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract, make_files
from unialign.cache.arrays import ArraySpec
from unialign.cache.atomic import PREFIX
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Column
from unialign.cache.reader import StoreReader
from unialign.errors import CacheProblem
from unialign.stages.extraction.base import Source

FULL = os.environ.get("RELIABILITY") == "full"
SEED = int(os.environ.get("RELIABILITY_SEED", "0"))
SHARD_SAMPLES = 4
PLAIN = Spectrum()

# Entries of a ragged sample in a batch: more than the shortest has, fewer than the longest.
WINDOW = 20

Arrays = Mapping[str, np.ndarray]
Attempt = Callable[[Callable[[], Any]], Any]


def sized(small: int, full: int) -> int:
    """The size of a test: the small one in the usual run, the other with RELIABILITY=full."""
    return full if FULL else small


@dataclass(frozen=True)
class Scene:
    """A finished extraction: its sources, and what every read of its store must give."""

    cache: Path
    store: Path
    sources: list[Source]
    expected: Mapping[str, Arrays]
    whole: str


def expected_arrays(sources: Sequence[Source], extractor: Spectrum = PLAIN) -> dict[str, Arrays]:
    """What the extractor makes of the sources, by id, without a store."""
    return {found.id: found.arrays for found in extractor.run(sources) if found.status == "ok"}


def make_scene(folder: Path, number: int = 8, bad: tuple[int, ...] = (), extractor: Spectrum = PLAIN) -> Scene:
    """Extract `number` files of a folder in shards of 4; those in `bad` are quarantined."""
    sources = make_files(folder / "files", number, bad)
    store = extract(folder / "cache", sources, extractor).store
    return Scene(folder / "cache", store, sources, expected_arrays(sources, extractor), tree_digest(store))


def check_equal(found: Arrays, expected: Arrays, names: Sequence[str], what: str) -> None:
    """Fails unless the arrays have the same types, shapes and bytes."""
    for name in names:
        one, other = found[name], expected[name]
        same = one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        assert same, f"{what}: {name} silently differs"


def read_everything(store: Path, expected: Mapping[str, Arrays], after: str = "") -> int:
    """Read every sample in both ways; returns how many reads were rejected.

    Fails for an array that is not what was stored, a sample that never was, and an error that is not a `CacheProblem`.
    """
    refused = 0

    def attempt(read: Callable[[], Any]) -> Any:
        nonlocal refused
        try:
            return read()
        except CacheProblem:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{after}: {type(error).__name__} instead of a typed error: {error}") from error
        return None

    reader = attempt(lambda: StoreReader(store))
    if reader is None:
        return refused
    assert set(reader.ids) <= set(expected), f"{after}: foreign samples {set(reader.ids) - set(expected)}"
    for name in expected:
        found = attempt(lambda name=name: reader.read_one(name))  # type: ignore[misc]
        if found is not None:
            check_equal(found, expected[name], list(expected[name]), f"{after}: read_one({name})")
    again = attempt(lambda: StoreReader(store))
    if again is not None:
        _read_batches(again, expected, after, attempt)
    return refused


def _read_batches(reader: StoreReader, expected: Mapping[str, Arrays], after: str, attempt: Attempt) -> None:
    """All samples at once, then one by one: a refusal must not be forgotten at the second touch."""
    ids = list(reader.ids)
    columns = {spec.name: Column(reader, spec.name, WINDOW if spec.ragged else 0) for spec in reader.store.arrays}
    batches = attempt(lambda: BatchReader(columns, ids)) if ids else None
    if batches is None:
        return
    for places in [list(range(len(ids))), *[[place] for place in range(len(ids))]]:
        found = attempt(lambda places=places: batches.read(np.array(places)))  # type: ignore[misc]
        for row, place in enumerate(places if found is not None else []):
            rows = {name: found[name][row] for name in columns}
            wanted = {name: _window(expected[ids[place]][name], column) for name, column in columns.items()}
            check_equal(rows, wanted, list(columns), f"{after}: BatchReader[{ids[place]}]")


def _window(value: np.ndarray, column: Column) -> np.ndarray:
    """What a batch holds of a sample: behind its last entry comes its first one again."""
    return value[np.arange(column.window) % len(value)] if column.window else value


def files_of(store: Path) -> list[Path]:
    """Every file of a store, in order of its name."""
    return sorted(path for path in store.rglob("*") if path.is_file())


def damaged_copy(scene: Scene, cache: Path) -> None:
    """The scene's cache with one flipped shard and one cut record."""
    shutil.copytree(scene.cache, cache)
    files = files_of(cache / scene.store.relative_to(scene.cache))
    shard = next(path for path in files if "/c/0/" in str(path))
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    record = next(path for path in files if path.name == "000001.json")
    record.write_bytes(record.read_bytes()[:-9])


def unit_of(file: str) -> int | None:
    """The work unit of a file, by its path inside the store; None for metadata and leftovers of a kill."""
    parts = file.split("/")
    if parts[0] == "records":
        stem = parts[1].removesuffix(".json")
        return int(stem) if stem.isdigit() else None
    return int(parts[2]) if len(parts) > 2 and parts[1] == "c" and parts[2].isdigit() else None


def temporaries(cache: Path) -> list[Path]:
    """What killed writers left under a cache."""
    return list(cache.rglob(f"{PREFIX}*"))


@contextmanager
def kept(store: Path) -> Iterator[None]:
    """Puts the store back as it was before the block."""
    copy = store.with_name("kept-" + store.name)
    shutil.copytree(store, copy, symlinks=True)
    try:
        yield
    finally:
        shutil.rmtree(store, ignore_errors=True)
        copy.rename(store)


class LengthOnly:
    """A checksum that sees nothing but the length: what is left of a store's checks when nobody looks at the bytes."""

    def __init__(self, data: bytes = b"") -> None:
        self.size = len(data)

    def update(self, data: bytes) -> None:
        self.size += len(data)

    def digest(self) -> bytes:
        return self.size.to_bytes(32, "big")

    def hexdigest(self) -> str:
        return self.digest().hex()


def blind(patch: pytest.MonkeyPatch) -> None:
    """Sabotage: every checksum of the package sees lengths only."""
    patch.setattr("hashlib.sha256", LengthOnly)
    patch.setattr("hashlib.file_digest", lambda file, _: LengthOnly(file.read()))
    patch.setattr("google_crc32c.value", lambda data: len(data))
    patch.setattr("google_crc32c.extend", lambda value, data: value + len(data))


@dataclass(frozen=True)
class Bulky(Spectrum):
    """An extractor whose samples take `size` bytes each, to fill a disk with."""

    size: int = 1 << 16
    name = "bulky"

    def key(self) -> Mapping[str, Any]:
        return {**super().key(), "extractor": self.name, "size": self.size}

    def arrays(self) -> tuple[ArraySpec, ...]:
        return (ArraySpec("bytes", "uint8", (self.size,), ("byte",)),)

    def run(self, sources: Sequence[Source]) -> Iterator[Any]:
        from dataclasses import replace

        for found in super().run(sources):
            generator = np.random.default_rng(list(found.id.encode()))
            yield replace(found, arrays={"bytes": generator.integers(0, 256, self.size, dtype="uint8")})


def child(*words: str | Path) -> subprocess.Popen[bytes]:
    """A process of its own that runs one action of `tests.reliability.program`."""
    command = [sys.executable, "-m", "tests.reliability.program", *map(str, words)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
