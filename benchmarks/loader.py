"""How fast a cache streams into training: a shuffled epoch in batches of 64, against a memory map of the same bytes.

    python benchmarks/loader.py --samples 4000 --json results.json

Workload "light": keypoints (64, 2, 17, 3) float16, pose feature (256,) float32, frame features (16, 512) float16 and
a label. Readers run in turn, several rounds; the table gives medians and the ratio to the memory map of the same round.
"""

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import zarr

from unialign.cache.arrays import ArraySpec
from unialign.cache.batches import BatchReader
from unialign.cache.keys import Key
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry
from unialign.cache.store import Store, create_store, grow_store, store_path, write_shard

LIGHT = (
    ArraySpec("keypoints", "float16", (64, 2, 17, 3), ("frame", "person", "joint", "coordinate")),
    ArraySpec("feature", "float32", (256,), ("channel",)),
    ArraySpec("frames", "float16", (16, 512), ("frame", "channel")),
    ArraySpec("label", "int64", (), ()),
)
BATCH, SHARD = 64, 256


def make_store(cache: Path, num_samples: int) -> Path:
    """A store of Gaussian values, and the same values as one raw file an array."""
    key = Key({"extractor": "made", "revision": 1})
    store = create_store(Store(store_path(cache, "made", "light", key), "made", "light", key, LIGHT, SHARD, {}))
    num_shards = -(-num_samples // SHARD)
    grow_store(store, num_shards)
    raw = {spec.name: (cache / f"{spec.name}.raw").open("wb") for spec in LIGHT}
    for shard in range(num_shards):
        generator = np.random.default_rng(shard)
        numbers = range(shard * SHARD, min((shard + 1) * SHARD, num_samples))
        values = [{s.name: np.asarray(generator.normal(size=s.shape)).astype(s.dtype) for s in LIGHT} for _ in numbers]
        for value in values:
            for name, array in value.items():
                raw[name].write(array.tobytes())
        write_shard(store, shard, [Entry(f"{n:08d}", "ok", "sha256:made") for n in numbers], values)
    for file in raw.values():
        file.close()
    return store.path


def epoch(num_samples: int, seed: int, fill: Callable[[np.ndarray, dict[str, np.ndarray]], None]) -> float:
    """Samples a second over one epoch; `fill` puts the samples of a batch into reused buffers."""
    buffers = {spec.name: torch.empty((BATCH, *spec.shape), dtype=getattr(torch, spec.dtype)) for spec in LIGHT}
    views = {name: buffer.numpy() for name, buffer in buffers.items()}
    order = np.random.default_rng(seed).permutation(num_samples)
    started = time.perf_counter()
    for start in range(0, num_samples - BATCH + 1, BATCH):
        fill(order[start : start + BATCH], views)
    return (num_samples // BATCH * BATCH) / (time.perf_counter() - started)


def memmap_fill(cache: Path, num_samples: int) -> Callable[[np.ndarray, dict[str, np.ndarray]], None]:
    maps = {s.name: np.memmap(cache / f"{s.name}.raw", s.dtype, "r", shape=(num_samples, *s.shape)) for s in LIGHT}

    def fill(batch: np.ndarray, views: dict[str, np.ndarray]) -> None:
        for name, view in views.items():
            np.take(maps[name], batch, axis=0, out=view, mode="clip")

    return fill


def reader_fill(store: Path) -> Callable[[np.ndarray, dict[str, np.ndarray]], None]:
    reader = StoreReader(store)

    def fill(batch: np.ndarray, views: dict[str, np.ndarray]) -> None:
        for place, number in enumerate(batch):
            for name, value in reader.read_one(f"{number:08d}").items():
                views[name][place] = value

    return fill


def batch_fill(store: Path, num_samples: int) -> Callable[[np.ndarray, dict[str, np.ndarray]], None]:
    batches = BatchReader(StoreReader(store), [f"{number:08d}" for number in range(num_samples)])

    def fill(batch: np.ndarray, views: dict[str, np.ndarray]) -> None:
        # Fresh arrays become tensors without a copy: the reused buffers are not needed.
        for value in batches.read(batch).values():
            torch.from_numpy(value)

    return fill


def zarr_fill(store: Path) -> Callable[[np.ndarray, dict[str, np.ndarray]], None]:
    arrays = {spec.name: zarr.open_array(store / spec.name, mode="r") for spec in LIGHT}

    def fill(batch: np.ndarray, views: dict[str, np.ndarray]) -> None:
        for place, number in enumerate(batch):
            for name, view in views.items():
                view[place] = arrays[name][int(number)]

    return fill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cache = Path(tempfile.mkdtemp(prefix="unialign-bench-"))
    try:
        store = make_store(cache, options.samples)
        fills = {"memmap": memmap_fill(cache, options.samples), "unialign read_one": reader_fill(store)}
        fills["unialign BatchReader"] = batch_fill(store, options.samples)
        fills["zarr-python array[i]"] = zarr_fill(store)
        # zarr-python takes milliseconds a sample: a few batches tell its rate.
        sizes = {name: options.samples if name != "zarr-python array[i]" else 2 * BATCH for name in fills}
        rates: dict[str, list[float]] = {name: [] for name in fills}
        for name in fills:
            epoch(sizes[name], 0, fills[name])
        for number in range(options.rounds):
            for name in fills:
                rates[name].append(epoch(sizes[name], number + 1, fills[name]))
    finally:
        shutil.rmtree(cache)
    rows = []
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates["memmap"], strict=True)]
        rows.append(
            {
                "reader": name,
                "workload": "light",
                "samples_per_second": round(statistics.median(values)),
                "ratio_to_memmap": round(statistics.median(ratios), 4),
            }
        )
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, {options.samples} samples, {options.rounds} rounds"
    )
    for row in rows:
        print(f"{row['reader']:24} {row['samples_per_second']:>10,} samples/s   {row['ratio_to_memmap']:.4f} of memmap")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
