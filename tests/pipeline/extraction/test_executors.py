"""Contract of the executors: whatever runs the units, the store is the same bytes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract, make_files
from unialign.cache.reader import StoreReader
from unialign.errors import UsageError
from unialign.pipeline.extraction import executors
from unialign.stages.extraction.base import Outcome, Source


def test_two_dask_workers_write_the_same_bytes_as_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The scheduler knows of two of the six units at a time.
    monkeypatch.setattr(executors, "LEAST_WINDOW", 1)
    monkeypatch.setattr(executors, "UNITS_PER_THREAD", 1)
    sources = make_files(tmp_path / "files", 22, bad=(3,))
    serial = extract(tmp_path / "serial", sources)
    parallel = extract(tmp_path / "dask", sources, cluster="local:2")
    assert serial.quarantined == parallel.quarantined == {"truncated": 1}
    assert tree_digest(serial.store) == tree_digest(parallel.store)


def test_a_scheduler_elsewhere_does_the_same(tmp_path: Path) -> None:
    from distributed import LocalCluster

    sources = make_files(tmp_path / "files", 9)
    serial = extract(tmp_path / "serial", sources)
    with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        remote = extract(tmp_path / "remote", sources, cluster=cluster.scheduler_address)
    assert tree_digest(serial.store) == tree_digest(remote.store)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the killed worker's pipes
def test_a_killed_workers_shard_is_done_by_another(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 20)
    serial = extract(tmp_path / "serial", sources)
    calls = tmp_path / "calls"
    calls.mkdir()
    (calls / "armed").touch()
    killed = extract(tmp_path / "dask", sources, Spectrum(calls=calls, killer="clip009"), cluster="local:2")
    assert not (calls / "armed").exists()
    assert killed.extracted == 20
    assert tree_digest(serial.store) == tree_digest(killed.store)


def test_an_extraction_leaves_the_threads_of_its_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)

    class Looking(Spectrum):
        def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
            found = (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"])
            assert not sources or found == (2, "2", "2")
            return super().run(sources)

    assert extract(tmp_path / "cache", make_files(tmp_path / "files", 5), Looking(), threads=2).quarantined == {}
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (1, "1")
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_bad_samples_cost_themselves_on_dask_workers_too(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 20, deeds={2: "segfault", 3: "raise"})
    serial = extract(tmp_path / "serial", sources)
    parallel = extract(tmp_path / "dask", sources, cluster="local:2")
    assert serial.problems == parallel.problems
    assert [status for _, status, _ in serial.problems] == ["crashed", "internal-error"]
    assert tree_digest(serial.store) == tree_digest(parallel.store)


def test_a_sample_whose_arrays_do_not_fit_the_store_is_a_defect_of_that_sample(tmp_path: Path) -> None:
    class TooLong(Spectrum):
        def outcome(self, source: Source) -> Outcome:
            found = super().outcome(source)
            extra = {"rows": np.zeros((65, 4), "float16")} if source.id == "clip002" else {}
            return replace(found, arrays={**found.arrays, **extra})

    done = extract(tmp_path / "cache", make_files(tmp_path / "files", 6), TooLong())
    assert done.problems == (
        ("clip002", "internal-error", "ValueError: array rows: shape (65, 4) given, (64, 4) declared"),
    )
    assert len(StoreReader(done.store).ids) == 5


@pytest.mark.parametrize("cluster", ["remote", "local:two", "local:0", "local:00", "local:²", "tcp:8786"])
def test_an_unknown_cluster_is_one_clear_error(tmp_path: Path, cluster: str) -> None:
    with pytest.raises(UsageError, match="local:N"):
        extract(tmp_path / "cache", make_files(tmp_path / "files", 2), cluster=cluster)
