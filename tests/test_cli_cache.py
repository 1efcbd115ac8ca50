"""`unialign cache ...` as a user meets it: each verb as a real process, its object, its refusals."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.cache.test_store import tree_digest
from tests.made_stores import COLLECTION, frames_store, made_dataset, poses_store
from tests.test_cli import run
from unialign.cache.inventory import iterate_stores
from unialign.cache.reader import StoreReader
from unialign.cli import app
from unialign.errors import UnialignError
from unialign.pipeline.exchange.hdf5_export import export_hdf5
from unialign.pipeline.manifest import save_manifest

VERBS = ("ls", "info", "du", "verify", "why", "export", "import", "prune")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder whose cache holds poses and frames of a made-up dataset."""
    dataset = made_dataset()
    poses_store(tmp_path / "cache", dataset, failed=["clip003"])
    frames_store(tmp_path / "cache", dataset)
    save_manifest(dataset, tmp_path / "cache")
    return tmp_path


def store_of(work: Path, modality: str, cache: str = "cache") -> Path:
    return next((work / cache / COLLECTION / modality).iterdir())


def test_a_store_travels_as_hdf5(work: Path) -> None:
    made = run("cache", "export", f"{COLLECTION}/poses", "poses.h5", cwd=work)
    assert (made["format"], made["modality"], made["samples"]) == ("hdf5", "poses", 19)
    assert (made["quarantined"], made["not_held"]) == ({"unreadable": 1}, [])
    assert made["bytes"] == (work / "poses.h5").stat().st_size
    with h5py.File(work / "poses.h5") as file:
        assert len(file["samples/id"]) == 19
    back = run("cache", "import", "poses.h5", "--cache", "other", cwd=work)
    assert (back["samples"], back["quarantined"], back["reused"]) == (19, {"unreadable": 1}, False)
    assert Path(back["store"]) == store_of(work, "poses", "other")
    assert tree_digest(Path(back["store"])) == tree_digest(store_of(work, "poses"))
    assert run("cache", "import", "poses.h5", "--cache", "other", cwd=work)["reused"]


