"""Contract of the training runs of a sweep: equal for any number at once, independent of failures, ended with it."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.made_stores import made_dataset, made_stores
from tests.pipeline.made_training import MODEL
from unialign import cli
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.ablation.grid import Grid, Row, Trial
from unialign.pipeline.ablation.results import FailedTrials
from unialign.pipeline.ablation.sweep import sweep
from unialign.pipeline.ablation.trials import Running, ended, failure, threads_per_trial
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.memory import MARGIN, available_memory, one_more_fits, peak_memory
from unialign.pipeline.training.run_folder import memory_of
from unialign.stages.training.loop import Progress

VIDEO = {"train.unialign.modalities": ["video"]}
TEXT = {"train.unialign.modalities": ["video", "text"]}
pytestmark = pytest.mark.usefixtures("fork_server")
# More than any test waits for.
ENDLESS = {"train.settings.epochs": 10_000, "train.settings.eval_every": 10_000, "train.settings.checkpoint_every": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    made_stores(folder, made_dataset())
    save_manifest(made_dataset(), folder)
    return folder


@pytest.fixture
def config(cache: Path, tmp_path: Path) -> Config:
    settings = {"epochs": 1, "batch_size": 5, "lr": 0.01, "device": "cpu"}
    values = {"dataset": "tiny", "cache": cache, "runs": tmp_path / "runs", "train.unialign": MODEL}
    return with_values(Config(), {**values, "train.settings": settings})


def rows(**values: dict[str, object]) -> tuple[Row, ...]:
    return tuple(Row(name=name, set=chosen) for name, chosen in values.items())


def test_jobs_change_no_number_and_a_finished_sweep_trains_nothing(config: Config, tmp_path: Path) -> None:
    # The last row is the first one under another name: trained once, even while the first one is in work.
    grid = Grid(name="g", rows=rows(video=VIDEO, text=TEXT, again={**VIDEO, "train.unialign.dropout": 0.5}))
    first, folder = sweep(grid, with_values(config, {"runs": tmp_path / "alone"}), jobs=1)
    both, _ = sweep(grid, with_values(config, {"runs": tmp_path / "both"}), jobs=3)
    assert [result.reused for result in first.results] == [False, False, True]
    assert sorted(result.reused for result in both.results) == [False, False, True]
    for one, other in zip(first.results, both.results, strict=True):
        # Whichever of the two equal rows begins first gives the folder its name; the key at its end is the same.
        assert (one.metrics, one.run.rpartition("-")[2]) == (other.metrics, other.run.rpartition("-")[2])
        with np.load(Path(one.run, "predictions.npz")) as ours, np.load(Path(other.run, "predictions.npz")) as theirs:
            assert ours["probabilities"].tobytes() == theirs["probabilities"].tobytes()
    assert {path.name for path in folder.iterdir()} == {
        f"ablation.{kind}" for kind in ("csv", "json", "md", "pdf", "png", "svg", "tex")
    }
    repeated, _ = sweep(grid, with_values(config, {"runs": tmp_path / "alone"}))
    assert all(result.reused for result in repeated.results)
    assert repeated.extracted == first.extracted == 0
    # Time and memory are those that were measured when it was trained.
    assert repeated.rows() == first.rows()
    peaks = [result.memory for result in repeated.results]
    assert all(peak is not None and 50e6 < peak < 5e9 for peak in peaks)
    assert memory_of(Path(first.results[0].run)) == (peaks[0], None)


def processes(runs: Path) -> set[int]:
    """The processes that hold or held a run, as their locks say."""
    locks = [path.read_text() for path in (runs / ".locks").glob("*.lock")]
    return {json.loads(text)["process"] for text in locks if text}


def test_a_failing_and_a_killed_training_lose_no_other(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    grid = Grid(
        name="g", rows=rows(wrong=VIDEO | {"train.backbone_weights": "none.pt"}, killed=VIDEO | ENDLESS, good=TEXT)
    )

    def show(trial: Trial, progress: Progress) -> None:
        if trial.row == "killed":
            (process,) = processes(config.runs)
            os.kill(process, signal.SIGKILL)

    with pytest.raises(FailedTrials) as caught:
        sweep(grid, config, jobs=1, show=show)
    found = caught.value
    assert [(each.trial.row, each.exit_code) for each in found.ablation.failed] == [("wrong", 2), ("killed", 1)]
    assert [result.trial.row for result in found.ablation.results] == ["good"]
    assert found.exit_code == 1
    assert "2 of 3 training runs failed: wrong (seed 0): " in str(found)
    assert "killed (seed 0): the training was ended by SIGKILL (out of memory?)" in str(found)
    assert "| good | 1 |" in (found.folder / "ablation.md").read_text()
    # Each has the threads that the environment asks for.
    assert json.loads(Path(found.ablation.results[0].run, "env.json").read_text())["threads"] == 2


def test_a_killed_training_of_a_sweep_goes_on_from_its_checkpoint(config: Config, tmp_path: Path) -> None:
    settings = {"train.settings.epochs": 6, "train.settings.checkpoint_every": 1, "train.settings.eval_every": 6}
    grid = Grid(name="g", rows=rows(video=VIDEO | settings))
    whole, _ = sweep(grid, with_values(config, {"runs": tmp_path / "whole"}))

    def show(trial: Trial, progress: Progress) -> None:
        if progress.epoch >= 3:
            (process,) = processes(config.runs)
            os.kill(process, signal.SIGKILL)

    with pytest.raises(FailedTrials):
        sweep(grid, config, show=show)
    begun: list[int] = []
    again, _ = sweep(grid, config, show=lambda trial, progress: begun.append(progress.epoch))
    assert begun[0] > 1
    (first,), (second,) = whole.results, again.results
    assert not second.reused
    assert first.metrics == second.metrics
    with np.load(Path(first.run, "predictions.npz")) as ours, np.load(Path(second.run, "predictions.npz")) as theirs:
        assert ours["probabilities"].tobytes() == theirs["probabilities"].tobytes()


def test_values_that_make_no_configuration_are_rejected_before_any_training(config: Config) -> None:
    grid = Grid(name="g", rows=rows(good=VIDEO, bad={"train.settings.epoch": 3}))
    with pytest.raises(UsageError, match=r"row 'bad': .*epoch"):
        sweep(grid, config)
    assert not config.runs.exists()


def test_a_row_whose_store_is_missing_is_named_before_any_training(config: Config, tmp_path: Path) -> None:
    """Otherwise the error might come after hours of training other rows."""
    alone = tmp_path / "cache"
    made_stores(alone, made_dataset())
    save_manifest(made_dataset(), alone)
    shutil.rmtree(next(alone.glob("*/text")))
    grid = Grid(name="g", rows=rows(video=VIDEO, texts=TEXT))
    with pytest.raises(MissingCache, match=r"row 'texts': no text of .*unialign extract text"):
        sweep(grid, with_values(config, {"cache": alone}))
    assert not config.runs.exists()


def command(words: list[str]) -> None:
    sys.argv = ["unialign", *words]
    cli.main()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupt_ends_all_processes_and_keeps_what_was_finished(config: Config, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    lines = {"done": VIDEO, "long": TEXT | ENDLESS, "longer": VIDEO | ENDLESS}
    grid.write_text(json.dumps({"name": "g", "rows": [{"name": name, "set": made} for name, made in lines.items()]}))
    (tmp_path / "unialign.yaml").write_text(json.dumps(config.dump()))
    context = multiprocessing.get_context("forkserver")
    words = ["ablate", str(grid), "--jobs", "2", "--json", "--config", str(tmp_path / "unialign.yaml")]
    process = context.Process(target=command, args=(words,))
    process.start()
    deadline = time.monotonic() + 120
    # One is done; the other two have both stored a checkpoint to continue from.
    while len(list(config.runs.glob("*/checkpoints/last.pt"))) < 3 or not list(config.runs.glob("*/result.json")):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert not [number for number in processes(config.runs) if alive(number)]
    results = list(config.runs.glob("*/result.json"))
    assert len(results) == 1
    assert not list(config.runs.glob("ablations/*"))
    # The same sweep continues: the finished run is there, the others have their checkpoints.
    found, _ = sweep(Grid(name="g", rows=rows(done=VIDEO)), config)
    assert [result.reused for result in found.results] == [True]


def stubborn(connection: Connection) -> None:
    """A trial that has started a process which never ends, and that never reports."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"])
    connection.send(child.pid)
    time.sleep(1000)


