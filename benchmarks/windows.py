"""Reading a cache that is not in memory: cold files, or more than fit; and how well each order is mixed.

    python benchmarks/windows.py --samples 20000 --budget 256

Before each reader, the files are evicted from the page cache, and each reader runs in a separate process, so that its
memory can be measured. `sequential` is the limit: the shard files read sequentially in large blocks. Use more samples
than fit into memory to see the behavior of a large collection. Labels are sorted along the storage, the worst case for
an order that is not a full shuffle.

The windowed loader gets as many shards per window as let three windows fit into the budget: the current one, the next,
and the previous one while a batch extends into it. "added memory" is the memory used beyond the imports, with mapped
files, and in brackets without them.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from mixing import distinct_classes, expected_classes, expected_neighbours, group_neighbours, position_correlation
from page_cache import evict, files_of, read_whole
from processes import MIB, Peak, fresh, machine, memory_of
from readers import batches, cached_arrays, memmap_take
from workloads import BATCH, SHARD, WORKLOADS, Data, Workload, make_data

from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.settings import TrainSettings

CLASSES = 60

# The samples of one batch by storage position (none for a plain read), and the number of bytes.
Step = tuple[np.ndarray, int]
NOTHING = np.empty(0, dtype=np.int64)


def shard_files(data: Data) -> list[Path]:
    """The shard files of the stores, array by array."""
    return [path for store in data.stores for path in sorted(store.glob("*/c/**/*")) if path.is_file()]


def sequential(data: Data, budget: int, seed: int, threads: int) -> Iterator[Step]:
    """The shard files in order, `threads` of them at a time."""
    with ThreadPoolExecutor(threads) as pool:
        for size in pool.map(read_whole, shard_files(data)):
            yield NOTHING, size


def memmap_random(data: Data, budget: int, seed: int) -> Iterator[Step]:
    """A full shuffle over memory maps of the raw files."""
    order = np.random.default_rng(seed).permutation(data.samples)
    for positions, _ in zip(batches(order), memmap_take(data, "clip")(order), strict=True):
        yield positions, BATCH * data.workload.sample_bytes


def window_shards(workload: Workload, budget: int) -> int:
    """Shards per window, so that three windows fit into the budget."""
    return max(1, budget // (3 * SHARD * workload.sample_bytes))


def unialign_loader(data: Data, budget: int, seed: int, *, windows: bool) -> Iterator[Step]:
    """The training loader, with windows of shards or a full shuffle."""
    window = window_shards(data.workload, budget) if windows else 0
    settings = TrainSettings(batch_size=BATCH, seed=seed, window_shards=window)
    return steps_of(Loader(cached_arrays(data), settings), 0, data)


def unialign_again(data: Data, budget: int, seed: int) -> Iterator[Step]:
    """Windows in a second epoch, cold again: checksums were verified in the first one, which is not timed."""
    settings = TrainSettings(batch_size=BATCH, seed=seed, window_shards=window_shards(data.workload, budget))
    loader = Loader(cached_arrays(data), settings)
    for _ in loader.epoch(Position(0)):
        pass
    evict(files_of(data.folder))
    return steps_of(loader, 1, data)


def steps_of(loader: Loader, epoch: int, data: Data) -> Iterator[Step]:
    """What an epoch of a loader gives."""
    with closing(loader.epoch(Position(epoch))) as shares:
        for share in shares:
            yield share.data["indices"].numpy(), share.count * data.workload.sample_bytes


# (data, bytes of memory that the reader may take, seed) to the steps of an epoch.
READERS: dict[str, Callable[[Data, int, int], Iterator[Step]]] = {
    "sequential, 1 thread": lambda data, budget, seed: sequential(data, budget, seed, 1),
    "sequential, 2 threads": lambda data, budget, seed: sequential(data, budget, seed, 2),
    "memmap, full shuffle": memmap_random,
    "unialign, full shuffle": lambda data, budget, seed: unialign_loader(data, budget, seed, windows=False),
    "unialign, windows": lambda data, budget, seed: unialign_loader(data, budget, seed, windows=True),
    "unialign, windows, second epoch": unialign_again,
}


def step(data: Data, name: str, budget: int, seed: int, seconds: float) -> dict[str, Any]:
    """Run one reader in this process for an epoch or `seconds`; returns its measurements."""
    peak, order, size, first = Peak(["VmRSS", "RssAnon"]), [], 0, 0.0
    made = READERS[name](data, budget, seed)
    started = time.perf_counter()
    with closing(made) as steps, peak.watched():
        for positions, count in steps:
            first = first or time.perf_counter() - started
            size += count
            order.append(positions.copy())
            if time.perf_counter() - started > seconds:
                break
    took = time.perf_counter() - started
    found = {
        "megabytes_per_second": size / 1e6 / took,
        "first_batch_seconds": first,
        "share_read": size / (data.samples * data.workload.sample_bytes),
        "peak_bytes": memory_of("VmHWM"),
        "added_bytes": peak.added["VmRSS"],
        "added_own_bytes": peak.added["RssAnon"],
    }
    given = np.concatenate(order)
    return {**found, "mixing": mixing(given, data.samples)} if len(given) else found


def mixing(order: np.ndarray, samples: int) -> dict[str, float]:
    """How well the order is mixed, and the mean for a full shuffle."""
    shards, labels = np.arange(samples) // SHARD, np.arange(samples) * CLASSES // samples
    return {
        "position_correlation": position_correlation(order),
        "shard_neighbours": group_neighbours(order, shards, BATCH),
        "shard_neighbours_expected": expected_neighbours(shards, BATCH),
        "classes": distinct_classes(order, labels, BATCH),
        "classes_expected": expected_classes(labels, BATCH),
    }


def median_row(name: str, runs: list[dict[str, Any]], fastest: list[float], budget: int) -> dict[str, Any]:
    """One row of the table: medians over the rounds. fastest: the faster sequential read of each round, MB/s."""
    rates = [run["megabytes_per_second"] for run in runs]
    row = {
        "reader": name,
        "megabytes_per_second": round(statistics.median(rates), 1),
        "ratio_to_sequential": round(statistics.median(np.divide(rates, fastest).tolist()), 4),
        "budget_bytes": budget,
    }
    for field in ("first_batch_seconds", "share_read", "stayed_in_cache"):
        row[field] = round(statistics.median(run[field] for run in runs), 3)
    for field in ("peak_bytes", "added_bytes", "added_own_bytes"):
        row[field] = max(run[field] for run in runs)
    if "mixing" in runs[0]:
        row["mixing"] = {
            name: round(statistics.median(run["mixing"][name] for run in runs), 4) for name in runs[0]["mixing"]
        }
    return row


def measure(data: Data, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every reader in a fresh process on cold files, alternating, round after round."""
    files = [*shard_files(data), *(data.raw(spec) for spec in data.workload.arrays)]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in READERS}
    for number in range(options.rounds):
        for name in READERS:
            stayed = evict(files)
            passed = {
                "step": name, "folder": data.folder, "seed": number, "samples": data.samples,
                "workload": options.workload, "budget": options.budget, "seconds": options.seconds,
            }  # fmt: skip
            arguments = chain.from_iterable((f"--{key}", value) for key, value in passed.items())
            found = fresh(__file__, list(arguments))
            runs[name].append({**found, "stayed_in_cache": stayed})
            print(f"{name}: {found['megabytes_per_second']:.0f} MB/s", file=sys.stderr)
    plain = [[run["megabytes_per_second"] for run in runs[name]] for name in READERS if name.startswith("sequential")]
    fastest = [max(rates) for rates in zip(*plain, strict=True)]
    return [median_row(name, found, fastest, options.budget * MIB) for name, found in runs.items()]


