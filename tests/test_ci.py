"""Contract of `.ci/run`: the quick lane runs on every other Python of the machine; what is not there is named."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Stands for make and writes down how it was called; the quick lane of one Python may fail.
MAKE = """#!/bin/sh
echo "$@" >> calls
case "$*" in *"VENV=.venv-$BROKEN"*) exit 2;; esac
"""


def interpreter(path: Path, says: str) -> None:
    """A Python that knows its version only; without one, what pyenv puts on PATH for a version that is not in use."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n" if says else "#!/bin/sh\necho not in use >&2\nexit 127\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").write_text(MAKE)
    (tmp_path / "bin" / "make").chmod(0o755)
    interpreter(tmp_path / ".venv" / "bin" / "python", "3.11")
    return tmp_path


def run(checkout: Path, broken: str = "none") -> tuple[int, str, list[str]]:
    """Exit code, last line, and the calls of make."""
    path = os.pathsep.join([str(checkout / "bin"), "/usr/bin", "/bin"])
    environment = {"PATH": path, "PYENV_ROOT": str(checkout / "pyenv"), "BROKEN": broken}
    done = subprocess.run(
        [checkout / ".ci" / "run"], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.splitlines()[-1], (checkout / "calls").read_text().splitlines()


def test_every_python_found_runs_the_quick_lane_and_the_others_are_named(checkout: Path) -> None:
    for name in ("python3.12", "python3.13"):
        interpreter(checkout / "bin" / name, "")
    interpreter(checkout / "pyenv" / "versions" / "3.12.1" / "bin" / "python", "3.12")
    code, last, calls = run(checkout)
    python = checkout / "pyenv" / "versions" / "3.12.1" / "bin" / "python"
    assert calls == ["check", "docs", "test", "promises", f"quick PYTHON={python} VENV=.venv-3.12"]
    assert (code, last) == (0, "Python passed: 3.11 (all tests), 3.12 (quick lane); failed: none; not found here: 3.13")


def test_pythons_on_the_path_count_too(checkout: Path) -> None:
    for version in ("3.12", "3.13"):
        interpreter(checkout / "bin" / f"python{version}", version)
    code, last, calls = run(checkout)
    assert [call.rpartition("=")[2] for call in calls[4:]] == [".venv-3.12", ".venv-3.13"]
    assert code == 0
    assert last.endswith("3.12 (quick lane), 3.13 (quick lane); failed: none; not found here: none")


def test_a_python_whose_lane_or_installation_fails_is_a_failure_and_hides_no_other(checkout: Path) -> None:
    for version in ("3.12", "3.13"):
        interpreter(checkout / "bin" / f"python{version}", version)
    code, last, calls = run(checkout, broken="3.12")
    assert len(calls) == 6
    assert code == 1
    assert last == "Python passed: 3.11 (all tests), 3.13 (quick lane); failed: 3.12; not found here: none"
