"""Skeleton encoders beside simple classifiers, with default settings, through the commands: one data set a call.

    python benchmarks/encoders.py --dataset penn-action --root Penn_Action --scores pgcn_scores.npz --name penn_action
    python benchmarks/encoders.py --dataset utd-mhad --root UTD-MHAD/Skeleton --labels classes.txt --name utd_mhad
    python benchmarks/encoders.py --dataset folder --root gestures --weights yolo11n-pose.pt --name gestures

Writes benchmarks/results/NAME.json, from which `make results` makes the tables of docs/encoders.md. Scores: the file of
published scores of Penn Action's test clips (lshiwjx/PGCN: ids, labels, and ske, i3d and pgcn of (1068, 15)), for the
late fusion.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unialign.pipeline.ablation.bootstrap import mean_interval

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
Row = dict[str, Any]


def called(arguments: Sequence[object]) -> Row:
    """The object that a command ends with, and its processor time, cpu_seconds; what it says on the way is shown."""
    command = [sys.executable, "-m", "unialign.cli", *map(str, arguments), "--json"]
    before = _spent()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with exit code {done.returncode}: {done.stdout}")
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return {**found, "cpu_seconds": round(_spent() - before, 1)}


def _spent() -> float:
    """Processor time of all processes that have been called and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def hits(run: Path) -> list[int]:
    """1 for each test clip that a run has right, 0 for others, in the order of ids."""
    with np.load(run / "predictions.npz") as stored:
        right = stored["probabilities"].argmax(axis=1) == stored["labels"]
        return [int(right[place]) for place in np.argsort(stored["ids"])]


def softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def fused(scores: Path, runs: Sequence[Path]) -> list[Row]:
    """Top-1 of the published scores and their fusion, as published and with ours in place of the skeleton's.

    Published: 2 PGCN + I3D + skeleton of the raw scores. Ours: the mean of probabilities, by seed; the weights are
    equal, so no test clip chooses them.
    """
    with np.load(scores) as stored:
        ids, labels = [str(name) for name in stored["ids"]], stored["labels"]
        raw = {name: stored[name].astype(np.float64) for name in ("ske", "i3d", "pgcn")}

    def top1(values: np.ndarray) -> float:
        return float((values.argmax(axis=1) == labels).mean())

    names = {"ske": "published skeleton network", "i3d": "published I3D", "pgcn": "published PGCN"}
    rows: list[Row] = [{"name": names[name], "top1": [top1(values)]} for name, values in raw.items()]
    published = 2 * raw["pgcn"] + raw["i3d"] + raw["ske"]
    rows.append({"name": "2 PGCN + I3D + skeleton, as published", "top1": [top1(published)]})
    equal = softmax(raw["i3d"]) + softmax(raw["ske"])
    rows.append({"name": "I3D + published skeleton network", "top1": [top1(equal)]})
    ours = [aligned(run, ids, labels) for run in runs]
    rows.append({"name": "ours", "top1": [top1(each) for each in ours]})
    rows.append({"name": "I3D + ours", "top1": [top1(softmax(raw["i3d"]) + each) for each in ours]})
    return rows


def aligned(run: Path, ids: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """The probabilities of a run, in the order of the published ids and classes."""
    with np.load(run / "predictions.npz") as stored:
        place = {str(name).rpartition("/")[2]: number for number, name in enumerate(stored["ids"])}
        rows = [place[name] for name in ids]
        own, found = stored["labels"][rows], stored["probabilities"][rows]
    # Which of our classes each published one is: the label of its clips.
    order = [int(own[labels == label][0]) for label in range(found.shape[1])]
    if not all((own[labels == label] == mine).all() for label, mine in enumerate(order)):
        raise SystemExit(f"{run}: its classes are not those of the published scores.")
    return np.asarray(found[:, order], np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the file in benchmarks/results")
    parser.add_argument("--title", default="", help="of the table")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--protocol")
    parser.add_argument(
        "--weights", type=Path, help="of the pose network, for videos; without it skeleton files are read"
    )
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--runs", type=Path, default=Path("runs/encoders"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the training, repeatable")
    options = parser.parse_args()
    data = ["--dataset", options.dataset, "--root", options.root.resolve(), "--cache", options.cache.resolve()]
    data += ["--labels", options.labels.resolve()] if options.labels else []
    split = ["--protocol", options.protocol] if options.protocol else []
    started = time.monotonic()
    source = ["--weights", options.weights.resolve()] if options.weights else ["--source", "skeleton"]
    poses = called(["extract", "poses", *source, *data])
    simple = called(["baseline", *data, *split])
    trained = []
    for seed in range(options.seeds):
        where = ["--runs", options.runs.resolve(), "--seed", seed]
        trained.append(called(["train", "--model", "skeleton", *data, *split, *where, *options.set]))
        print(f"seed {seed}: {100 * trained[-1]['top1']:.2f}", file=sys.stderr, flush=True)
    folders = [Path(run["folder"]) for run in trained]
    table = mean_interval(np.array([hits(folder) for folder in folders]))
    found: Row = {
        "title": options.title or f"{options.dataset}, {simple['protocol']}",
        "samples": {"total": poses["total"], **simple["samples"]},
        "settings": options.set,
        "epochs": trained[0]["epochs"],
        "baselines": simple["rows"],
        "encoders": [
            {"seed": seed, **{name: run[name] for name in ("top1", "mean_class", "seconds", "cpu_seconds")}}
            for seed, run in enumerate(trained)
        ],
        "mean": statistics.mean(run["top1"] for run in trained),
        "interval": [table.low, table.high],
        "fusion": fused(options.scores, folders) if options.scores else [],
        "processor": processor(folders[0]),
        "cores": os.cpu_count(),
        "seconds": round(time.monotonic() - started),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found))


def processor(run: Path) -> str:
    """What a run was computed on, as its env.json says."""
    content = yaml.safe_load((run / "env.json").read_text(encoding="utf-8"))
    return str(content.get("processor") or content.get("cpu") or "unknown")


if __name__ == "__main__":
    main()