def show(rows: list[dict[str, Any]]) -> None:
    """Two tables: speed and memory, then the orders."""
    print("| reader | MB/s | of sequential | first batch, s | read | peak memory, MiB | added, MiB | cached before |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: -row["megabytes_per_second"]):
        print(
            f"| {row['reader']} | {row['megabytes_per_second']:,.0f} | {row['ratio_to_sequential']:.2f} "
            f"| {row['first_batch_seconds']:.2f} | {row['share_read']:.0%} | {row['peak_bytes'] / MIB:,.0f} "
            f"| {row['added_bytes'] / MIB:,.0f} ({row['added_own_bytes'] / MIB:,.0f}) | {row['stayed_in_cache']:.1%} |"
        )
    print("\n| order | correlation of position | neighbours of one shard | classes in a batch |\n|---|---|---|---|")
    for row in rows:
        if mixed := row.get("mixing"):
            print(
                f"| {row['reader']} | {mixed['position_correlation']:+.4f} "
                f"| {mixed['shard_neighbours']:.2f} (full shuffle {mixed['shard_neighbours_expected']:.2f}) "
                f"| {mixed['classes']:.1f} (full shuffle {mixed['classes_expected']:.1f}) |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="light")
    parser.add_argument("--samples", type=int, help="default: that of the workload")
    parser.add_argument("--budget", type=int, default=256, help="MiB that a windowed reader may take (default 256)")
    parser.add_argument("--seconds", type=float, default=120.0, help="most time of one reader in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]
    samples = options.samples or workload.samples
    if options.step:
        data = Data(workload, samples, options.folder)
        print(json.dumps(step(data, options.step, options.budget * MIB, options.seed, options.seconds)))
        return
    with tempfile.TemporaryDirectory(prefix="unialign-bench-") as folder:
        rows = measure(make_data(workload, samples, Path(folder), whole=False), options)
    print(
        f"{machine()}\n{workload.name}, {samples:,} samples, {samples * workload.sample_bytes / 1e6:,.0f} MB, "
        f"windows of {window_shards(workload, options.budget * MIB)} shards for a budget of {options.budget} MiB\n"
    )
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
