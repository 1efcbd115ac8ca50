"""Two processes under torchrun: each sample once, and the numbers that one process measures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.golden.curves import known_networks, make_caches
from tests.made_stores import made_dataset, made_stores
from tests.pipeline.made_training import plain_steps
from tests.pipeline.train_by_two import short_config
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.stages.training.logs import read_lines
from unialign.stages.training.processes import Processes

DATASET = made_dataset(11, 7)
ROOT = Path(__file__).resolve().parents[2]
OTHERS = ("art", "alt", "dvta")


def run_of(runs: Path) -> Path:
    """The run folder that was left there."""
    (run,) = (path for path in runs.iterdir() if not path.name.startswith("."))
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have trained from tiny stores (`tiny`) and the other systems from golden ones (`golden`)."""
    folder = tmp_path_factory.mktemp("two")
    # Batches of 5, 5 and 1: in the last one the second process has nothing of its own. 7 test samples.
    made_stores(folder / "tiny" / "cache", DATASET)
    make_caches(folder / "golden")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.pipeline.train_by_two", str(folder), *OTHERS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Path, Path]:
    """Cache and run folder of the training from tiny stores."""
    return folder / "tiny" / "cache", run_of(folder / "tiny" / "runs")


def test_one_process_writes_the_run(trained: tuple[Path, Path]) -> None:
    _, run = trained
    result = json.loads((run / "result.json").read_text())
    assert json.loads((run / "env.json").read_text())["processes"] == 2
    steps = [line for line in read_lines(run / "log.jsonl") if line["event"] == "step"]
    assert [(line["epoch"], line["batch"]) for line in steps] == [(e, b) for e in (1, 2, 3) for b in range(3)]
    assert result["epochs"] == 3


def test_one_process_measures_the_same(trained: tuple[Path, Path]) -> None:
    cache, run = trained
    found = evaluate_run(run, DATASET, cache=cache)
    assert found.agrees
    assert found.largest_change is not None
    # Batches of another size may round another way.
    assert found.largest_change < 1e-5, found


def test_two_processes_step_as_one_does(trained: tuple[Path, Path]) -> None:
    _, run = trained
    expected = plain_steps(Processes(0, 1, torch.device("cpu")))
    for two, one in zip(json.loads((run.parent / ".steps.json").read_text()), expected, strict=True):
        assert two == pytest.approx(one, rel=1e-5)


def test_the_random_state_of_each_process_is_kept(trained: tuple[Path, Path]) -> None:
    _, run = trained
    state = torch.load(run / "checkpoints/last.pt", weights_only=True)
    assert len(state["random"]) == 2
    assert not torch.equal(state["random"][0]["cpu"], state["random"][1]["cpu"])


def test_the_other_systems_train_in_two_processes_and_measure_the_same_in_one(folder: Path, tmp_path: Path) -> None:
    golden = folder / "golden"
    for system in OTHERS:
        run = run_of(golden / "runs" / system)
        result, environment = (json.loads((run / name).read_text()) for name in ("result.json", "env.json"))
        assert (result["epochs"], environment["processes"]) == (2, 2), system
        with known_networks(tmp_path):
            found = evaluate_run(run, the_dataset(short_config(system, golden)), cache=golden / "cache")
        assert found.agrees, system
        assert found.largest_change is not None
        assert found.largest_change < 1e-5, (system, found)
