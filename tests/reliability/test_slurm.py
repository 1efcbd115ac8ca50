"""R41: a real SLURM on this machine runs `--cluster slurm` and an array of `--join` jobs; the bytes are the same.

A lane of its own, `make slurm`: it takes minutes, since SLURM counts walltimes in minutes.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract, make_files
from tests.pipeline.ablation.test_trials import TEXT, VIDEO, cache, config, rows
from tests.reliability.conftest import Report
from tests.reliability.scenes import SEED, temporaries
from tests.reliability.slurm_machine import ask, ended, lacking, slurm
from unialign.cache.verify import verify_store
from unialign.pipeline.ablation.grid import Grid
from unialign.pipeline.ablation.sweep import sweep
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.extraction import clusters

__all__ = ["cache", "config"]

pytestmark = [
    pytest.mark.skipif(os.environ.get("SLURM") != "full", reason="a lane of its own: make slurm"),
    pytest.mark.skipif(bool(lacking()), reason=f"SLURM is not installed: {', '.join(lacking())}"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def queue() -> Iterator[Path]:
    """SLURM's configuration, while it runs."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm(Path(folder)) as config:
        os.environ["SLURM_CONF"] = str(config)
        yield config
        del os.environ["SLURM_CONF"]


def jobs_of(walltime: str) -> Any:
    """Jobs of one core, in Dask's configuration."""
    # Its defaults come with it; set before, they would be gone at the end.
    pytest.importorskip("dask_jobqueue")
    options = {"walltime": walltime, "cores": 1, "memory": "2GB", "interface": "lo"}
    return dask.config.set({f"jobqueue.slurm.{name}": value for name, value in options.items()})


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_workers_whose_walltime_ends_hand_their_shards_on(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    monkeypatch.chdir(tmp_path)
    # Of a walltime of one minute, workers use 25 seconds; all shards take two jobs 60 seconds.
    monkeypatch.setattr(clusters, "LEAVES_BEFORE", 35)
    monkeypatch.setattr(clusters, "STAGGER", 4)
    (tmp_path / "calls").mkdir()
    sources = make_files(tmp_path / "files", 80)
    reference = extract(tmp_path / "serial", sources)
    extractor = Spectrum(pause=1.5, calls=tmp_path / "calls")
    with jobs_of("00:01:00"):
        done = extract(tmp_path / "jobs", sources, extractor, cluster="slurm:2", threads=1)
    calls = Counter(path.name.split("-")[0] for path in (tmp_path / "calls").iterdir())
    jobs = ask(queue, "squeue", "-h", "-t", "all", "-o", "%i %T").splitlines()
    assert tree_digest(done.store) == tree_digest(reference.store)
    assert len(calls) == 80
    assert len(jobs) >= 4, f"nobody took over from the first two jobs: {jobs}"
    assert not any("TIMEOUT" in job for job in jobs)
    report("R41", cluster="slurm:2", jobs=len(jobs), samples=80, extracted_twice=sum(calls.values()) - 80)


@pytest.mark.usefixtures("fork_server")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_sweep_of_training_runs_gives_the_same_numbers(
    queue: Path, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = Grid(name="g", rows=rows(video=VIDEO, text=TEXT), seeds=(0, 1))
    here, _ = sweep(grid, with_values(config, {"runs": tmp_path / "here"}))
    with jobs_of("00:10:00"):
        there, _ = sweep(grid, with_values(config, {"runs": tmp_path / "there"}), cluster="slurm:2")
    assert [result.metrics for result in here.results] == [result.metrics for result in there.results]
    report("R41", ablate="slurm:2", training_runs=len(there.results), different_results=0)


ROOT = Path(__file__).resolve().parents[2]
# What is extracted are made files; the dataset only gives the command something to read.
COMMAND = (
    "{python} -m tests.reliability.program cli {files} {pause} extract frames --dataset folder --root {data} "
    "--cache {cache} --shard-samples 4 --quiet"
)


def test_an_array_of_joining_jobs_survives_cancelled_and_requeued_ones(
    queue: Path, tmp_path: Path, report: Report
) -> None:
    cache, data, files = tmp_path / "cache", tmp_path / "data", tmp_path / "files"
    for name in ("wave", "jump"):
        (data / name).mkdir(parents=True)
        (data / name / "one.mp4").touch()
    make_files(files, 120)
    words = {"python": sys.executable, "files": files, "data": data}
    alone = COMMAND.format(**words, pause=0, cache=tmp_path / "reference").split()
    subprocess.run(alone, cwd=ROOT, check=True, timeout=120)
    script = tmp_path / "array.sh"
    script.write_text(f"#!/bin/bash\ncd {ROOT}\nexec {COMMAND.format(**words, pause=0.3, cache=cache)} --join\n")
    said = ask(queue, "sbatch", "--array=0-3", "--requeue", "-o", f"{tmp_path}/out-%a.txt", str(script))
    job = said.split()[-1]
    deadline = time.monotonic() + 60
    while not list(cache.glob("*/poses/*/records/0*.json")):
        assert time.monotonic() < deadline, "\n".join(path.read_text() for path in tmp_path.glob("out-*.txt"))
        time.sleep(0.2)
    moments = random.Random(SEED)
    victims = moments.sample(range(4), 3)
    ask(queue, "scancel", "--signal=KILL", "--full", f"{job}_{victims[0]}")
    ask(queue, "scontrol", "requeue", f"{job}_{victims[1]}")
    time.sleep(moments.uniform(0.5, 2))
    ask(queue, "scancel", f"{job}_{victims[2]}")
    assert ended(queue, job, 300), "\n".join(path.read_text() for path in tmp_path.glob("out-*.txt"))
    (store,) = cache.glob("*/poses/*.zarr")
    assert tree_digest(store) == tree_digest(tmp_path / "reference" / store.relative_to(cache))
    assert verify_store(store) == []
    assert not temporaries(cache)
    report("R41", array="4 jobs with --join", killed=1, requeued=1, cancelled=1, different_stores=0)
