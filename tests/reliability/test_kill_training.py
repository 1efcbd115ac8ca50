"""A training of any system that is killed again and again ends where the one ends that was left alone (R24).

2 kills a system in the usual run, 30 with RELIABILITY=full. Checkpoints are two batches apart, so that a resumed run
also repeats steps. UniAlign trains with batch statistics here, whose running values a checkpoint must hold too.
"""

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden.curves import VALUES, golden_config, make_caches, trained
from tests.reliability.conftest import Report
from unialign.pipeline.config import with_values
from unialign.stages.training.logs import read_lines

pytestmark = pytest.mark.usefixtures("fork_server")
FULL = os.environ.get("RELIABILITY") == "full"
KILLS = 30 if FULL else 2
EPOCHS = 20 if FULL else 3
LAST = 4 * EPOCHS
OFTEN = {"train.settings.epochs": EPOCHS, "train.settings.eval_every": 1, "train.settings.checkpoint_batches": 2}
OWN: Mapping[str, Mapping[str, Any]] = {
    "unialign": {"train.unialign.backbone": "tsm-tiny"},
    "dvta": {"protocol": "unseen val"},
}
TIMES = ("data_wait", "samples_per_second", "megabytes_per_second", "loader_samples_per_second")
LIMIT = 120


def train_here(system: str, cache: Path, runs: Path) -> None:
    """Train a system in this process; what is started, killed and started again."""
    runs.mkdir(exist_ok=True)
    config = golden_config(system, cache, runs)
    trained(with_values(config, {"protocol": "val", **OFTEN, **OWN.get(system, {})}), runs)


def started(system: str, cache: Path, runs: Path, target: Callable[..., None] = train_here) -> ForkServerProcess:
    process = multiprocessing.get_context("forkserver").Process(target=target, args=(system, cache, runs))
    process.start()
    return process


def ended(process: ForkServerProcess) -> int | None:
    process.join(LIMIT)
    return process.exitcode


def steps(runs: Path) -> dict[int, set[tuple[float, ...]]]:
    """Loss, its terms, gradient norm and learning rate of each step in the log: one tuple, however often it ran."""
    found: dict[int, set[tuple[float, ...]]] = {}
    for log in runs.glob("*/log.jsonl"):
        for line in read_lines(log):
            if line.pop("event") == "step":
                values = tuple(value for name, value in line.items() if name not in TIMES)
                found.setdefault(line["step"], set()).add(values)
    return found


def killed(process: ForkServerProcess, runs: Path, generator: random.Random) -> bool:
    """Kill it at or just after a random step that it has not reached yet; False if it finished first."""
    reached = max(steps(runs), default=0)
    moment = reached + generator.randint(1, max(1, (LAST - reached) // 3))
    deadline = time.monotonic() + LIMIT
    while max(steps(runs), default=0) < moment and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    # Any moment of a step, also in the middle of a checkpoint or of an evaluation.
    time.sleep(generator.uniform(0, 0.05))
    process.kill()
    code = ended(process)
    assert code in (0, -9)
    return code == -9


def tensors(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a state by its path, without times."""
    if isinstance(value, Mapping | list | tuple):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, each in entries:
            if name not in TIMES:
                yield from tensors(each, f"{place}/{name}")
    else:
        yield place, value


def left_behind(runs: Path) -> dict[str, Any]:
    """Everything in the last and in the best checkpoint, and the predictions, by place."""
    found: dict[str, Any] = {}
    for name in ("last", "best"):
        (path,) = runs.glob(f"*/checkpoints/{name}.pt")
        found |= tensors(torch.load(path, weights_only=True), name)
    (path,) = runs.glob("*/predictions.npz")
    with np.load(path) as arrays:
        found |= {f"predictions/{name}": torch.from_numpy(arrays[name]) for name in ("labels", "probabilities")}
    return found


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


@pytest.mark.timeout(1800 if FULL else 240)
@pytest.mark.parametrize("system", VALUES)
def test_killed_runs_go_on_bit_for_bit(system: str, tmp_path: Path, report: Report) -> None:
    seed = int(os.environ.get("RELIABILITY_SEED", "0"))
    generator = random.Random(f"{system} {seed}")
    cache, alone = make_caches(tmp_path), tmp_path / "alone"
    assert ended(started(system, cache, alone)) == 0
    whole, expected = steps(alone), left_behind(alone)
    assert sorted(whole) == list(range(1, LAST + 1))
    assert {place.split("/")[1] for place in expected} >= {"model", "optimizer", "random", "history"}
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        runs = tmp_path / f"killed-{rounds}"
        while kills < KILLS and killed(started(system, cache, runs), runs, generator):
            kills += 1
        assert ended(started(system, cache, runs)) == 0
        where = f"{system}, seed {seed}, round {rounds}, {kills} kills"
        found = steps(runs)
        assert [step for step in whole if found[step] != whole[step]] == [], where
        left = left_behind(runs)
        assert left.keys() == expected.keys(), where
        assert [place for place, value in expected.items() if not same(value, left[place])] == [], where
        assert not [path for path in runs.rglob(".tmp-*") if ".locks" not in path.parts], where
    report("R24", system=system, kills=kills, runs=rounds, values_of_a_checkpoint=len(expected), different=0)


def train_forgetting(system: str, cache: Path, runs: Path) -> None:
    """A training that continues with other random numbers than it was killed with."""
    torch.set_rng_state = lambda state: None
    train_here(system, cache, runs)


def test_meta_a_run_that_forgets_its_random_state_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = partial(started, target=train_forgetting)
    monkeypatch.setattr("tests.reliability.test_kill_training.started", forgetful)
    with pytest.raises(AssertionError, match="art, seed"):
        test_killed_runs_go_on_bit_for_bit("art", tmp_path, lambda number, **counts: None)
