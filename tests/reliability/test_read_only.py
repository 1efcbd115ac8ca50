"""R26: a cache, a package and a home that cannot be written (shared cluster storage) are as good as others for reading.

The commands run in a process without root's rights over files; see `tests.unprivileged`.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import unprivileged
from tests.made_extractor import extract, make_files
from tests.made_stores import frames_store, made_dataset, poses_store, text_store
from tests.reliability.conftest import Report
from unialign.pipeline.manifest import save_manifest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = """
import json, os, sys, warnings
from pathlib import Path
from unialign import __file__ as package
assert not os.access(package, os.W_OK) and not os.access(Path(package).parent / "cache", os.W_OK), package
from unialign.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["unialign", *words, "--json"]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    print("code", code, flush=True)
"""
EXTRACTION = """
import sys
from pathlib import Path
from tests.made_extractor import extract, make_files
number, cache, files = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
done = extract(cache, make_files(files, number))
print(done.reused, done.extracted)
"""
SMALL = (
    "train.unialign.backbone=tsm-resnet10",
    "train.unialign.num_frames=2",
    "train.unialign.image_size=16",
    "train.unialign.width=16",
    "train.unialign.modalities=[video, text]",
    "train.settings.epochs=1",
    "train.settings.device=cpu",
)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A cache of three modalities, a finished run, and a copy of the package."""
    dataset, cache = made_dataset(), tmp_path / "cache"
    frames_store(cache, dataset)
    poses_store(cache, dataset)
    text_store(cache)
    save_manifest(dataset, cache)
    shutil.copytree(ROOT / "unialign", tmp_path / "site" / "unialign", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run_commands(work: Path, *commands: tuple[str, ...]) -> list[dict[str, Any]]:
    """The objects of some commands, in one process that cannot write into cache and package."""
    path = f"{work / 'site'}:{ROOT}"
    out = unprivileged.run(COMMANDS, json.dumps(commands), cwd=work, PYTHONPATH=path).splitlines()
    codes, objects = [line for line in out if line.startswith("code ")], [line for line in out if line.startswith("{")]
    assert len(codes) == len(objects) == len(commands), out
    return [{**json.loads(found), "code": int(code[5:])} for code, found in zip(codes, objects, strict=True)]


def test_everything_that_reads_works_on_a_read_only_cache_and_package(work: Path, report: Report) -> None:
    before = sorted(path for path in work.rglob("*") if "__pycache__" not in path.parts)
    for folder in ("cache", "site"):
        unprivileged.forbid(work / folder)
    common = ("--cache", "cache")
    training = ("train", "--dataset", "tiny", *common, "--runs", "runs", *SMALL)
    try:
        found = run_commands(
            work,
            ("cache", "ls", *common),
            ("cache", "info", "made/poses", *common),
            ("cache", "du", *common),
            ("cache", "verify", *common),
            ("cache", "why", "made/poses", "made/text", *common),
            training,
            training,
            ("cache", "prune", "--dry-run", "--runs", "runs", *common),
        )
        assert [each["code"] for each in found] == [0] * len(found), found
        assert [each["reused"] for each in found[5:7]] == [False, True]
        unprivileged.forbid(work / "runs")
        again = run_commands(
            work,
            training,
            ("evaluate", found[5]["folder"], *common),
            (*training, "--seed", "1"),
            ("cache", "prune", "--runs", "runs", *common),
        )
        assert [each["code"] for each in again] == [0, 0, 1, 1], again
        assert (again[0]["reused"], again[1]["agrees"], again[1]["pictures"]) == (True, True, [])
        for each in again[2:]:
            assert re.search(r"permission denied to .*chmod -R g\+rwX", each["error"]), each
    finally:
        for folder in ("cache", "site", "runs"):
            unprivileged.allow(work / folder)
    after = sorted(path for path in work.rglob("*") if "runs" not in path.parts)
    assert after == [path for path in before if path.exists()]
    report("R26", commands=len(found) + len(again), writes_outside_the_runs=0)


@pytest.mark.parametrize("left", ["nothing", "locks", "a temporary"])
def test_an_extraction_with_nothing_to_do_needs_no_right_to_write(tmp_path: Path, left: str) -> None:
    cache, files = tmp_path / "cache", tmp_path / "files"
    store = extract(cache, make_files(files, 6)).store
    if left != "locks":
        shutil.rmtree(cache / ".locks")
        shutil.rmtree(cache / ".digests")
    if left == "a temporary":
        (store / "rows" / "c" / ".tmp-0123456789abcdef-0").write_bytes(b"left by a killed writer")
    unprivileged.forbid(cache)
    try:
        assert unprivileged.run(EXTRACTION, "6", cache, files, cwd=tmp_path) == "6 0\n"
        with pytest.raises(AssertionError, match="PermissionError"):
            unprivileged.run(EXTRACTION, "7", cache, files, cwd=tmp_path)
    finally:
        unprivileged.allow(cache)
    assert extract(cache, make_files(files, 7)).reused == 6


def test_damage_of_a_read_only_cache_is_seen(tmp_path: Path) -> None:
    cache, files = tmp_path / "cache", tmp_path / "files"
    store = extract(cache, make_files(files, 6)).store
    next((store / "rows" / "c").rglob("0/0/0")).unlink()
    unprivileged.forbid(cache)
    try:
        with pytest.raises(AssertionError, match="DamagedStore"):
            unprivileged.run(EXTRACTION, "6", cache, files, cwd=tmp_path)
    finally:
        unprivileged.allow(cache)


def test_meta_a_lock_that_must_be_written_is_caught(tmp_path: Path) -> None:
    cache, files = tmp_path / "cache", tmp_path / "files"
    extract(cache, make_files(files, 6))
    strict = "import unialign.pipeline.extraction.extract as e; e.is_refused = lambda error: False\n"
    shutil.rmtree(cache / ".locks")
    unprivileged.forbid(cache)
    try:
        with pytest.raises(AssertionError, match="PermissionError"):
            unprivileged.run(strict + EXTRACTION, "6", cache, files, cwd=tmp_path)
    finally:
        unprivileged.allow(cache)
