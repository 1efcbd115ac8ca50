"""Contract of what is published: the wheel works in an environment of its own, away from the checkout."""

import json
import os
import re
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.made_stores import made_dataset, pose_features_store, poses_store

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment with the wheel in it; its requirements are those of the running environment."""
    folder = tmp_path_factory.mktemp("wheel")
    uv = [sys.executable, "-m", "uv"]
    build = [*uv, "build", "--quiet", "--wheel", "--offline", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", str(folder), str(ROOT)], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    packages = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    # Paths in this file are searched, but their own .pth files are not read: the checkout stays out.
    (packages / "requirements.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    install = [*uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--no-cache", "--python", str(python)]
    subprocess.run([*install, str(wheel)], check=True, timeout=120)
    return python.parent


def call(work: Path, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("UNIALIGN_", "PYTHONPATH"))}
    done = subprocess.run(
        [str(word) for word in words], cwd=work, env=clean, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
    return done


def test_the_example_of_the_readme_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    dataset = made_dataset()
    poses_store(tmp_path / "cache", dataset)
    pose_features_store(tmp_path / "cache", dataset)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "example.py").write_text(f"{block}\nprint(ua.__file__, sum(len(each) for each in (poses, features)))\n")
    place, count = call(tmp_path, installed / "python", "example.py").stdout.split()
    assert Path(place).is_relative_to(installed.parent)
    assert int(count) == 40
    listed = json.loads(call(tmp_path, installed / "unialign", "cache", "ls", "--json").stdout.splitlines()[-1])
    assert len(listed["stores"]) == 2


def test_the_ready_grids_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    ready = sorted(path.stem for path in (ROOT / "unialign" / "grids").glob("*.yaml"))
    assert len(ready) > 5
    unknown = call(tmp_path, installed / "unialign", "ablate", "nothing", "--json", code=2)
    assert ", ".join(ready) in json.loads(unknown.stdout)["error"]
    # Found and read; only the caches are missing.
    missing = call(tmp_path, installed / "unialign", "ablate", "modalities", "--dataset", "ntu60", "--json", code=4)
    assert "unialign extract" in json.loads(missing.stdout)["error"]
