"""The cost of a store of a million samples before anything is read: opening, planning, listing; time and memory.

    python benchmarks/million.py --samples 1000000

Stage one itself creates the store, from a synthetic extractor of small features. Then each step runs in a fresh
process, several times, alternating: opening up to the first batch of 64, a dry run of the extraction with one
additional shard, and `unialign cache ls`. Seconds count from after the imports, except for `cache ls`, where they are
those of the whole command. Memory is the peak of the process, and the part of it that the imports alone take.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from processes import MIB, fresh, machine, memory_of

from unialign.cache.arrays import ArraySpec
from unialign.stages.extraction.base import Outcome, Source
from unialign.types import Json

DIGEST = f"sha256:{'5e' * 32}"


@dataclass(frozen=True)
class Made:
    """An extractor of small synthetic features."""

    modality = "features"
    name = "made"

    def key(self) -> Mapping[str, Json]:
        return {"extractor": self.name, "revision": 1}

    def arrays(self) -> tuple[ArraySpec, ...]:
        return (ArraySpec("feature", "float16", (64,), ("channel",)),)

    def attributes(self) -> Mapping[str, Json]:
        return {"licence": "none"}

    def digest(self, source: Source) -> str:
        return DIGEST

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        generator = np.random.default_rng(int(sources[0].id) if sources else 0)
        features = generator.standard_normal((len(sources), 64), dtype=np.float32).astype(np.float16)
        for source, feature in zip(sources, features, strict=True):
            yield Outcome(source.id, "ok", DIGEST, {"feature": feature})


def made_sources(samples: int) -> list[Source]:
    return [Source(f"{number:08d}") for number in range(samples)]


def build(cache: Path, samples: int, shard: int) -> dict[str, Any]:
    """Create the store; returns samples per second."""
    from unialign.pipeline.extraction.extract import Settings, run_extraction

    imports = memory_of("VmHWM")
    sources, started = made_sources(samples), time.perf_counter()
    run_extraction(
        Made(),
        sources,
        cache=cache,
        collection="million",
        settings=Settings(shard_samples=shard),
        current=lambda source: DIGEST,
    )
    return {"seconds": time.perf_counter() - started, "imports_bytes": imports}


def opening(cache: Path, samples: int, shard: int) -> dict[str, Any]:
    """Open the store and read one batch of random samples; seconds until each stage is done."""
    from unialign.cache.batches.batch_reader import BatchReader
    from unialign.cache.batches.joined import columns_of
    from unialign.cache.inventory import iterate_stores
    from unialign.cache.reader import StoreReader

    path = next(iterate_stores(cache))
    imports, started = memory_of("VmHWM"), time.perf_counter()
    store = StoreReader(path)
    opened = time.perf_counter() - started
    reader = BatchReader(columns_of(store), store.ids)
    batch = reader.read(np.random.default_rng(0).choice(samples, 64, replace=False))
    took = time.perf_counter() - started
    if len(reader) != samples or not np.isfinite(batch["feature"]).all():
        raise ValueError("the store does not hold what was written")
    return {"seconds": took, "opened_seconds": opened, "imports_bytes": imports}


def planning(cache: Path, samples: int, shard: int) -> dict[str, Any]:
    """A dry run over all samples and one shard more."""
    from unialign.pipeline.extraction.extract import Settings, run_extraction

    imports = memory_of("VmHWM")
    sources, started = made_sources(samples + shard), time.perf_counter()
    found = run_extraction(
        Made(),
        sources,
        cache=cache,
        collection="million",
        settings=Settings(shard_samples=shard, dry_run=True),
        current=lambda source: DIGEST,
    )
    took = time.perf_counter() - started
    if found.reused != samples:
        raise ValueError(f"{found.reused} samples found instead of {samples}")
    return {"seconds": took, "imports_bytes": imports}


def listing(cache: Path, samples: int, shard: int) -> dict[str, Any]:
    """`unialign cache ls`; its seconds are those of the whole process."""
    from unialign.cli import main as command

    imports = memory_of("VmHWM")
    sys.argv = ["unialign", "cache", "ls", "--cache", str(cache), "--json"]
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        command()
    if json.loads(shown.getvalue())["stores"][0]["samples"] != samples:
        raise ValueError("the list does not hold what was written")
    return {"imports_bytes": imports}


STEPS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "build": build,
    "open to first batch": opening,
    "plan": planning,
    "cache ls": listing,
}


def run_step(name: str, cache: Path, samples: int, shard: int) -> dict[str, Any]:
    """One step in a fresh process."""
    started = time.perf_counter()
    found = fresh(__file__, ["--step", name, "--cache", cache, "--samples", samples, "--shard-samples", shard])
    return {"seconds": time.perf_counter() - started, **found}


def median_row(name: str, runs: Sequence[Mapping[str, Any]], samples: int) -> dict[str, Any]:
    """One row: median seconds, peak memory."""
    row = {"step": name, "samples": samples}
    for field in ("seconds", "opened_seconds"):
        if field in runs[0]:
            row[field] = round(statistics.median(run[field] for run in runs), 3)
    for field in ("peak_bytes", "imports_bytes"):
        if field in runs[0]:
            row[field] = max(run[field] for run in runs)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--shard-samples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    samples, shard = options.samples, options.shard_samples
    if options.step:
        found = STEPS[options.step](options.cache, samples, shard)
        print(json.dumps({**found, "peak_bytes": memory_of("VmHWM")}))
        return
    with tempfile.TemporaryDirectory(prefix="unialign-bench-") as folder:
        cache = Path(folder)
        runs = {"build": [run_step("build", cache, samples, shard)]}
        # Alternating, so that load on the machine does not affect one step alone.
        for _ in range(options.rounds):
            for name in list(STEPS)[1:]:
                runs.setdefault(name, []).append(run_step(name, cache, samples, shard))
    rows = [median_row(name, found, samples) for name, found in runs.items()]
    print(f"{machine()}\n{samples:,} samples, {shard} a shard\n")
    print("| step | seconds | of it opening | peak memory, MiB | imports alone |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['step']} | {row['seconds']:.2f} | {row.get('opened_seconds', '')} "
            f"| {row['peak_bytes'] / MIB:,.0f} | {row['imports_bytes'] / MIB:,.0f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
