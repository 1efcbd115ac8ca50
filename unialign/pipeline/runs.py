"""The runs of a folder: what each is, how two differ class by class, what rests on one, and removing it."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache import atomic
from unialign.cache.digests import file_digest
from unialign.cache.keys import SHORT
from unialign.cache.lock import store_lock
from unialign.cache.store import open_store
from unialign.errors import CacheProblem, LockedStore, MissingCache, UsageError
from unialign.pipeline.ablation.bootstrap import mean_interval
from unialign.pipeline.evaluation.compare_runs import compare_runs
from unialign.pipeline.evaluation.intervals import wilson_interval
from unialign.pipeline.training.run_folder import (
    read_config,
    read_json,
    read_keys,
    read_predictions,
    read_result,
    run_folders,
)
from unialign.types import Json


@dataclass(frozen=True)
class RunLine:
    """One run of a folder.

    top1: on its test part, with low and high, the ends of its 95 % interval (Wilson); None without a test or an end.
    tested: test samples. epoch: finished ones, of epochs. date: of its end or, unfinished, of its start. size: bytes of
    all its files. problem: why it cannot be read; "" if it can.
    """

    run: str
    model: str = ""
    dataset: str = ""
    protocol: str = ""
    name: str = ""
    seed: int = 0
    top1: float | None = None
    low: float | None = None
    high: float | None = None
    tested: int = 0
    epoch: int = 0
    epochs: int = 0
    date: str = ""
    size: int = 0
    finished: bool = False
    problem: str = ""

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return dict(self.__dict__)


def list_runs(runs: Path) -> list[RunLine]:
    """The runs in a folder, the newest first; one that cannot be read says why. Raises `MissingCache` without any."""
    folders = run_folders(runs)
    if not folders:
        raise MissingCache(f"there are no runs in {runs}; `unialign run` and `unialign train` make them.")
    return sorted((run_line(folder) for folder in folders), key=lambda line: line.date, reverse=True)


def run_line(folder: Path) -> RunLine:
    """What a run folder says of itself."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        return _line(folder, size)
    except CacheProblem as error:
        return RunLine(folder.name, size=size, date=_date(folder / "config.yaml"), problem=str(error))


