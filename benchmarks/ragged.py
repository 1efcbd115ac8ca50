"""Clips of 20 to 300 frames, of which a random 64 are read, compared with clips of exactly 64: the rate per byte.

    python benchmarks/ragged.py --samples 20000

Both stores hold keypoints (frame, 2, 17, 3) float16, are shuffled, and are read by the training loader in batches of
64; the crop follows from (seed, epoch, sample). They alternate in every round, with a memory map of the fixed clips.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import machine
from workloads import BATCH, SHARD, at_page, empty_store, sample_id

from unialign.cache.arrays import ArraySpec
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import columns_of
from unialign.cache.index import write_index
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry
from unialign.cache.store import grow_store, write_shard
from unialign.stages.training.cached import CachedArrays
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.settings import TrainSettings

FRAMES = 64
SHORTEST, LONGEST = 20, 300
DIMS = ("frame", "person", "joint", "coordinate")
SPECS = {
    "fixed": ArraySpec("keypoints", "float16", (FRAMES, 2, 17, 3), DIMS),
    "ragged": ArraySpec("keypoints", "float16", (LONGEST, 2, 17, 3), DIMS, ragged=True, chunk=16),
}


def make(folder: Path, kind: str, samples: int) -> Path:
    """A store of Gaussian keypoints; the fixed one also as a raw file."""
    store = empty_store(folder, kind, (SPECS[kind],))
    grow_store(store, -(-samples // SHARD))
    for shard, start in enumerate(range(0, samples, SHARD)):
        generator = np.random.default_rng([shard, len(kind)])
        numbers = range(start, min(start + SHARD, samples))
        lengths = (
            generator.integers(SHORTEST, LONGEST + 1, len(numbers)) if kind == "ragged" else [FRAMES] * len(numbers)
        )
        clips = [generator.standard_normal((n, 2, 17, 3), dtype=np.float32).astype(np.float16) for n in lengths]
        entries = [Entry(sample_id(number), "ok", f"sha256:{number:064x}") for number in numbers]
        write_shard(store, shard, entries, [{"keypoints": clip} for clip in clips])
        if kind == "fixed":
            with (folder / "raw").open("ab") as file:
                file.write(np.stack(clips).tobytes())
    write_index(store)
    return store.path


def by_loader(path: Path) -> Callable[[int], None]:
    """An epoch of the training loader."""
    store = StoreReader(path)
    source = CachedArrays(BatchReader(columns_of(store, window=FRAMES), store.ids), [0] * len(store.ids))
    loader = Loader(source, TrainSettings(batch_size=BATCH))

    def epoch(number: int) -> None:
        for share in loader.epoch(Position(number)):
            assert share.data["keypoints"].shape[1] == FRAMES

    return epoch


def by_memmap(path: Path, samples: int) -> Callable[[int], None]:
    """The fixed clips from a memory map, into a reused buffer."""
    values = np.asarray(np.memmap(path, np.float16, "r", shape=(samples, FRAMES, 2, 17, 3)))
    buffer = at_page((BATCH, FRAMES, 2, 17, 3), "float16")

    def epoch(number: int) -> None:
        order = np.random.default_rng(number).permutation(samples)
        for start in range(0, samples, BATCH):
            places = order[start : start + BATCH]
            np.take(values, places, axis=0, out=buffer[: len(places)], mode="clip")
            torch.from_numpy(buffer)

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    samples = options.samples
    with tempfile.TemporaryDirectory(prefix="unialign-bench-") as text:
        folder = Path(text)
        paths = {kind: make(folder, kind, samples) for kind in SPECS}
        epochs = {
            "memmap, fixed clips": by_memmap(folder / "raw", samples),
            "unialign, fixed clips": by_loader(paths["fixed"]),
            "unialign, a crop of clips of 20 to 300 frames": by_loader(paths["ragged"]),
        }
        rates: dict[str, list[float]] = {name: [] for name in epochs}
        for number in range(options.rounds + 1):
            for name, epoch in epochs.items():
                started = time.perf_counter()
                epoch(number)
                if number:  # the first one warms up, and verifies the shards
                    rates[name].append(samples / (time.perf_counter() - started))
    base, fixed = rates["memmap, fixed clips"], rates["unialign, fixed clips"]
    rows: list[dict[str, Any]] = [
        {
            "reader": name,
            "workload": "ragged",
            "samples_per_second": round(statistics.median(found)),
            "ratio_to_memmap": round(statistics.median(np.divide(found, base).tolist()), 4),
            "ratio_to_fixed": round(statistics.median(np.divide(found, fixed).tolist()), 4),
        }
        for name, found in rates.items()
    ]
    print(f"{machine()}\n\n| reader | samples/s | of memmap | of our fixed clips |\n|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['reader']} | {row['samples_per_second']:,} | {row['ratio_to_memmap']:.2f} "
            f"| {row['ratio_to_fixed']:.2f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
