"""Contract of what is published: the wheel works in an environment of its own, away from the checkout."""

import json
import os
import re
import site
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.made_stores import made_dataset, pose_features_store, poses_store
from tests.test_architecture import FILES, imports, name_of
from unialign.extras import contents, distribution_of, missing_extra

ROOT = Path(__file__).resolve().parents[1]


UV = [sys.executable, "-m", "uv"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [*UV, "build", "--quiet", "--wheel", "--offline", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", str(folder), str(ROOT)], check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def environment(folder: Path, wheel: Path) -> tuple[Path, Path]:
    """The `bin` of a new environment with only the wheel in it, and the folder of its packages."""
    venv.create(folder, with_pip=False)
    install = [*UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--no-cache"]
    subprocess.run([*install, "--python", str(folder / "bin" / "python"), str(wheel)], check=True, timeout=120)
    return folder / "bin", next((folder / "lib").glob("python*")) / "site-packages"


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The `bin` of an environment with the wheel in it; its requirements are those of the running environment."""
    programs, packages = environment(wheel.parent / "env", wheel)
    # Paths in this file are searched, but their own .pth files are not read: the checkout stays out.
    (packages / "requirements.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return programs


def with_extra(wheel: Path, extra: str) -> Path:
    """The `bin` of an environment with the wheel and what pip would install for it with that extra, as links."""
    programs, packages = environment(wheel.parent / f"env-{extra}", wheel)
    for distribution in closure("unialign", extra):
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
    return programs


@pytest.fixture(scope="module")
def light(wheel: Path) -> Path:
    """The `bin` of an environment without any extra."""
    return with_extra(wheel, "")


def closure(name: str, extra: str) -> list[metadata.Distribution]:
    """The installed distributions that one needs with an extra, and those that they need, without itself."""
    found: dict[tuple[str, str], metadata.Distribution] = {}
    todo = [(name, extra)]
    while todo:
        needing, its_extra = todo.pop()
        for line in metadata.requires(needing) or ():
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": its_extra}):
                continue
            for asked in ((requirement.name, each) for each in ("", *requirement.extras)):
                if asked not in found and requirement.name != name:
                    found[asked] = metadata.distribution(requirement.name)
                    todo.append(asked)
                elif requirement.name == name:
                    todo.append(asked)
    return list(found.values())


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


def test_without_extras_stores_are_listed_read_and_written(light: Path, tmp_path: Path) -> None:
    poses_store(tmp_path / "cache", made_dataset())
    (listed,) = json.loads(call(tmp_path, light / "unialign", "cache", "ls", "--json").stdout)["stores"]
    assert listed["samples"] == 20
    assert json.loads(call(tmp_path, light / "unialign", "cache", "verify", "--json").stdout)["ok"]
    (tmp_path / "example.py").write_text(LIGHT)
    assert call(tmp_path, light / "python", "example.py").stdout == "20 (3,)\n"
    doctor = json.loads(call(tmp_path, light / "unialign", "doctor", "--json").stdout)
    assert "torch" in doctor["extras"]["train"]


# A store of another's is read, one of our own is written, and neither loads what the environment does not have.
LIGHT = """
import numpy as np
import unialign as ua

(poses,) = ua.list_stores("cache")
assert ua.open_store(poses.path)[poses.ids[0]]["keypoints"].shape[1:] == (2, 17, 3)
mine = ua.write_store("cache", "mine", "features", "made", {"a": {"feature": np.zeros(3, "float32")}})
print(len(poses), mine["a"]["feature"].shape)
try:
    ua.batches([poses], batch_size=2)
except ua.UsageError as error:
    assert str(error) == (
        "`unialign.batches` needs torch, which is not installed; install it with: pip install 'unialign[train]'."
    ), error
else:
    raise AssertionError
"""


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("extract", "frames", "--dataset", "folder", "--root", "clips"), "extract"),
        (("train", "--dataset", "folder", "--root", "clips"), "train"),
        (("demo",), "all"),
    ],
)
def test_a_command_that_lacks_an_extra_names_it(
    words: tuple[str, ...], extra: str, light: Path, tmp_path: Path
) -> None:
    for place in ("wave", "jump"):
        (tmp_path / "clips" / place).mkdir(parents=True)
        (tmp_path / "clips" / place / "a.mp4").touch()
    said = json.loads(call(tmp_path, light / "unialign", *words, "--json", code=2).stdout)
    assert said["error"].endswith(f", which is not installed; install it with: pip install 'unialign[{extra}]'.")
    assert said["error"].startswith(f"`unialign {words[0]}` needs ")
    assert "\n" not in said["error"]


PACKAGES = {
    "": (
        "api.py",
        "cache/reader.py",
        "cache/writing.py",
        "cache/verify.py",
        "commands/",
        "cli.py",
        "pipeline/needs.py",
    ),
    "extract": ("stages/extraction/", "pipeline/extraction/"),
    "train": ("stages/training/", "stages/models/", "pipeline/training/", "pipeline/evaluation/", "pipeline/ablation/"),
}
EXTRAS = set(metadata.metadata("unialign").get_all("Provides-Extra", ()))
# What brings a library that is imported, but not declared.
BROUGHT = {
    "llvmlite": "numba",
    "pydantic-core": "pydantic",
    "huggingface-hub": "sentence-transformers",
    "transformers": "sentence-transformers",
}


@pytest.mark.parametrize("extra", PACKAGES)
def test_an_extra_has_every_library_that_its_part_of_the_package_imports(extra: str) -> None:
    own = [path for path in FILES if name_of(path).startswith(PACKAGES[extra])]
    reached: set[Path] = set()
    todo = list(own)
    while todo:
        path = todo.pop()
        reached.add(path)
        modules = {ROOT / f"{module.replace('.', '/')}.py" for module in imports(path, lazy=False)}
        todo += modules & set(FILES) - reached
    # Within functions, other modules load what only some uses of them need, and so do the commands.
    found = {module for path in reached for module in imports(path, lazy=bool(extra) and path in own)}
    libraries = {distribution_of(module) for module in found - {"__future__"} if module.split(".")[0] != "unialign"}
    needed = {BROUGHT.get(name, name) for name in libraries if name not in sys.stdlib_module_names}
    apart = {name for each in EXTRAS - {"bench", "dev", "docs", *PACKAGES, "all"} for name in contents(each)}
    assert needed - {*contents(""), *contents(extra)} - (apart if extra else set()) == set()


def test_every_library_that_the_package_imports_is_declared() -> None:
    declared = {name for extra in ("", *EXTRAS) for name in contents(extra)}
    imported = {module.partition(".")[0] for path in FILES for module in imports(path)}
    others = {distribution_of(name) for name in imported - sys.stdlib_module_names - {"unialign"}}
    assert {BROUGHT.get(name, name) for name in others} <= declared


def test_the_page_on_installation_names_every_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert {name for name in EXTRAS if not re.search(rf"[`\[,]{name}[`\],]", page)} == set()


def test_a_missing_library_of_any_extra_is_told_with_the_extra_that_brings_it() -> None:
    for extra in EXTRAS - {"bench", "dev", "docs"}:
        for library in contents(extra):
            told = missing_extra(ModuleNotFoundError("gone", name=library.replace("-", "_")), "unialign train")
            assert told is not None, (extra, library)
            assert "pip install 'unialign[" in str(told)