def _line(folder: Path, size: int) -> RunLine:
    config = read_config(folder)
    settings = config["settings"]
    finished = (folder / "result.json").is_file()
    about: dict[str, Any] = {
        "model": config["model"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "name": str(config.get("name", "")),
        "seed": settings.get("seed", 0),
        "epochs": settings.get("epochs", 0),
        "size": size,
        "finished": finished,
        "date": _date(folder / ("result.json" if finished else "config.yaml")),
    }
    if not finished:
        with contextlib.suppress(CacheProblem):
            from unialign.stages.training.checkpoints import Checkpoints  # loads torch

            position = Checkpoints(folder / "checkpoints", read_keys(folder)["run"]).position()
            about["epoch"] = position.epoch if position else 0
        return RunLine(folder.name, **about)
    result = read_result(folder)
    tested, top1 = result["samples"]["test"].get("used", 0), result["metrics"].get("top1")
    if top1 is not None and tested:
        low, high = wilson_interval(top1 * tested, tested)
        about |= {"top1": top1, "low": low, "high": high}
    return RunLine(folder.name, **about, tested=tested, epoch=result["epochs"])


def _date(path: Path) -> str:
    """When a file was written, UTC, to the minute."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
    except OSError:
        return ""


def describe_run(folder: Path, runs: Path, cache: Path) -> dict[str, Json]:
    """A run as one object: its line, settings, stores, machine, metrics, and what rests on it.

    Raises `MissingCache` for a folder that is not a run, `DamagedStore` for one that cannot be read.
    """
    line = _line(folder, run_line(folder).size)
    keys = read_keys(folder)
    result = read_result(folder) if line.finished else {}
    return {
        **line.result(),
        "metrics": dict(result.get("metrics", {})),
        "best": dict(result.get("best", {})),
        "heads": dict(result.get("heads", {})),
        "samples": dict(result.get("samples", keys.get("samples", {}))),
        "classes": list(keys.get("classes") or ()),
        "stores": {name: dict(found) for name, found in keys["stores"].items()},
        "config": read_config(folder),
        "machine": read_json(folder / "env.json"),
        "rests": rests_on(folder, runs, cache),
    }


def compare_classes(first: Path, second: Path) -> dict[str, Json]:
    """How two finished runs differ: settings that decide, and their answers on the clips that both tested.

    The object that `--json` prints: "first", "second"; "settings": see `compare_runs`; "tested": clips in both; "top1":
    of each on these; "change", "low", "high": their difference with its 95 % interval, paired by clip (bootstrap);
    "only_first", "only_second": clips that only one has right; "classes": [{"name", "samples", "first", "second",
    "change"}], shares of right answers, the largest change first.
    Raises `MissingCache` for a run without predictions, `UsageError` if they tested no clip in common.
    """
    right = [_right(folder) for folder in (first, second)]
    both = sorted(right[0].keys() & right[1].keys())
    if not both:
        raise UsageError(f"{first.name} and {second.name} tested no clip in common; compare runs of one split.")
    answers = np.array([[right[side][name][1] for name in both] for side in (0, 1)], dtype=float)  # (2, N)
    change = mean_interval((answers[1] - answers[0])[None])
    names = [right[0][name][0] for name in both]
    rows: list[dict[str, Json]] = []
    for name in dict.fromkeys(names):
        shares = answers[:, [each == name for each in names]].mean(axis=1)
        found = {"name": name, "samples": names.count(name), "first": float(shares[0]), "second": float(shares[1])}
        rows.append({**found, "change": float(shares[1] - shares[0])})
    compared = compare_runs(first, second)
    return {
        "first": first.name,
        "second": second.name,
        "settings": [row for row in compared["settings"] if row["decides"]],
        "tested": len(both),
        "top1": [float(each.mean()) for each in answers],
        "change": change.mean,
        "low": change.low,
        "high": change.high,
        "only_first": int((answers[0] > answers[1]).sum()),
        "only_second": int((answers[1] > answers[0]).sum()),
        "classes": sorted(rows, key=lambda row: (-abs(row["change"]), row["name"])),
    }


def _right(folder: Path) -> dict[str, tuple[str, bool]]:
    """For each tested clip its class and whether the run has it right."""
    found, classes = read_predictions(folder), read_keys(folder).get("classes")
    if found is None:
        raise MissingCache(f"{folder} has no predictions: it is not finished, or tested nothing.")
    guesses = found["probabilities"].argmax(axis=1)

    def name(label: int) -> str:
        return str(classes[label]) if classes and label < len(classes) else f"class {label}"

    several = zip(found["ids"].tolist(), found["labels"].tolist(), guesses.tolist(), strict=True)
    return {each: (name(label), label == guess) for each, label, guess in several}


def rests_on(folder: Path, runs: Path, cache: Path) -> list[str]:
    """What would lose something with a run, a phrase each: runs that started from it, runs that read features of its
    encoder, and ablations that list it.
    """
    key = read_keys(folder)["run"]
    encoder = folder / "encoder.pt"
    digest = file_digest(encoder).removeprefix("sha256:") if encoder.is_file() else ""
    found: list[str] = []
    for other in run_folders(runs):
        if other == folder:
            continue
        with contextlib.suppress(CacheProblem):
            if read_config(other).get("start", {}).get("run") == key:
                found.append(f"{other.name} started from its weights")
            elif digest and _encoder_behind(other, cache) == digest:
                found.append(f"{other.name} reads pose features of its encoder")
    tables = sorted(runs.glob("ablations/*/ablation.json"))
    listing = [path.parent.name for path in tables if f'/{folder.name}"' in path.read_text(encoding="utf-8")]
    return found + [f"the ablation {name} lists it" for name in listing]


def _encoder_behind(run: Path, cache: Path) -> str:
    """SHA-256 of the encoder that computed the pose features of a run; "" if it read none or their store is gone."""
    place = str(read_keys(run)["stores"].get("pose-features", {}).get("store") or "")
    if not place or "://" in place:
        return ""
    return str(open_store(cache / place).key.fields.get("weights") or "")


def remove_run(folder: Path, runs: Path, cache: Path) -> int:
    """Delete a run's folder; returns the bytes of its files.

    Raises `UsageError` if something rests on it, `LockedStore` while a process trains it.
    """
    if rests := rests_on(folder, runs, cache):
        more = f" and {len(rests) - 3} more" if len(rests) > 3 else ""
        raise UsageError(f"{folder.name} is needed: {'; '.join(rests[:3])}{more}. Remove what needs it first.")
    config, size = read_config(folder), run_line(folder).size
    # The lock of whoever trains it, see `run_folder.sole_writer`.
    lock = folder.with_name(f"{config['dataset']}-{config['model']}-{read_keys(folder)['run'][:SHORT]}")
    try:
        with store_lock(lock, folder.parent):
            atomic.remove(folder)
    except LockedStore as error:
        raise LockedStore(f"{folder}: a process trains this run; stop it first.") from error
    return size
