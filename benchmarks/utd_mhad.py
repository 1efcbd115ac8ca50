"""The results of the skeleton encoder and DVTA on UTD-MHAD, from the caches, through the program's own commands.

    python benchmarks/utd_mhad.py --root UTD-MHAD/Skeleton --labels classes.txt --json results.json

--root: the `..._skeleton.mat` files. --labels: the 27 class names in the dataset's order, one per line. Settings are in
configs/utd_mhad/. Subjects 1, 3, 5, 7 are for training, the others for testing.

1. The encoder on all 27 classes, once per seed.
2. For every split (5 of 27 classes unseen) a separate encoder (seed 0), trained on the seen classes of the training
subjects only; its features; each row of zero_shot.yaml on them, once per seed.
3. The same generalized, with all 27 classes as candidates: what is subtracted from the scores of seen classes is chosen
on five seen classes that are excluded from training (`held_out`), as the mean over the seeds.

No epoch and no setting is chosen on test samples. Finished parts are reused, so the same command resumes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PROJECT = Path(__file__).resolve().parent.parent
CONFIG = PROJECT / "configs/utd_mhad"
GENERALISED = ("DVTA", "plain projection")
BY_CLASS = ("DVTA", "linear projection with SDE", "plain projection")
HELD_OUT = 5
MEASURES = ("seen", "unseen", "harmonic", "area")

Row = dict[str, Any]


@dataclass(frozen=True)
class Places:
    """Paths, and how the program is called on them."""

    root: Path
    labels: Path
    cache: Path
    runs: Path

    def called(self, *arguments: object, runs: Path | None = None) -> Row:
        """The object that `unialign ... --json` printed. Exits if the command fails."""
        command = [sys.executable, "-m", "unialign.cli", *map(str, arguments)]
        command += ["--config", str(CONFIG / "utd_mhad.yaml"), "--root", str(self.root), "--labels", str(self.labels)]
        command += ["--cache", str(self.cache), "--json"]
        if arguments[0] in ("train", "ablate"):
            command += ["--runs", str(runs or self.runs)]
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\nended with exit code {done.returncode}: {done.stdout}")
        found: Row = json.loads(done.stdout.splitlines()[-1])
        return found


def grid_of(base: Row, name: str, seeds: int, rows: Mapping[str, Row]) -> Row:
    """The rows of a grid that `rows` names, each with some additional values, for seeds from 0."""
    kept = [
        {"name": row["name"], "set": {**row.get("set", {}), **rows[row["name"]]}}
        for row in base["rows"]
        if row["name"] in rows
    ]
    return {"name": name, "set": dict(base["set"]), "seeds": list(range(seeds)), "rows": kept}


def swept(places: Places, grid: Row, protocol: str, features: str) -> list[Row]:
    """The result.json of each training run, with row, seed and folder."""
    runs = places.runs / protocol
    path = runs / f"{grid['name']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(grid, sort_keys=False), encoding="utf-8")
    found = places.called("ablate", path, "--protocol", protocol, "--use", f"pose-features={features}", runs=runs)
    if found["extracted"]:
        raise SystemExit(f"{path}: the sweep extracted {found['extracted']} samples; it must only read.")
    return [
        {**json.loads((Path(trial["run"]) / "result.json").read_text(encoding="utf-8"))}
        | {"row": trial["row"], "seed": trial["seed"], "folder": Path(trial["run"])}
        for trial in found["trials"]
    ]


def zero_shot_of(places: Places, base: Row, split: int, seeds: int, features: str) -> list[Row]:
    """The zero-shot rows of one split."""
    every: Mapping[str, Row] = {row["name"]: {} for row in base["rows"]}
    return [
        {"split": split, "row": found["row"], "seed": found["seed"], "top1": found["metrics"]["top1"]}
        | {"encoder_clean": found["zero_shot"]["encoder_clean"], "answers": answers(found["folder"])}
        for found in swept(places, grid_of(base, "zero-shot", seeds, every), f"zero-shot-{split}", features)
    ]


def generalised_of(places: Places, base: Row, split: int, seeds: int, features: str) -> list[Row]:
    """The generalized rows of one split, with the calibration that was chosen on held-out classes."""
    held = {name: {"train.dvta.held_out": HELD_OUT} for name in GENERALISED}
    tuned = swept(places, grid_of(base, "held-out", seeds, held), f"generalised-{split}", features)
    chosen = {
        name: statistics.mean(each["zero_shot"]["calibration"] for each in tuned if each["row"] == name)
        for name in GENERALISED
    }
    values = {name: {"train.dvta.calibration": value} for name, value in chosen.items()}
    return [
        {"split": split, "row": found["row"], "seed": found["seed"], "calibration": chosen[found["row"]]}
        | {name: found["zero_shot"][name] for name in MEASURES}
        for found in swept(places, grid_of(base, "generalised", seeds, values), f"generalised-{split}", features)
    ]


def answers(run: Path) -> list[list[int]]:
    """[label, prediction] of each test sample of a zero-shot run, as labels of the dataset."""
    candidates = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["candidates"]
    with np.load(run / "predictions.npz") as stored:
        pairs = zip(stored["labels"].tolist(), stored["probabilities"].argmax(axis=1).tolist(), strict=True)
        return [[candidates[label], candidates[answer]] for label, answer in pairs]


def spread(values: Iterable[float]) -> str:
    """Mean and standard deviation, in percent."""
    shares = [100 * value for value in values]
    return f"{statistics.mean(shares):.1f} ± {statistics.stdev(shares) if len(shares) > 1 else 0:.1f}"


def zero_shot_table(rows: Sequence[Row]) -> list[str]:
    """One line per row: all splits and seeds, each split, and the paired difference to the last row, the plain one."""
    names, splits = list(dict.fromkeys(row["row"] for row in rows)), sorted({row["split"] for row in rows})
    runs = {name: {(row["split"], row["seed"]): row["top1"] for row in rows if row["row"] == name} for name in names}
    head = ["zero-shot, chance 20.0", "all", *(f"split {split}" for split in splits), f"less {names[-1]}"]
    lines = table_head(head)
    for name, found in runs.items():
        parts = [spread(value for (each, _), value in found.items() if each == split) for split in splits]
        change = spread(value - runs[names[-1]][place] for place, value in found.items())
        lines.append(table_row([name, spread(found.values()), *parts, change if name != names[-1] else ""]))
    return lines


def generalised_table(rows: Sequence[Row]) -> list[str]:
    """One line per row: accuracy on seen and unseen samples, harmonic mean, area under their curve."""
    lines = table_head(["generalised, 27 candidates", *MEASURES])
    for name in dict.fromkeys(row["row"] for row in rows):
        lines.append(table_row([name, *(spread(row[each] for row in rows if row["row"] == name) for each in MEASURES)]))
    return lines


def class_table(rows: Sequence[Row], classes: Sequence[str], shown: Sequence[str]) -> list[str]:
    """One line per unseen class, over all seeds: its split, the accuracy of each row shown, and the most frequent
    wrong prediction of the first.
    """
    lines = table_head(["unseen class", "split", *shown, f"most frequent mistake of {shown[0]}"])
    for split in sorted({row["split"] for row in rows}):
        pairs = {
            name: [pair for row in rows if row["split"] == split and row["row"] == name for pair in row["answers"]]
            for name in shown
        }
        for label in sorted({truth for truth, _ in pairs[shown[0]]}):
            given = {name: [answer for truth, answer in found if truth == label] for name, found in pairs.items()}
            shares = [f"{100 * found.count(label) / len(found):.0f}" for found in given.values()]
            wrong = Counter(answer for answer in given[shown[0]] if answer != label).most_common(1)
            mistake = f"{classes[wrong[0][0]]}, {100 * wrong[0][1] / len(given[shown[0]]):.0f}" if wrong else ""
            lines.append(table_row([classes[label], str(split), *shares, mistake]))
    return lines


def table_head(names: Sequence[str]) -> list[str]:
    return [table_row(names), "|" + "---|" * len(names)]


def table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the skeleton files")
    parser.add_argument("--labels", type=Path, required=True, help="the 27 class names, one a line")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--runs", type=Path, default=Path("runs/utd_mhad"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--splits", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    places = Places(*(getattr(options, name).resolve() for name in ("root", "labels", "cache", "runs")))
    base = yaml.safe_load((CONFIG / "zero_shot.yaml").read_text(encoding="utf-8"))
    poses = places.called("extract", "poses")
    places.called("extract", "text")
    encoders, zero_shot, generalised = [], [], []
    for seed in range(options.seeds):
        found = places.called("train", "--model", "stgcn++", "--protocol", "subject-odd", "--seed", seed)
        encoders.append({"split": None, "seed": seed, "top1": found["top1"]})
        print(f"encoder, seed {seed}: {100 * found['top1']:.1f}", file=sys.stderr, flush=True)
    for split in range(1, options.splits + 1):
        found = places.called("train", "--model", "stgcn++", "--protocol", f"generalised-{split}", "--seed", 0)
        encoders.append({"split": split, "seed": 0, "top1": found["top1"]})
        made = places.called("extract", "pose-features", "--weights", found["exported"])
        chosen = (places, base, split, options.seeds, Path(made["store"]).stem)
        zero_shot += zero_shot_of(*chosen)
        generalised += generalised_of(*chosen)
        print(f"split {split} of {options.splits} is done", file=sys.stderr, flush=True)

    classes = [line.strip() for line in options.labels.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    lines = table_head(["encoder", "top-1", "chance"])
    lines.append(table_row(["27 classes", spread(row["top1"] for row in encoders if row["split"] is None), "3.7"]))
    lines.append(table_row(["22 seen classes", spread(row["top1"] for row in encoders if row["split"]), "4.5"]))
    lines += ["", *zero_shot_table(zero_shot), "", *generalised_table(generalised), ""]
    print("\n".join([*lines, *class_table(zero_shot, classes, BY_CLASS)]))
    seconds = round(time.monotonic() - started, 1)
    print(f"\n{poses['total']} samples, {seconds:.0f} s")
    if options.json:
        rows = {"encoders": encoders, "zero_shot": zero_shot, "generalised": generalised}
        options.json.write_text(json.dumps({"samples": poses["total"], "seconds": seconds, **rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
