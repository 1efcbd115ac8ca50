"""Contract of flags: what they set, what goes together, what is printed, and where values come from."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.made_stores import COLLECTION, made_dataset, poses_store
from tests.test_cli import run
from unialign.cli import app
from unialign.pipeline.manifest import save_manifest


def shown(*words: str | Path, cwd: Path, code: int = 0) -> tuple[str, str]:
    """What a command prints, on standard output and on standard error."""
    command = [sys.executable, "-m", "unialign", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def work(tmp_path: Path) -> Path:
    dataset = made_dataset()
    poses_store(tmp_path / "cache", dataset)
    save_manifest(dataset, tmp_path / "cache")
    return tmp_path


def test_python_m_unialign_is_the_command_line(tmp_path: Path) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", shown("--version", cwd=tmp_path)[0])
    assert "Did you mean 'train'?" in shown("trian", cwd=tmp_path, code=2)[1]
    assert "--epochs" in shown("train", "--epoch", "3", cwd=tmp_path, code=2)[1]
    assert shown("cache", "-h", cwd=tmp_path) == shown("cache", "--help", cwd=tmp_path)


def test_the_list_of_commands_is_in_the_order_of_the_work(tmp_path: Path) -> None:
    text, _ = shown("-h", cwd=tmp_path)
    listed = re.findall(r"^  ([a-z]+)  ", text[text.index("Commands:") :], re.MULTILINE)
    assert [name for name in listed if name in ("train", "extract", "data", "evaluate")] == [
        "data",
        "extract",
        "train",
        "evaluate",
    ]


def test_the_help_has_no_types_of_python() -> None:
    for command in (("train",), ("ablate",), ("cache", "import"), ("extract", "poses"), ("corpus",), ("models",)):
        text = CliRunner().invoke(app, [*command, "--help"]).output
        assert not re.findall(r"<\w+[^>]*>", text), command
        assert re.search(r"--\S+ (TEXT|PATH|INTEGER|NUMBER) ", text), command


@pytest.mark.parametrize("columns", ["40", "80"])
def test_an_example_can_be_copied_from_the_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text, _ = shown("extract", "frames", "-h", cwd=tmp_path)
    words = " ".join(text[text.index("Example:") :].split())
    assert words == "Example: unialign extract frames --dataset ntu60 --short-side 256 --num-frames 32"


def test_the_shell_completes_commands_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_UNIALIGN_COMPLETE", "complete_bash")
    for typed, completed in (("unialign ca", "cache"), ("unialign train --ep", "--epochs")):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
        program = shutil.which("unialign", path=str(Path(sys.executable).parent))
        assert program
        done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True)
        assert done.stdout.split() == [completed]


def test_every_value_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unialign.yaml").write_text(
        "cache: here\nruns: there\n\nextract: &those\n  device: cpu\n  poses: {num_people: 1}\n"
        "train:\n  stores:\n    pose-features: abc\n  settings: {lr: 0.5, epochs: 9}\n"
    )
    monkeypatch.setenv("UNIALIGN_DATA", "of-environment")
    words = ("--epochs", "4", "--name", "mine", "train.settings.keep=5", "train.art={num_tracks: 3}", "runs=other")
    found = run("config", "show", *words, cwd=tmp_path, UNIALIGN_CACHE="of-environment")
    assert found["file"] == "unialign.yaml"
    assert {key: origin for key, origin in found["origins"].items() if origin != "default"} == {
        "cache": "UNIALIGN_CACHE",
        "runs": "override runs=other",
        "extract.device": "unialign.yaml:5",
        "extract.poses.num_people": "unialign.yaml:6",
        "train.stores.pose-features": "unialign.yaml:9",
        "train.settings.lr": "unialign.yaml:10",
        "train.settings.epochs": "--epochs",
        "train.settings.keep": "override train.settings.keep=5",
        "train.art.num_tracks": "override train.art={num_tracks: 3}",
        "train.name": "--name",
    }
    settings = found["config"]["train"]["settings"]
    assert (settings["epochs"], settings["keep"], settings["lr"]) == (4, 5, 0.5)
    text, _ = shown("config", "show", *words, cwd=tmp_path)
    assert re.search(r"^data: of-environment +# UNIALIGN_DATA$", text, re.MULTILINE)
    assert re.search(r"^    epochs: 4 +# --epochs$", text, re.MULTILINE)
    assert re.search(r"^    batch_size: 24$", text, re.MULTILINE)
    # What is shown can be saved, and says the same.
    (tmp_path / "saved.yaml").write_text(text)
    monkeypatch.delenv("UNIALIGN_DATA")
    again = run("config", "show", "--config", "saved.yaml", cwd=tmp_path)
    assert again["config"] == yaml.safe_load(text)
    assert again["file"] == "saved.yaml"
    nothing = run("config", "show", "--config", "saved.yaml", "train.settings.epoch=3", cwd=tmp_path, code=2)
    assert "did you mean" in nothing["error"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("train", "--epochs", "3", "train.settings.epochs=4"),
            "--epochs and train.settings.epochs=4 both set train.s",
        ),
        (
            ("train", "--workers", "3", "train.settings={epochs: 4}"),
            "--workers and train.settings={epochs: 4} both set ",
        ),
        (("train", "protocol=a", "protocol=b"), "protocol=a and protocol=b both set protocol; give one of them."),
        (("train", "--root", "a", "data=b"), "--root and data=b both set data; give one of them."),
        (
            ("extract", "pose-features", "--weights", "a", "extract.pose-features.weights=b"),
            "--weights and extract.pose-",
        ),
        (("ablate", "grid.yaml", "--lr", "1"), "--lr has no effect: the grid sets train.settings.lr itself; change it"),
        (
            ("ablate", "grid.yaml", "train.settings.seed=3"),
            "train.settings.seed has no effect: the grid sets train.setti",
        ),
        (
            ("ablate", "grid.yaml", "train.unialign.width=3"),
            "train.unialign.width has no effect: the grid sets train.unialign.width itself in its row 'wide'",
        ),
        (
            ("corpus", "grid.yaml", "--labels", "a=b", "--words", "c"),
            "grid.yaml exists, perhaps corrected by hand; give",
        ),
    ],
)
def test_values_that_exclude_each_other_are_one_sentence(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    (tmp_path / "grid.yaml").write_text(
        "name: small\nset: {train.settings.lr: 0.1}\nrows:\n"
        "  - {name: narrow, set: {}}\n  - {name: wide, set: {train.unialign.width: 64}}\n"
    )
    found = run(*words, cwd=tmp_path, code=2)
    assert sentence in found["error"]
    assert "\n" not in found["error"]


def test_quiet_leaves_one_line_and_errors(work: Path) -> None:
    export = ("cache", "export", f"{COLLECTION}/poses", "poses.h5")
    text, said = shown(*export, "-q", cwd=work)
    assert re.fullmatch(r"poses\.h5: \d+ samples of .*\n", text)
    assert said == ""
    text, said = shown(*export, "--quiet", cwd=work, code=2)
    assert text == ""
    assert "poses.h5 exists; give another name, or --overwrite to replace it." in said
    before = (work / "poses.h5").stat().st_ino
    assert run(*export, "--overwrite", cwd=work)["format"] == "hdf5"
    assert (work / "poses.h5").stat().st_ino != before
    pickle = ("cache", "export", f"{COLLECTION}/poses", "poses.pkl", "--dataset", "tiny")
    assert run(*pickle, cwd=work)["format"] == run(*pickle, "--overwrite", cwd=work)["format"] == "pyskl"


def test_verbose_says_what_is_read(work: Path) -> None:
    (work / "unialign.yaml").write_text("cache: cache\n")
    pickle = ("cache", "export", f"{COLLECTION}/poses", "poses.pkl", "--dataset", "tiny")
    text, said = shown(*pickle, "-v", cwd=work)
    assert f"configuration: {(work / 'unialign.yaml').resolve()}" in said
    assert "reads the list of tiny in" in said
    assert "poses.pkl" in text
    assert json.loads(shown(*pickle, "--overwrite", "--json", "-v", cwd=work)[0])["format"] == "pyskl"
