"""Contract of the command line, as a user meets it: real processes, exit codes, one JSON object, one clear sentence."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.forked_command import run_forked
from tests.test_startup import imported
from unialign.stages.demo.render import render_collection


def run(*words: str | Path, cwd: Path, code: int = 0, **environment: str) -> dict[str, Any]:
    """Run a command with --json; returns its object."""
    command = [sys.executable, "-m", "unialign.cli", *map(str, words), "--json"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNIALIGN_")}
    done = subprocess.run(
        command, cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two performers of the demo, one camera: 30 clips with skeletons."""
    root = tmp_path_factory.mktemp("collection")
    render_collection(root, performers=2, cameras=1, workers=1)
    return root


@pytest.fixture
def work(tmp_path: Path, collection: Path) -> Path:
    """A working folder with a configuration."""
    (tmp_path / "unialign.yaml").write_text(
        f"dataset: demo\ndata: {collection}\nextract: {{threads: 1, poses: {{source: skeleton}}}}\n"
    )
    return tmp_path


def test_extract_again_extracts_nothing_one_more_clip_one_another_setting_all(tmp_path: Path, collection: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(collection, root)
    names = sorted((root / "skeletons").iterdir())
    for path in names[5:]:
        path.unlink()
    for path in (root / "rgb").iterdir():
        path.unlink()
    command = ("extract", "poses", "--dataset", "demo", "--root", root, "--source", "skeleton", "--cache", "cache")
    first = run(*command, cwd=tmp_path)
    assert set(first) == {
        *("modality", "key", "store", "total", "attempted", "extracted", "reused", "quarantined", "reasons"),
        *("seconds", "speed", "dataset"),
    }
    assert (first["total"], first["extracted"], first["quarantined"]) == (5, 5, {})
    assert run(*command, cwd=tmp_path)["extracted"] == 0
    shutil.copy(collection / "skeletons" / names[5].name, names[5])
    more = run(*command, cwd=tmp_path)
    assert (more["extracted"], more["reused"], more["key"]) == (1, 5, first["key"])
    other = run(*command, "--num-people", "1", cwd=tmp_path)
    assert (other["extracted"], other["key"] != first["key"]) == (6, True)
    why = run("cache", "why", first["key"][:12], other["key"][:12], "--cache", "cache", cwd=tmp_path)
    assert why["differences"] == [{"field": "num_people", "first": 2, "second": 1}]
    assert run("cache", "verify", "--cache", "cache", cwd=tmp_path) == {"ok": True, "damaged": [], "stores": 2}
    shard = Path(first["store"]) / "keypoints" / "c" / "0" / "0" / "0" / "0" / "0"
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])
    found = run("cache", "verify", "--cache", "cache", cwd=tmp_path, code=4)
    assert [(row["shard"], row["file"]) for row in found["damaged"]] == [(0, "keypoints/c/0/0/0/0/0")]
    assert run(*command, "--repair", cwd=tmp_path)["extracted"] == 5
    assert run("cache", "verify", "--cache", "cache", cwd=tmp_path)["ok"]