def test_a_training_that_reports_nothing_is_ended_with_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unialign.pipeline.ablation.trials.GRACE", 0.1)
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=stubborn, args=(theirs,))
    with contextlib.suppress(KeyboardInterrupt), ended({ours: Running(Trial("a", 0, ()), process)}):
        process.start()
        child = ours.recv()
        raise KeyboardInterrupt
    assert process.exitcode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline and "Z" not in state_of(child):
        time.sleep(0.01)
    assert not alive(child) or "Z" in state_of(child)


def state_of(process: int) -> str:
    """The state letter in /proc: an orphan stays a zombie where nobody waits for it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


@given(st.integers(0, 10**12), st.integers(1, 10**11), st.lists(st.integers(0, 10**11), max_size=5))
def test_a_training_starts_only_where_it_and_all_running_ones_can_grow(
    free: int, need: int, running: list[int]
) -> None:
    fits = one_more_fits(free, need, running)
    assert fits or running
    if fits and running:
        most = int(MARGIN * need)
        assert sum(max(0, most - peak) for peak in running) + most <= free
        assert one_more_fits(free, need, running[1:])
        assert one_more_fits(free + 1, need, running)


def test_as_long_as_nothing_is_known_one_runs_alone() -> None:
    assert one_more_fits(10**12, None, [])
    assert not one_more_fits(10**12, None, [10**9])
    assert one_more_fits(None, 10**9, [])
    assert not one_more_fits(None, 10**9, [10**9])
    assert one_more_fits(10**12, 10**9, [10**9])


def test_peak_memory_is_that_of_the_process_alone_grows_and_stays() -> None:
    code = (
        "from unialign.pipeline.memory import peak_gpu_memory, peak_memory\n"
        "peaks = [peak_memory()]\n"
        "block = bytes(b'1') * 100_000_000\n"
        "peaks.append(peak_memory())\n"
        "del block\n"
        "print(*peaks, peak_memory(), peak_gpu_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    *numbers, gpu = done.stdout.split()
    before, grown, after = map(int, numbers)
    # Not what this process, which starts it, takes.
    assert before < 60e6 < peak_memory()
    # The kernel counts the last pages late.
    assert 0.9 * 100e6 < grown - before < 1.1 * 100e6
    assert after == pytest.approx(grown, rel=0.01)
    assert gpu == "None"


def test_free_memory_is_known_on_linux() -> None:
    free = available_memory()
    assert (free is not None) == (sys.platform == "linux")
    assert free is None or 0 < free < 10**15


@pytest.mark.parametrize(("text", "threads"), [("", 1), ("4", 4), ("0", 1), ("4,2", 1), ("many", 1)])
def test_threads_are_one_or_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, text: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads_per_trial() == threads


def test_an_error_of_a_library_is_one_short_line() -> None:
    trial = Trial("a", 0, ())
    found = failure(trial, RuntimeError("CUDA out of memory.\n" + "x" * 5000))
    assert found.error.startswith("RuntimeError: CUDA out of memory. x")
    assert len(found.error) < 400
    assert "\n" not in found.error
    assert failure(trial, MemoryError()).error == "MemoryError"
    assert failure(trial, UsageError("no.")).exit_code == 2
