"""How fast a cache streams into training: shuffled epochs in batches of 64, compared with a memory map of the same
bytes.

    python benchmarks/loader.py --json results.json
    python benchmarks/loader.py --workloads light --samples 4000 --peers none

One process, warm page cache: dropped once and read again, as in a later session. Readers alternate within every round,
and the ratio is to the memory map of the same round; peers, which would evict each other's files from the page cache,
alternate with the memory map alone. The table gives medians over the rounds. Before timing, a reader's batches are
compared with those of the memory map. A reader that is too slow for the time of a round reads fewer batches than an
epoch; the row states how many.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from page_cache import files_of, warm
from peers import PEERS
from processes import machine
from readers import BASE, READERS, WITH_PROCESSES
from workloads import BATCH, WORKLOADS, Batch, Data, Epoch, make_data

HEAD = 16


def check(name: str, epoch: Epoch, data: Data, *, exact: bool) -> None:
    """Raise `ValueError` unless the reader's first batches contain the right samples, byte for byte."""
    maps = data.maps()
    first = data.workload.arrays[0].name
    # A sample is identified by its first bytes, in any order.
    numbers = {head(value): number for number, value in enumerate(maps[first])}
    order = np.random.default_rng(1).permutation(data.samples)[: 2 * BATCH]
    seen: list[int] = []
    with closing(epoch(order)) as found:
        for batch in islice(found, 2):
            seen += [numbers[head(value)] for value in batch[first].numpy()]
            compare(name, batch, maps, seen[-BATCH:])
    if len(set(seen)) != 2 * BATCH or (exact and seen != order.tolist()):
        raise ValueError(f"{name}: not the samples that were asked for")


def head(value: np.ndarray) -> bytes:
    """The first bytes of a sample."""
    return value.reshape(-1)[:HEAD].tobytes()


def compare(name: str, batch: Batch, maps: Mapping[str, np.ndarray], numbers: Sequence[int]) -> None:
    """Raise `ValueError` unless the batch contains these samples, copied into separate tensors."""
    for field, values in maps.items():
        tensor = batch[field]
        if not (tensor.is_contiguous() and np.array_equal(tensor.numpy(), values[list(numbers)])):
            raise ValueError(f"{name}: {field} is not what the memory map holds")
        if tensor.numpy().dtype != values.dtype:
            raise ValueError(f"{name}: {field} comes as {tensor.dtype} instead of {values.dtype}")


def warm_up(epoch: Epoch, data: Data, seconds: float) -> int:
    """Read for an epoch or until the time is over; the number of batches read is used for each round."""
    order = np.random.default_rng(0).permutation(data.samples)
    started, count = time.perf_counter(), 0
    with closing(epoch(order)) as found:
        for _ in found:
            count += 1
            if count >= 2 and time.perf_counter() - started > seconds:
                break
    return count


def rate(name: str, epoch: Epoch, data: Data, seed: int, count: int) -> float:
    """Samples per second over `count` batches of a shuffled epoch."""
    order = np.random.default_rng([2, seed]).permutation(data.samples)[: count * BATCH]
    gc.collect()
    got, started = 0, time.perf_counter()
    with closing(epoch(order)) as found:
        for _ in islice(found, count):
            got += 1
        seconds = time.perf_counter() - started
    if got != count:
        raise ValueError(f"{name}: {got} batches instead of {count}")
    return got * BATCH / seconds


def measure(epochs: Mapping[str, Epoch], data: Data, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """One row per reader; the first is the base of the ratios."""
    counts = {name: warm_up(epoch, data, seconds) for name, epoch in epochs.items()}
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds):
        for name, epoch in epochs.items():
            rates[name].append(rate(name, epoch, data, number, counts[name]))
    base = next(iter(rates.values()))
    return [
        {
            "reader": name,
            "workload": data.workload.name,
            "samples_per_second": round(statistics.median(values)),
            "ratio_to_memmap": round(statistics.median(np.divide(values, base).tolist()), 4),
            "batches": counts[name],
        }
        for name, values in rates.items()
    ]


def workload_rows(data: Data, peers: Sequence[str], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """All rows of one workload."""
    made = {name: reader.make(data) for name, reader in READERS.items()}
    epochs = {name: epoch for name, epoch in made.items() if epoch}
    for name, epoch in epochs.items():
        check(name, epoch, data, exact=READERS[name].exact)
    rows = measure(epochs, data, rounds, seconds)
    base = epochs[BASE]
    for name, reader in WITH_PROCESSES.items():
        epoch = reader.make(data)
        check(name, epoch, data, exact=reader.exact)
        rows += measure({BASE: base, name: epoch}, data, rounds, seconds)[1:]
        del epoch
    for name in peers:
        print(f"{data.workload.name}: {name}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="peer-", dir=data.folder) as folder:
            try:
                epoch = PEERS[name].make(data, Path(folder))
            except ImportError as error:
                print(f"{name} is left out: {error} (pip install {PEERS[name].distribution})", file=sys.stderr)
                continue
            check(name, epoch, data, exact=PEERS[name].exact)
            rows += measure({BASE: base, name: epoch}, data, rounds, seconds)[1:]
            del epoch
    return rows


def show(rows: Sequence[Mapping[str, Any]], peers: Sequence[str], title: str) -> None:
    """Print the rows as one table, the fastest first."""
    print(f"{title}\n\n| reader | workload | samples/s | of memmap | batches a round |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['reader']} | {row['workload']} | {row['samples_per_second']:,} | {row['ratio_to_memmap']:.4g} "
            f"| {row['batches']} |"
        )
    used = {PEERS[row["reader"]].distribution for row in rows if row["reader"] in peers}
    if used:
        print("\n" + ", ".join(f"{name} {version(name)}" for name in sorted(used)))


def chosen_peers(text: str) -> list[str]:
    """The peers whose names begin with one of the words; "all" and "none" are what they say."""
    if text in {"all", "none"}:
        return list(PEERS) if text == "all" else []
    found = []
    for word in text.split(","):
        matches = [name for name in PEERS if name.lower().startswith(word.strip().lower())]
        if not matches:
            raise SystemExit(f"no peer is called {word!r}; there are: {', '.join(PEERS)}")
        found += matches
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="light, heavy, or both (default)")
    parser.add_argument("--samples", type=int, help="default: 20,000 (light), 4,000 (heavy)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="most time of a reader in a round (default 5)")
    parser.add_argument("--peers", default="all", help="all (default), none, or the beginnings of names: lmdb,h5py")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    peers = chosen_peers(options.peers)
    rows = []
    for name in options.workloads.split(","):
        workload = WORKLOADS[name]
        samples = options.samples or workload.samples
        with tempfile.TemporaryDirectory(prefix="unialign-bench-") as folder:
            data = make_data(workload, samples, Path(folder))
            warm(files_of(data.folder))
            found = workload_rows(data, peers, options.rounds, options.seconds)
        rows += sorted(found, key=lambda row: -row["ratio_to_memmap"])
        if options.json:
            options.json.write_text(json.dumps(rows, indent=2) + "\n")
    show(rows, peers, machine())


if __name__ == "__main__":
    main()
