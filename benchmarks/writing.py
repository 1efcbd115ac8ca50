"""How fast shards are written, compared with the simplest way to write the same bytes durably.

    python benchmarks/writing.py --shards 40

Three methods alternate with every shard: `write_shard` (encoding, checksums, temporary name, fsync, rename and fsync of
the folder for each array's file, then the record), plain files, one per array, with an fsync each, and one growing
file, with one fsync per shard. The ratio is to the last, shard by shard; results are medians. Bytes are those of
values.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from processes import machine
from workloads import WORKLOADS, Workload, empty_store, rows_of, sample_id, values

from unialign.cache.records import Entry
from unialign.cache.store import grow_store, write_shard

RAW = "one growing file, one fsync a shard"


def write_durably(path: Path, data: bytes, flags: int) -> None:
    """Write the bytes and wait until the disk has them."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def seconds(task: Callable[[], object]) -> float:
    """Duration of a task in seconds."""
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def measure(workload: Workload, shard_samples: int, num_shards: int, folder: Path) -> list[dict[str, Any]]:
    """One row per method."""
    store = empty_store(folder, "all", workload.arrays, shard_samples)
    grow_store(store, num_shards)
    took: dict[str, list[float]] = {RAW: [], "plain files, one an array, an fsync each": [], "unialign write_shard": []}
    for shard in range(num_shards):
        numbers = range(shard * shard_samples, (shard + 1) * shard_samples)
        made = {spec.name: values(spec, numbers, 0) for spec in workload.arrays}
        rows = rows_of(made)
        entries = [Entry(sample_id(number), "ok", "sha256:made") for number in numbers]
        tasks = (
            lambda made=made: one_file(folder, made),
            lambda made=made, shard=shard: plain_files(folder, shard, made),
            lambda rows=rows, shard=shard, entries=entries: write_shard(store, shard, entries, rows),
        )
        for name, task in zip(took, tasks, strict=True):
            took[name].append(seconds(task))
    size = shard_samples * workload.sample_bytes
    return [
        {
            "writer": name,
            "workload": workload.name,
            "shard_samples": shard_samples,
            "megabytes_per_second": round(size / 1e6 / statistics.median(found), 1),
            "ratio_to_raw": round(statistics.median(np.divide(took[RAW], found).tolist()), 4),
        }
        for name, found in took.items()
    ]


def one_file(folder: Path, made: Mapping[str, np.ndarray]) -> None:
    write_durably(folder / "raw", b"".join(column.tobytes() for column in made.values()), os.O_APPEND)


def plain_files(folder: Path, shard: int, made: Mapping[str, np.ndarray]) -> None:
    for name, column in made.items():
        write_durably(folder / f"{name}-{shard}", column.tobytes(), os.O_EXCL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="light, heavy, or both (default)")
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--shard-samples", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.workloads.split(","):
        with tempfile.TemporaryDirectory(prefix="unialign-bench-") as folder:
            rows += measure(WORKLOADS[name], options.shard_samples, options.shards, Path(folder))
    print(f"{machine()}\n\n| writer | workload | samples a shard | MB/s | of one growing file |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['writer']} | {row['workload']} | {row['shard_samples']} | {row['megabytes_per_second']:,.0f} "
            f"| {row['ratio_to_raw']:.2f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
