"""A training that is killed again and again ends where the one ends that was left alone."""

import multiprocessing
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from tests.made_stores import made_dataset, made_stores
from tests.pipeline.made_training import main
from unialign.stages.training.logs import read_lines

NUM_KILLS = 4
SEED = 11


def started(cache: Path, runs: Path) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    # Imported once, in the server that the processes are forked from.
    context.set_forkserver_preload(["tests.pipeline.made_training"])
    process = context.Process(target=main, args=(str(cache), str(runs)))
    process.start()
    return process


def steps(runs: Path) -> dict[int, tuple[float, float]]:
    """(loss, gradient norm) of every step; the last line of a step counts."""
    logs = list(runs.glob("*/log.jsonl"))
    lines = read_lines(logs[0]) if logs else []
    return {line["step"]: (line["loss"], line["gradient_norm"]) for line in lines if line["event"] == "step"}


def test_killed_runs_go_on_bit_for_bit(tmp_path: Path) -> None:
    cache, alone, killed = tmp_path / "cache", tmp_path / "alone", tmp_path / "killed"
    made_stores(cache, made_dataset())
    left_alone = started(cache, alone)
    generator = random.Random(SEED)
    moments = []
    for _ in range(NUM_KILLS):
        process = started(cache, killed)
        before, deadline = len(steps(killed)), time.monotonic() + 60
        while len(steps(killed)) <= before and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        # Any moment of a step, also in the middle of a checkpoint.
        time.sleep(generator.uniform(0, 0.25))
        process.kill()
        process.join()
        moments.append((len(steps(killed)), process.exitcode))
        if process.exitcode == 0:
            break
    last = started(cache, killed)
    for process in (last, left_alone):
        process.join(120)
        assert process.exitcode == 0
    assert any(code == -9 for _, code in moments), moments
    assert steps(killed) == steps(alone), moments
    assert len(steps(alone)) == 9
    states = [torch.load(next(runs.glob("*/checkpoints/last.pt"))) for runs in (alone, killed)]
    first, second = states
    assert first["model"].keys() == second["model"].keys()
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items()), moments
    momenta = [state["optimizer"]["state"] for state in states]
    assert all(
        torch.equal(value["momentum_buffer"], momenta[1][name]["momentum_buffer"]) for name, value in momenta[0].items()
    )
    assert torch.equal(first["random"][0]["cpu"], second["random"][0]["cpu"])
    left_over = [path for path in killed.rglob(".tmp-*") if ".locks" not in path.parts]
    assert not left_over, moments
