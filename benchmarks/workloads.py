"""The data of the benchmarks: Gaussian values, generated once per workload, as raw files and as stores.

`light` is the input of a skeleton model, `heavy` the tokens of a frozen video network.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from unialign.cache.arrays import ArraySpec
from unialign.cache.index import write_index
from unialign.cache.keys import Key
from unialign.cache.records import Entry
from unialign.cache.store import Store, create_store, grow_store, store_path, write_shard

BATCH = 64
PAGE = 4096
SHARD = 256
WHOLE = "all"
KEY = Key({"extractor": "made", "revision": 1})

Batch = dict[str, torch.Tensor]
# One epoch in the given order of samples, whole batches only. A batch may be overwritten by the next one.
Epoch = Callable[[np.ndarray], Iterator[Batch]]


@dataclass(frozen=True)
class Workload:
    """The structure of a sample: its arrays, each of which a real cache keeps in a separate store."""

    name: str
    samples: int
    arrays: tuple[ArraySpec, ...]

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return sum(int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize for spec in self.arrays)


WORKLOADS = {
    "light": Workload(
        "light",
        20_000,
        (
            ArraySpec("keypoints", "float16", (64, 2, 17, 3), ("frame", "person", "joint", "coordinate")),
            ArraySpec("feature", "float32", (256,), ("channel",)),
            ArraySpec("frames", "float16", (16, 512), ("frame", "channel")),
            ArraySpec("label", "int64", (), ()),
        ),
    ),
    "heavy": Workload("heavy", 4_000, (ArraySpec("tokens", "float16", (8, 49, 512), ("frame", "patch", "channel")),)),
}


@dataclass(frozen=True)
class Data:
    """A workload on disk in `folder`, as written by `make_data`."""

    workload: Workload
    samples: int
    folder: Path

    @property
    def stores(self) -> list[Path]:
        """One store per array, joined by id, as in real caches."""
        return [made_path(self.folder, spec.name) for spec in self.workload.arrays]

    @property
    def store(self) -> Path:
        """One store of all arrays."""
        return made_path(self.folder, WHOLE)

    @property
    def ids(self) -> list[str]:
        """Ids of the samples, in the order of the raw files."""
        return [sample_id(number) for number in range(self.samples)]

    def raw(self, spec: ArraySpec) -> Path:
        """The file of plain values of an array."""
        return self.folder / "raw" / f"{spec.name}.raw"

    def maps(self, mode: Literal["r", "c"] = "r") -> dict[str, np.ndarray]:
        """The raw files, memory-mapped, (samples, *shape) each. mode: "c" for torch, which wants writable memory."""
        # Plain arrays: numpy.memmap adds Python calls to every operation.
        return {
            spec.name: np.asarray(np.memmap(self.raw(spec), spec.dtype, mode, shape=(self.samples, *spec.shape)))
            for spec in self.workload.arrays
        }

    def buffers(self) -> tuple[Batch, dict[str, np.ndarray]]:
        """Memory for one batch, as tensors and as arrays over the same memory."""
        views = {spec.name: at_page((BATCH, *spec.shape), spec.dtype) for spec in self.workload.arrays}
        return {name: torch.from_numpy(view) for name, view in views.items()}, views


def at_page(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Page-aligned memory, (*shape).

    `numpy.empty` begins 16 bytes after a page boundary; the processor then mistakes page-aligned sources for the same
    address, and copies at a fifth of its speed. The memory map should be compared at its best.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.empty(size + PAGE, dtype=np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + size].view(dtype).reshape(shape)


def sample_id(number: int) -> str:
    """The id of a sample."""
    return f"{number:08d}"


def values(spec: ArraySpec, numbers: range, seed: int) -> np.ndarray:
    """The values of some samples, (len(numbers), *shape): a label is the sample's number, all else is Gaussian."""
    if spec.dtype == "int64":
        return np.asarray(numbers, dtype=np.int64)
    generator = np.random.default_rng([seed, numbers.start, *spec.name.encode()])
    return generator.standard_normal((len(numbers), *spec.shape), dtype=np.float32).astype(spec.dtype)


def made_path(folder: Path, modality: str) -> Path:
    """Path of a store of the benchmark."""
    return store_path(folder / "cache", "benchmark", modality, KEY)


def empty_store(folder: Path, modality: str, arrays: tuple[ArraySpec, ...], shard: int = SHARD) -> Store:
    """A new store of these arrays."""
    path = made_path(folder, modality)
    return create_store(Store(path, "benchmark", modality, KEY, arrays, shard, {"licence": "none"}))


def make_data(workload: Workload, samples: int, folder: Path, *, whole: bool = True, seed: int = 0) -> Data:
    """Write a workload in `folder`, one shard at a time. whole: also as one store of all arrays."""
    data = Data(workload, samples, folder)
    (folder / "raw").mkdir(parents=True)
    stores = [(empty_store(folder, spec.name, (spec,)), (spec,)) for spec in workload.arrays]
    if whole:
        stores.append((empty_store(folder, WHOLE, workload.arrays), workload.arrays))
    num_shards = -(-samples // SHARD)
    for store, _ in stores:
        grow_store(store, num_shards)
    for shard in range(num_shards):
        numbers = range(shard * SHARD, min((shard + 1) * SHARD, samples))
        entries = [Entry(sample_id(number), "ok", "sha256:made") for number in numbers]
        made = {spec.name: values(spec, numbers, seed) for spec in workload.arrays}
        for spec in workload.arrays:
            with data.raw(spec).open("ab") as file:
                file.write(made[spec.name].tobytes())
        for store, specs in stores:
            write_shard(store, shard, entries, rows_of({spec.name: made[spec.name] for spec in specs}))
    for store, _ in stores:
        write_index(store)
    return data


def rows_of(columns: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The samples of a shard, one by one."""
    count = len(next(iter(columns.values())))
    return [{name: np.asarray(column[slot]) for name, column in columns.items()} for slot in range(count)]
