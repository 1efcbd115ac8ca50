"""Contract of counting cores: what a process may use (affinity, quota of its control groups), and what is idle."""

import math
import os
from pathlib import Path

import pytest

from unialign.cache import cores
from unialign.pipeline.extraction.hardware import network_threads


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/job\n", {"job/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/job/step\n", {"job/cpu.max": "200000 100000\n", "job/step/cpu.max": "max 100000\n"}, 2.0),
        ("0::/job\n", {"cpu.max": "50000 100000\n", "job/cpu.max": "400000 100000\n"}, 0.5),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "1e5"}, math.inf),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("5:memory:/a\n", {"memory/a/cpu.max": "100000 100000\n"}, math.inf),
        ("0::/gone\n", {}, math.inf),
    ],
)
def test_the_quota_of_control_groups_counts(tmp_path: Path, lines: str, files: dict[str, str], expected: float) -> None:
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "cgroup").write_text(lines)
    found = cores.cpu_quota(tmp_path / "cgroup", tmp_path / "groups")
    assert found == expected


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cores.cpu_quota(tmp_path / "none", tmp_path) == math.inf


def test_a_quota_below_the_affinity_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr(cores, "_quota_of", lambda process: 2.5)
    assert cores.usable_cores() == 3
    monkeypatch.setattr(cores, "_quota_of", lambda process: math.inf)
    assert cores.usable_cores() == 16


@pytest.mark.parametrize(
    ("idle", "expected"), [((100, 100, 100, 100), 4), ((100, 0, 60, 0), 2), ((0, 0, 0, 0), 1), ((10, 10, 10, 10), 1)]
)
def test_busy_cores_are_not_free(monkeypatch: pytest.MonkeyPatch, idle: tuple[int, ...], expected: int) -> None:
    readings = iter([dict.fromkeys(range(4), (0, 0)), {core: (each, 100) for core, each in enumerate(idle)}])
    monkeypatch.setattr(cores, "idle_times", lambda stat: next(readings))
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    assert cores.free_cores(0) == expected


def test_control_groups_are_read_once_in_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`threads.spread` asks for every batch; a fork may be in another group."""
    reads = []
    monkeypatch.setattr(cores, "cpu_quota", lambda *files: reads.append(os.getpid()) or 1.5)
    cores._quota_of.cache_clear()
    assert {cores.usable_cores() for _ in range(5)} <= {1, 2}
    assert len(reads) == 1
    monkeypatch.setattr(os, "getpid", lambda: -1)
    cores.usable_cores()
    assert len(reads) == 2
    cores._quota_of.cache_clear()


def test_where_nothing_is_measured_all_usable_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cores, "idle_times", lambda stat: {})
    assert cores.free_cores(0) == cores.usable_cores()
    monkeypatch.undo()
    assert cores.idle_times(tmp_path / "none") == {}


def test_only_cores_of_the_affinity_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9\ncpu0 1 2 3 40 5 6 7 8 0 0\ncpu1 0 0 0 7 0 0 0 0 0 0\nintr 5\n"
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert cores.idle_times(tmp_path / "stat") == {0: (45, 72)}


@pytest.mark.parametrize(
    ("cluster", "usable", "expected"),
    [
        *(("", 1, 1), ("", 2, 2), ("", 64, 4), ("tcp://host:8786", 64, 4)),
        *(("local:16", 64, 4), ("local:4", 8, 2), ("local:8", 4, 1), ("local", 64, 1), ("local:0", 8, 1)),
    ],
)
def test_default_threads_of_networks_follow_from_cores_and_workers_not_from_the_load(
    cluster: str, usable: int, expected: int
) -> None:
    assert network_threads(cluster, usable) == expected