def test_a_quarantined_sample_gives_exit_code_three(tmp_path: Path) -> None:
    (tmp_path / "clips" / "jump").mkdir(parents=True)
    (tmp_path / "clips" / "run").mkdir()
    for name in ("jump/broken.mp4", "run/broken.mp4", "run/cut.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"not a video")
    found = run("extract", "frames", "--dataset", "folder", "--root", "clips", cwd=tmp_path, code=3)
    assert (found["quarantined"], found["attempted"], found["extracted"]) == ({"unreadable": 3}, 3, 0)
    (reason,) = found["reasons"]
    assert (reason["status"], reason["samples"], reason["first"]) == ("unreadable", 3, "jump/broken")
    assert found["dataset"]["classes"] == {"jump": 1, "run": 2}
    assert found["dataset"]["protocols"] == {"holdout": {"train": 2, "val": 0, "test": 1}}


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("extract", "poses", "--dataset", "ntu60"), 2, "no data root"),
        (("extract", "frames", "--dataset", "ntu60", "--root", "nowhere"), 2, "nowhere is not a folder"),
        (("extract", "frames", "--dataset", "ntu6", "--root", "."), 2, "known are ntu60"),
        (("extract", "text", "--dataset", "folder", "--root", "."), 2, "no class folder|no video"),
        (("train", "--cached"), 2, "no dataset is configured"),
        (("train", "--cached", "--dataset", "ntu60"), 4, "unialign extract frames"),
        (("train", "--cached", "train.setings.epochs=1"), 2, "unknown key 'train.setings'"),
        (("evaluate", "runs/none"), 4, "not a run"),
        (("ablate", "none.yaml"), 2, "none.yaml is neither a file nor"),
        (("cache", "info", "abc"), 4, "cache ls"),
        (("cache", "prune"), 2, "not a folder of runs"),
        (("extract", "frames", "--config", "none.yaml"), 2, "none.yaml does not exist"),
    ],
)
def test_what_is_missing_is_one_clear_sentence(
    tmp_path: Path, words: tuple[str, ...], code: int, sentence: str
) -> None:
    found = run(*words, cwd=tmp_path, code=code)
    assert found["exit_code"] == code

    assert re.search(sentence, found["error"]), found["error"]
    assert "\n" not in found["error"]


def test_doctor_names_versions_devices_and_what_is_missing(tmp_path: Path) -> None:
    found = run("doctor", cwd=tmp_path)
    assert found["environment"]["zarr"]
    assert "cpu" in found["devices"]
    assert re.fullmatch(r"\d+\.\d+.*", found["environment"]["ffmpeg"])
    ready = {check["check"]: check["ok"] for check in found["checks"]}
    assert {name for name, ok in ready.items() if not ok} >= {"data root", "pose weights", "stores"}
    assert ready["video decoding"]


def test_doctor_fails_where_pyav_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("raise ImportError('libavcodec.so.63: cannot open shared object file')\n")
    found = run("doctor", cwd=tmp_path, code=1)
    assert re.match(r"a clip cannot be .* with PyAV .* \(ImportError: libavcodec.*\); install the PyAV", found["error"])
    assert found["exit_code"] == 1
    assert found["environment"]["ffmpeg"] == "not importable"
    assert [check["advice"] for check in found["checks"] if check["check"] == "video decoding"] == [found["error"]]


def losses(trained: dict[str, Any]) -> list[str]:
    with (Path(trained["folder"]) / "metrics.csv").open() as file:
        return [line["loss"] for line in csv.DictReader(file)]


