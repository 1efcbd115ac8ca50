"""Contract with what exists: stores and runs of an earlier version open, verify, evaluate and are reused."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import unialign as ua
from tests.forked_command import run_forked

WRITTEN = Path(__file__).parent / "earlier_version"
pytestmark = pytest.mark.usefixtures("fork_server")

RUN = "tiny-alt-c180f7a5f954"
KEYS = {
    "frames": "made-48158c28db2b",
    "poses": "pyskl-2bde23d17d6c",
    "text": "made-480447d34a12",
    "tokens": "made-f6085f520c5b",
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A copy of the working folder of then."""
    return shutil.copytree(WRITTEN, tmp_path / "work")


def run(work: Path, *words: str) -> dict[str, Any]:
    return run_forked(*words, cwd=work)


def bytes_below(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder but locks and the memory of source digests."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in (".locks", ".digests")
    }


def test_the_stores_open_and_verify(work: Path) -> None:
    found = {Path(store.where).parent.name: store for store in ua.list_stores(work / "cache")}
    assert {modality: Path(store.where).stem for modality, store in found.items()} == KEYS
    assert {modality: len(store) for modality, store in found.items()} == {
        "frames": 64,
        "tokens": 64,
        "poses": 12,
        "text": 17,
    }
    assert found["poses"]["clip07"]["keypoints"].shape == (8, 1, 17, 3)
    assert found["tokens"]["clip007"]["tokens"].shape == (1, 2, 5, 8)
    assert run(work, "cache", "verify") == {"ok": True, "damaged": [], "stores": 4}
    listed = run(work, "cache", "ls")
    assert sorted(Path(store["path"]).stem for store in listed["stores"]) == sorted(KEYS.values())


def test_extracting_again_finds_the_store_and_changes_no_byte(work: Path) -> None:
    before = bytes_below(work / "cache")
    words = ("extract", "poses", "--dataset", "pyskl", "--root", "moves.pkl", "--labels", "names.txt")
    again = run(work, *words)
    assert (again["extracted"], again["reused"], again["total"]) == (0, 12, 12)
    assert Path(again["store"]).stem == KEYS["poses"]
    assert {name: before[name] for name in before if "/datasets/" not in name} == {
        name: digest for name, digest in bytes_below(work / "cache").items() if "/datasets/" not in name
    }
    elsewhere = run(work, *words, "--cache", "other")
    assert (elsewhere["extracted"], elsewhere["key"]) == (12, again["key"])
    old, new = Path(again["store"]), Path(elsewhere["store"])
    # What computed a shard is part of its record, and may be another processor than then.
    assert {name: digest for name, digest in bytes_below(old).items() if "records" not in name} == {
        name: digest for name, digest in bytes_below(new).items() if "records" not in name
    }


def test_the_run_is_reused_and_evaluates_to_its_result(work: Path) -> None:
    before = bytes_below(work / "runs")
    trained = run(work, "train", "--cached", "--dataset", "tiny")
    assert (trained["key"][:12], trained["reused"], trained["extracted"]) == (RUN[-12:], True, 0)
    said = json.loads((work / "runs" / RUN / "result.json").read_text())
    assert trained["metrics"] == said["metrics"]
    for words in ((), ("--best",)):
        measured = run(work, "evaluate", f"runs/{RUN}", *words)
        expected = said["best"]["test"] if words else said["metrics"]
        assert measured["metrics"] == pytest.approx({name: expected[name] for name in measured["metrics"]}, abs=1e-6)
    assert {name: digest for name, digest in bytes_below(work / "runs").items() if name in before} == before


def test_training_again_gives_the_same_key_and_the_same_losses(work: Path) -> None:
    def losses(name: str) -> list[float]:
        with (work / "runs" / name / "metrics.csv").open() as file:
            return [float(row["loss"]) for row in csv.DictReader(file)]

    before = losses(RUN)
    shutil.rmtree(work / "runs")
    name = run(work, "train", "--cached", "--dataset", "tiny")["run"]
    # New folders have a longer name; the key is the same.
    assert name.rpartition("-")[2] == RUN.rpartition("-")[2]
    assert losses(name) == pytest.approx(before, rel=1e-3)
