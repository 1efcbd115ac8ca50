"""Contract with other packages: one that is installed beside unialign brings a dataset, an extractor, a system and an
encoder, and each runs through the command line as if it were part of the program.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forked_command import run_forked

pytestmark = pytest.mark.usefixtures("fork_server")

PACKAGE = Path(__file__).parent / "third_party"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as an installer leaves it, built from its source without a network."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run(
        [*command, "--python", sys.executable, "--target", str(folder), "--no-cache", str(PACKAGE)],
        check=True,
        timeout=120,
    )
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Twelve signals of two classes."""
    (tmp_path / "signals").mkdir()
    for number in range(12):
        rate = (1, 3)[number % 2]
        lines = [f"{math.sin(rate * step + number):.6f}" for step in range(16)]
        (tmp_path / "signals" / f"{('slow', 'fast')[number % 2]}_{number:02d}.txt").write_text("\n".join(lines))
    return tmp_path


def run(site: Path, work: Path, *words: str, code: int = 0) -> str:
    """A command in a new interpreter with the package on its path; its standard output."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNIALIGN_")}
    done = subprocess.run(
        [sys.executable, "-m", "unialign.cli", *words],
        cwd=work,
        env={**clean, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def asked(site: Path, work: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """What a command prints with --json."""
    return run_forked(*words, cwd=work, code=code, site=site)


DATA = ("--dataset", "lab-signals", "--root", "signals")


def test_its_extractor_runs_on_its_dataset(site: Path, work: Path) -> None:
    # By a new interpreter, which has to find the package by itself.
    said = run(site, work, "extract", "lab-rhythm", *DATA, "--bands", "6", "--no-centred", "--json")
    first = json.loads(said.splitlines()[-1])
    assert (first["modality"], first["extracted"], first["dataset"]["classes"]) == (
        "rhythm",
        12,
        {"fast": 6, "slow": 6},
    )
    assert asked(site, work, "extract", "lab-rhythm", *DATA, "--bands", "6", "--no-centred")["extracted"] == 0
    (work / "signals" / "fast_01.txt").write_text("1\n2\nthree\n")
    again = asked(site, work, "extract", "lab-rhythm", *DATA, "--bands", "6", "--no-centred", code=3)
    assert (again["attempted"], again["quarantined"], again["key"]) == (1, {"unreadable": 1}, first["key"])
    # The same by a configuration; on workers of Dask, which import the plug-in themselves.
    (work / "unialign.yaml").write_text("extract: {lab_rhythm: {bands: 6, centred: false}}\n")
    words = ("extract", "lab-rhythm", *DATA, "--cluster", "local:1", "--cache", "other")
    assert asked(site, work, *words, code=3)["key"] == first["key"]
    assert asked(site, work, "cache", "verify")["ok"]


def test_its_flags_are_in_the_help_and_are_checked(site: Path, work: Path) -> None:
    listed = " ".join(run(site, work, "extract", "--help").split())
    assert "lab-rhythm From unialign-lab 1.2." in listed
    shown = " ".join(run(site, work, "extract", "lab-rhythm", "--help").split())
    assert "The rhythm of signals." in shown
    assert "Frequencies that are kept. Default: 4." in shown
    wrong = asked(site, work, "extract", "lab-rhythm", *DATA, "--bands", "0", code=2)
    assert "extract.lab_rhythm: bands: input should be greater than or equal to 1" in wrong["error"]
    wrong = asked(site, work, "extract", "lab-rhythm", *DATA, "extract.lab_rhythm.band=3", code=2)
    assert "known here: bands, scale, centred" in wrong["error"]


def test_its_system_learns_from_what_its_extractor_made(site: Path, work: Path) -> None:
    asked(site, work, "extract", "lab-rhythm", *DATA)
    words = ("train", "--cached", *DATA, "--model", "lab-linear", "train.settings.epochs=40", "train.settings.lr=0.1")
    trained = asked(site, work, *words, "train.settings.batch_size=8", "train.settings.device=cpu")
    assert (trained["model"], trained["metrics"]["top1"]) == ("lab-linear", 1.0)
    assert asked(site, work, "evaluate", trained["folder"])["metrics"]["top1"] == 1.0
    # A signal that changed is noticed by what the extractor's row says of its files.
    (work / "signals" / "slow_00.txt").write_text("1\n2\n")
    stale = asked(site, work, *words, code=4)
    assert "run `unialign extract rhythm" in stale["error"] or "unialign extract lab-rhythm" in stale["error"]


def test_its_settings_are_in_the_configuration(site: Path, work: Path) -> None:
    found = asked(site, work, "config", "show", "train.lab_linear.dropout=0.25", "--model", "lab-linear")["config"]
    assert (found["train"]["model"], found["train"]["lab_linear"]["dropout"]) == ("lab-linear", 0.25)


def test_doctor_names_the_plugin_that_cannot_be_used(site: Path, work: Path) -> None:
    checks = {each["check"]: each for each in asked(site, work, "doctor")["checks"]}
    assert not checks["plug-ins"]["ok"]
    assert "'lab-broken' of unialign.encoders" in checks["plug-ins"]["advice"]


def test_its_encoder_embeds_texts_and_the_broken_one_is_named(site: Path, work: Path) -> None:
    done = asked(site, work, "extract", "text", *DATA, "--encoder", "lab-letters", "--templates", "plain")
    assert Path(done["store"]).name.startswith("lab-letters-")
    key = json.loads((Path(done["store"]) / "zarr.json").read_text())["attributes"]
    assert '"libraries": {"unialign-lab": "1.2"}' in json.dumps(key)
    broken = asked(site, work, "extract", "text", *DATA, "--encoder", "lab-broken", code=2)
    assert broken["error"].startswith(
        "entry point 'lab-broken' of unialign.encoders (unialign_lab.broken:ROW) from unialign-lab 1.2 cannot be "
        "loaded: ModuleNotFoundError: No module named 'a_library_that_nobody_has'"
    )
    unknown = asked(site, work, "extract", "text", *DATA, "--encoder", "none", code=2)
    assert "lab-broken, lab-letters" in unknown["error"]