def test_the_documented_lines_read_a_sample_with_h5py_alone(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_hdf5(store_of(work, "poses"), work / "poses.h5")
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    monkeypatch.chdir(work)
    found: dict[str, Any] = {"h5py": h5py}
    exec(page.split("```python\n")[1].split("```")[0], found)
    for name, value in StoreReader(store_of(work, "poses")).read_one("clip000").items():
        np.testing.assert_array_equal(found[name], value)


def test_poses_travel_as_a_pyskl_pickle(work: Path) -> None:
    made = run("cache", "export", f"{COLLECTION}/poses", "poses.pkl", "--dataset", "tiny", cwd=work)
    assert (made["format"], made["samples"]) == ("pyskl", 19)
    assert "1 sample quarantined as unreadable" in made["not_held"]
    own = run("cache", "import", "poses.pkl", "--cache", "other", cwd=work)
    assert (own["samples"], own["quarantined"], own["extracted"]) == (19, {}, 19)
    assert Path(own["store"]).parts[-3] == "pyskl-poses"
    of_tiny = run("cache", "import", "poses.pkl", "--dataset", "tiny", cwd=work, code=3)
    assert (of_tiny["samples"], of_tiny["quarantined"]) == (19, {"missing-file": 1})
    assert Path(of_tiny["store"]).parts[-3] == COLLECTION
    first = StoreReader(store_of(work, "poses"))
    for path in (own["store"], of_tiny["store"]):
        second = StoreReader(Path(path))
        assert second.ids == first.ids
        for name in first.ids:
            left, right = first.read_one(name), second.read_one(name)
            for array in left:
                np.testing.assert_array_equal(left[array], right[array])


def test_du_counts_what_is_there(work: Path) -> None:
    found = run("cache", "du", cwd=work)
    files = [path for path in (work / "cache").rglob("*") if path.is_file()]
    assert found["bytes"] == sum(path.stat().st_size for path in files)
    assert found["on_disk"] == sum(path.stat().st_blocks * 512 for path in files)
    assert [(store["modality"], store["shards"]) for store in found["stores"]] == [("frames", 3), ("poses", 3)]


def test_prune_removes_what_no_run_names(work: Path) -> None:
    (work / "runs" / "one").mkdir(parents=True)
    poses = StoreReader(store_of(work, "poses")).store
    (work / "runs" / "one" / "keys.json").write_text(json.dumps({"poses": {"key": poses.key.digest}}))
    before = tree_digest(work / "cache")
    planned = run("cache", "prune", "--dry-run", cwd=work)
    assert tree_digest(work / "cache") == before
    done = run("cache", "prune", cwd=work)
    assert [store["modality"] for store in done["removed"]] == ["frames"]
    assert done == {**planned, "dry_run": False}
    assert done["bytes"] > 0
    assert list(iterate_stores(work / "cache")) == [poses.path]


def test_an_empty_or_absent_cache_is_said_instead_of_an_empty_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unialign", "cache", "ls", "--cache"]
    (tmp_path / "empty").mkdir()
    for name, sentence in (("empty", "no stores in"), ("absent", "there is no folder")):
        done = subprocess.run([*command, name], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True)
        assert sentence in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("export", f"{COLLECTION}/poses", "poses.zip"), 2, "the extension decides the format; known are .h5"),
        (("export", f"{COLLECTION}/poses", "there.h5"), 2, "there.h5 exists"),
        (("export", "nothing", "new.h5"), 4, "no store in"),
        (("export", f"{COLLECTION}/poses", "new.pkl"), 2, "no dataset is configured"),
        (("export", f"{COLLECTION}/poses", "new.pkl", "--dataset", "other"), 4, "nothing of dataset other"),
        (("export", f"{COLLECTION}/frames", "new.pkl", "--dataset", "tiny"), 2, "holds poses, and these are frames"),
        (("import", "none.h5"), 2, "none.h5 is not a file"),
        (("import", "there.h5"), 1, "there.h5: is no export of a store"),
        (("import", "there.PKL"), 2, "there.PKL"),
        (("import", "none.pkl"), 2, "none.pkl is not a file"),
        (("prune",), 2, "is not a folder of runs"),
    ],
)
def test_a_refusal_is_one_sentence_and_writes_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, sentence: str
) -> None:
    monkeypatch.chdir(work)
    monkeypatch.delenv("UNIALIGN_DATA", raising=False)
    monkeypatch.delenv("UNIALIGN_CACHE", raising=False)
    (work / "there.h5").write_text("not HDF5")
    (work / "there.PKL").write_text("no pickle")
    before = tree_digest(work)
    # In this process, since a new one for each takes seconds; `test_cli.py` holds the entry point to the exit codes.
    found = CliRunner().invoke(app, ["cache", *words, "--json"])
    assert isinstance(found.exception, UnialignError), found.output
    assert found.exception.exit_code == code
    assert sentence in str(found.exception)
    assert "\n" not in str(found.exception)
    assert tree_digest(work) == before


def test_a_damaged_store_and_another_one_of_the_same_key_are_refused(work: Path) -> None:
    export_hdf5(store_of(work, "poses"), work / "poses.h5")
    shard = next(path for path in (store_of(work, "poses") / "frame_size" / "c").rglob("*") if path.is_file())
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])
    found = run("cache", "export", f"{COLLECTION}/poses", "again.h5", cwd=work, code=4)
    assert "is not what was written" in found["error"]
    assert "move it away" in run("cache", "import", "poses.h5", cwd=work, code=2)["error"]
    assert not (work / "again.h5").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_json_and_an_example(verb: str) -> None:
    shown = CliRunner().invoke(app, ["cache", verb, "--help"])
    assert shown.exit_code == 0
    assert "--json" in shown.output
    assert f"Example: unialign cache {verb}" in " ".join(shown.output.split())


def test_people_get_tables_and_what_is_not_held(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    (work / "runs").mkdir()
    for words, expected in (
        (("du",), ("poses/made-", "keypoints", "(records)", "100.0 %")),
        (("export", f"{COLLECTION}/poses", "p.pkl", "--dataset", "tiny"), ("19", "1 unreadable", "not held by the")),
        (("prune", "--dry-run"), ("would be removed", "frames", "0 stores kept")),
    ):
        shown = CliRunner().invoke(app, ["cache", *words])
        assert shown.exit_code == 0, shown.output
        assert all(text in shown.output for text in expected), shown.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("doctor", "--nope"), "No such option: --nope"),
        (("extract", "frames", "--num-frames", "four"), "--num-frames"),
        (("nonsense",), "No such command"),
    ],
)
def test_wrong_flags_give_an_object_too(words: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "unialign.cli", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = json.loads(done.stdout)
    assert (done.returncode, found["exit_code"]) == (2, 2)
    assert message in found["error"]
    assert re.search(rf"^error: .*{re.escape(message)}", done.stderr, re.MULTILINE)
    assert "--help' for help." in done.stderr
    assert "Traceback" not in done.stderr
