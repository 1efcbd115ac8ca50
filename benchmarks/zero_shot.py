"""DVTA beside simple classifiers on unseen classes, with default settings, through the commands.

    python benchmarks/zero_shot.py --dataset utd-mhad --root UTD-MHAD/Skeleton --labels classes.txt --name zero_shot
        --descriptions configs/utd_mhad/descriptions.txt --protocols zero-shot-1 zero-shot-2 zero-shot-3

Writes benchmarks/results/NAME.json, from which `make results` makes a table of docs/systems/dvta.md.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from encoders import RESULTS, Row, called, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--protocols", nargs="+", required=True)
    parser.add_argument("--name", required=True, help="of the file in benchmarks/results")
    parser.add_argument("--title", default="", help="of the table")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--descriptions", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--runs", type=Path, default=Path("runs/zero-shot"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = ["--dataset", options.dataset, "--root", options.root.resolve(), "--cache", options.cache.resolve()]
    data += ["--labels", options.labels.resolve()] if options.labels else []
    started = time.monotonic()
    called(["extract", "poses", "--source", "skeleton", *data])
    called(["extract", "pose-features", *data])
    described = ["--descriptions", options.descriptions.resolve()] if options.descriptions else []
    called(["extract", "text", *described, *data])
    splits: list[Row] = []
    runs: list[Path] = []
    for protocol in options.protocols:
        split = [*data, "--protocol", protocol]
        simple = called(["baseline", *split])
        trained = [
            called(["train", "--model", "dvta", *split, "--runs", options.runs.resolve(), "--seed", seed])
            for seed in range(options.seeds)
        ]
        runs += [Path(run["folder"]) for run in trained]
        splits.append(
            {
                "protocol": protocol,
                "samples": simple["samples"],
                "top1": [run["top1"] for run in trained],
                "seconds": [run["seconds"] for run in trained],
                "baselines": simple["rows"],
            }
        )
        print(protocol, *(f"{100 * run['top1']:.1f}" for run in trained), file=sys.stderr, flush=True)
    found: Row = {
        "kind": "zero-shot",
        "title": options.title or options.dataset,
        "train": _each(splits, "train"),
        "test": _each(splits, "test"),
        "splits": splits,
        "processor": processor(runs[0]),
        "seconds": round(time.monotonic() - started),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found))


def _each(splits: list[Row], part: str) -> str:
    """The number of samples of a part, "263" or "259 to 264"."""
    counts = sorted({split["samples"][part] for split in splits})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


if __name__ == "__main__":
    main()