@pytest.mark.usefixtures("fork_server")
def test_the_main_job_from_skeletons_to_an_ablation(work: Path) -> None:
    grid = work / "grid.yaml"
    grid.write_text(
        "name: small\nseeds: [0]\nrows:\n"
        "  - {name: video, set: {train.unialign.modalities: [video]}}\n"
        "  - {name: all, set: {train.unialign.modalities: [video, pose, text]}}\n"
    )
    small = [
        "train.unialign.backbone=tsm-tiny",
        "train.unialign.num_frames=4",
        "train.unialign.image_size=32",
        "train.unialign.width=32",
        "train.settings.epochs=1",
        "train.settings.batch_size=8",
    ]
    for modality in ("frames", "poses"):
        assert run_forked("extract", modality, cwd=work)["extracted"] == 30
    assert run("extract", "text", "--templates", "plain", cwd=work)["quarantined"] == {}
    lost = run_forked("extract", "pose-features", "extract.pose_features.encoder=network", cwd=work, code=2)
    assert "--weights" in lost["error"]
    flags = ("--epochs", "1", "--lr", "0.02", "--batch-size", "12", "--device", "cpu", "--workers", "1", "--seed", "3")
    encoder = run_forked(
        *("train", "--model", "stgcn++", *flags, "--name", "An encoder"),
        *("train.encoder.width=8", "train.encoder.clip_len=16"),
        cwd=work,
    )
    assert Path(encoder["exported"]).is_file()
    assert re.fullmatch(r"demo-stgcn\+\+-an-encoder-seed3-[0-9a-f]{12}", Path(encoder["folder"]).name)
    kept = yaml.safe_load((Path(encoder["folder"]) / "config.yaml").read_text())
    expected = {"epochs": 1, "lr": 0.02, "batch_size": 12, "device": "cpu", "read_threads": 1, "seed": 3}
    assert expected.items() <= kept["settings"].items()
    assert kept["name"] == "An encoder"
    features = run("extract", "pose-features", "--weights", encoder["exported"], cwd=work)
    assert (features["total"], features["extracted"]) == (30, 30)
    full = [*small, "train.unialign.modalities=[video, pose, text]"]
    trained = run("train", "--cached", *full, cwd=work)
    assert set(trained["keys"]) == {"frames", "pose-features", "text"}
    assert trained["extracted"] == 0
    evaluated = run("evaluate", trained["folder"], cwd=work)
    assert evaluated["agrees"]
    # The run is there: neither the networks' libraries nor compilers are loaded to find it.
    late = {"timm", "torchvision", "numba", "scipy", "tensorboard", "matplotlib"}
    assert not imported("train", *full, cwd=work) & late
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in evaluated["pictures"])
    assert len(evaluated["pictures"]) > 1
    assert evaluated["metrics"]["top1"] == trained["top1"]
    weights = f"extract.pose_features.weights={encoder['exported']}"
    online = run_forked("train", "--online", *full, weights, "extract.text.templates=plain", cwd=work)
    # The same features, made during training instead of read: the same training to the last bit.
    assert online["metrics"] == trained["metrics"]
    assert losses(online) == losses(trained)
    swept = run("ablate", grid, *small, cwd=work)
    assert [Path(trial["run"]).name.rpartition("-")[0] for trial in swept["trials"]] == [
        "demo-unialign-video-seed0",
        Path(trained["folder"]).name.rpartition("-")[0],
    ]
    differs = run_forked("why", "demo-unialign-video", trained["key"][:12], cwd=work)["settings"]
    decides = {row["field"]: row["decides"] for row in differs}
    assert not decides.pop("name")
    assert set(decides.values()) == {True}
    assert [row["row"] for row in swept["rows"]] == ["video", "all"]
    assert swept["extracted"] == 0
    # The row "all" is the training above: found finished, not trained again.
    assert [trial["reused"] for trial in swept["trials"]] == [False, True]
    pruned = run_forked("cache", "prune", "--dry-run", cwd=work)
    assert [store["modality"] for store in pruned["removed"]] == []
    shutil.rmtree(work / "runs")
    (work / "runs").mkdir()
    assert len(run_forked("cache", "prune", "--dry-run", cwd=work)["removed"]) == 4


@pytest.mark.usefixtures("fork_server")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_yolo_poses_of_real_clips_are_cached_by_their_settings(tmp_path: Path, shared_data: Path) -> None:
    clips = tmp_path / "clips" / "wave"
    clips.mkdir(parents=True)
    (tmp_path / "clips" / "bow").mkdir()
    real = sorted((shared_data / "videos" / "gestures" / "photo").glob("*.mp4"))[:3]
    shutil.copy(real[0], clips)
    shutil.copy(real[1], tmp_path / "clips" / "bow")
    weights = shared_data / "weights" / "yolo11n-pose.pt"
    command = (
        "extract",
        "poses",
        "--dataset",
        "folder",
        "--root",
        "clips",
        "--weights",
        weights,
        "--image-size",
        "256",
    )
    first = run(*command, cwd=tmp_path)
    assert (first["extracted"], first["quarantined"]) == (2, {})
    assert run_forked(*command, cwd=tmp_path)["extracted"] == 0
    shutil.copy(real[2], clips)
    assert run_forked(*command, cwd=tmp_path)["extracted"] == 1
    other = run_forked(*command, "--confidence", "0.4", cwd=tmp_path)
    why = run("cache", "why", first["key"][:12], other["key"][:12], cwd=tmp_path)
    assert why["differences"] == [{"field": "parameters.confidence", "first": 0.25, "second": 0.4}]
