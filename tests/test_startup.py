"""Contract of start-up: a command loads what it needs and nothing else. Figures: benchmarks/startup.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "zarr", "numba", "scipy", "timm", "torchvision", "tensorboard", "matplotlib", "av", "dask", "h5py"}


def imported(*words: str | Path, cwd: Path, code: int = 0) -> set[str]:
    """The packages that a command has imported when it ends."""
    command = [sys.executable, "-X", "importtime", "-m", "unialign.cli", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code, done.stderr[-2000:]
    names = set(re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "unialign.console" in names
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "words",
    [("--help",), ("--version",), ("train", "--help"), ("extract", "poses", "--help"), ("cache", "export", "--help")],
)
def test_help_loads_neither_arrays_nor_networks(words: tuple[str, ...], tmp_path: Path) -> None:
    assert not imported(*words, cwd=tmp_path) & (HEAVY | {"numpy"})


@pytest.mark.parametrize("words", [("train", "lerning_rate=1"), ("extract", "poses", "extract.poses.confidnce=1")])
def test_a_wrong_key_is_found_before_anything_is_loaded(words: tuple[str, ...], tmp_path: Path) -> None:
    assert not imported(*words, cwd=tmp_path, code=2) & (HEAVY | {"numpy"})


def test_listing_a_cache_loads_no_network_library(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    assert not imported("cache", "ls", cwd=tmp_path) & (HEAVY - {"zarr"})


RUNS = Path(__file__).parent / "earlier_version" / "runs"
(RUN,) = RUNS.glob("*-*")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("runs", "ls", "--runs", RUNS), 0),
        (("results", RUNS), 0),
        (("why", RUN, RUN), 0),
        (("cache", "prune", "--dry-run", "--runs", RUNS), 0),
        (("evaluate", "a-run-that-is-not-there"), 4),
    ],
)
def test_what_only_reads_run_folders_loads_no_network_library(
    words: tuple[str | Path, ...], code: int, tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    assert not imported(*words, cwd=tmp_path, code=code) & {"torch", "timm", "matplotlib", "av", "dask", "numba"}
