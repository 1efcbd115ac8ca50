"""Where `--cluster` starts its workers: GPUs in turn, jobs of a queue, and what is said if that is impossible."""

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract, make_files
from unialign.errors import UsageError
from unialign.pipeline.config import Config, ExtractSection
from unialign.pipeline.extraction.clusters import CLUSTERS, seconds_of, visible_gpus
from unialign.pipeline.extraction.extractors import settings_for
from unialign.stages.extraction.base import Outcome, Source


class Sighted(Spectrum):
    """Notes the GPU that it sees."""

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        time.sleep(0.2)
        assert self.calls
        (self.calls / os.environ["CUDA_VISIBLE_DEVICES"]).touch()
        return super().run(sources)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_each_process_of_local_cuda_sees_its_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7f")
    assert visible_gpus() == ["3", "GPU-7f"]
    (tmp_path / "calls").mkdir()
    sources, told = make_files(tmp_path / "files", 24), []
    serial = extract(tmp_path / "serial", sources)
    parallel = extract(
        tmp_path / "gpus", sources, Sighted(calls=tmp_path / "calls"), cluster="local-cuda", announce=told.append
    )
    assert tree_digest(serial.store) == tree_digest(parallel.store)
    assert {"3", "GPU-7f"} <= {path.name for path in (tmp_path / "calls").iterdir()}
    assert len(told) == 1
    assert "http://127.0.0.1:" in told[0]


def test_workers_that_share_a_gpu_are_counted_over_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    asked = Config(extract=ExtractSection(cluster="local-cuda", workers_per_gpu=3))
    assert settings_for("poses", asked).cluster == "local-cuda:6"
    for cluster in ("", "local:2", "local-cuda:4"):
        with pytest.raises(UsageError, match="--workers-per-gpu 3 goes with --cluster local-cuda"):
            settings_for("poses", Config(extract=ExtractSection(cluster=cluster, workers_per_gpu=3)))


def test_local_cuda_without_a_gpu_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match="no GPU is visible here"):
        extract(tmp_path / "cache", make_files(tmp_path / "files", 2), cluster="local-cuda:2")


def test_slurm_without_its_library_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(UsageError, match=r"pip install 'unialign\[slurm\]'"):
        extract(tmp_path / "cache", make_files(tmp_path / "files", 2), cluster="slurm:2")


# A queue of one machine: it runs what is submitted at once, each job in a session of its own.
SBATCH = """#!/bin/bash
cp "${@: -1}" "$0.job"
setsid bash "$0.job" > "$0.out" 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
for job in "$@"; do kill -- -"$job" 2> /dev/null; done
exit 0
"""


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_slurm_jobs_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue")
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    sources = make_files(tmp_path / "files", 9)
    serial = extract(tmp_path / "serial", sources)
    jobs = extract(tmp_path / "jobs", sources, cluster="slurm:1", threads=1)
    assert tree_digest(serial.store) == tree_digest(jobs.store)


def test_a_slurm_job_has_what_the_configuration_says_and_works_on_one_unit_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue")
    import dask
    from dask_jobqueue import SLURMCluster

    monkeypatch.chdir(tmp_path)
    scripts: list[str] = []
    monkeypatch.setattr(SLURMCluster, "adapt", lambda self, **_: scripts.append(self.job_script()))
    said = {"cores": 8, "memory": "9GB", "walltime": "02:00:00", "job-script-prologue": ["module load cuda"]}
    more = {"worker-extra-args": ["--death-timeout", "77"], "interface": "lo"}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in (said | more).items()}):
        CLUSTERS["slurm"](3, 4).close()
    (script,) = scripts
    assert "module load cuda\nexport OMP_NUM_THREADS=4" in script
    assert "#SBATCH --cpus-per-task=8" in script
    # The last --nthreads counts.
    assert re.findall(r"--nthreads (\d+)", script)[-1] == "1"
    assert "--death-timeout 77" in script
    assert "--lifetime 6900s" in script


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [("30", 1800), ("90:30", 5430), ("02:30:00", 9000), ("1-02", 93600), ("1-02:30", 95400), ("2-00:00:10", 172810)],
)
def test_walltimes_are_read_as_slurm_does(walltime: str, seconds: int) -> None:
    assert seconds_of(walltime) == seconds


@pytest.mark.parametrize("walltime", ["", "soon", "1:2:3:4", "-5", "1h"])
def test_another_walltime_is_one_clear_error(walltime: str) -> None:
    with pytest.raises(UsageError, match="walltime"):
        seconds_of(walltime)
