"""Processes for which the permissions of files hold, also where the tests run as root."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_CAPBSET_DROP = 24
# CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER: what lets root pass over permissions and owners.
_OVERRIDES = (1, 2, 3)


def _drop() -> None:
    """Between fork and exec: the program that is started does not get these rights of root's."""
    for capability in _OVERRIDES:
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            os._exit(99)


def start(code: str, *words: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start Python code in a process that no file's permissions let through; HOME is not there."""
    root = Path(__file__).resolve().parents[1]
    inherited = {name: os.environ[name] for name in ("PATH", "LANG", "RELIABILITY_SEED") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HOME": "/dev/null/none", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The process is single-threaded from here to exec as far as this function goes: it calls nothing but prctl.
        preexec_fn=_drop if os.geteuid() == 0 else None,
    )


def run(code: str, *words: str | Path, cwd: Path, **environment: str) -> str:
    """Run Python code as `start` does; returns what it prints. Skips where rights cannot be given up."""
    process = start(code, *words, cwd=cwd, **environment)
    out, err = process.communicate(timeout=200)
    if process.returncode == 99:
        pytest.skip("root cannot give up its rights over files here")
    assert process.returncode == 0, err
    return out


def forbid(folder: Path) -> None:
    """Take everybody's right to write anything in a folder."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)


def allow(folder: Path) -> None:
    """Give the owner's right back, so that the folder can be deleted."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)
