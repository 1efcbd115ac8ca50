"""Contract of the executors: whatever runs the units, the store is the same bytes."""

from pathlib import Path

import pytest

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract, make_files
from unialign.cache.errors import UsageError


def test_two_dask_workers_write_the_same_bytes_as_the_loop(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("cluster", ["remote", "local:two", "tcp:8786"])
def test_an_unknown_cluster_is_one_clear_error(tmp_path: Path, cluster: str) -> None:
    with pytest.raises(UsageError, match="local:N"):
        extract(tmp_path / "cache", make_files(tmp_path / "files", 2), cluster=cluster)
