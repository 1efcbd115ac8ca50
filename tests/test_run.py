"""`unialign run`: from a folder to a model in one command, wherever it is stopped in between."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import unialign as ua
from tests.forked_command import command_in, run_forked
from unialign.stages.demo.render import render_collection

SETTINGS = """dataset: demo
data: {data}
extract: {{threads: 1, poses: {{source: skeleton}}, frames: {{short_side: 32, num_frames: 4}}}}
train:
  skeleton: {{width: 6, clip_len: 8}}
  unialign: {{backbone: tsm-resnet10, num_frames: 2, image_size: 16, width: 16}}
  val_share: 0
  encoder_epochs: 2
  settings: {{epochs: 2, batch_size: 8, checkpoint_batches: 1}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 clips with skeletons, of two performers."""
    root = tmp_path_factory.mktemp("run") / "data"
    render_collection(root, performers=2, cameras=1, workers=1)
    return root


@pytest.fixture
def work(tmp_path: Path, data: Path, fork_server: None) -> Path:
    """A working folder with a configuration."""
    (tmp_path / "unialign.yaml").write_text(SETTINGS.format(data=data))
    return tmp_path


def killed_when(there: Path, pattern: str, cwd: Path) -> None:
    """Start the command, and kill it with SIGKILL as soon as a file matches."""
    streams = (cwd / "out", cwd / "err")
    process = multiprocessing.get_context("forkserver").Process(
        target=command_in, args=(["unialign", "run"], cwd, streams)
    )
    process.start()
    while not list(there.glob(pattern)):
        assert process.is_alive(), streams[1].read_text()
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def labels_as_evaluated(run: Path, work: Path, data: Path, kind: str) -> None:
    """New clips, skeleton files or videos with such files, get the probabilities that a run found in its test."""
    with np.load(run / "predictions.npz") as stored:
        ids, probabilities = stored["ids"].tolist()[:3], stored["probabilities"][:3]
    model = ua.load_model(run, cache=work / "cache")
    found = model.predict([next((data / kind).glob(f"{name}*")) for name in ids])
    assert isinstance(found, list)
    scores = [[each.probabilities[name] for name in model.classes] for each in found]
    np.testing.assert_allclose(scores, probabilities, rtol=1e-3, atol=1e-5)


def test_a_killed_run_goes_on_where_it_was_and_a_finished_one_is_reused(work: Path, data: Path) -> None:
    killed_when(work / "runs", "*-unialign-*/checkpoints/*.pt", work)
    done = run_forked("run", cwd=work)
    steps = {step["step"]: step for step in done["steps"]}
    # So few clips are trained on without text, which is therefore not extracted, and the run says so.
    assert list(steps) == ["frames", "poses", "skeleton encoder", "pose-features", "unialign"]
    assert "text is left out: it has not helped with few training clips" in done["notes"][0]
    # What the killed one had finished was not done again.
    assert [steps[name].get("attempted") for name in ("poses", "frames", "pose-features")] == [0, 0, 0]
    assert steps["skeleton encoder"]["reused"]
    assert not done["reused"]
    assert Path(done["page"]).stat().st_size > 10_000
    assert done["keys"]["pose-features"]["key"] == steps["pose-features"]["key"]
    # Also on the poses, which the model itself does not read.
    simple = json.loads((Path(done["folder"]) / "baselines.json").read_text())["rows"]
    assert {row["features"] for row in simple} == {"poses", "pose-features", "frames"}
    labels_as_evaluated(Path(steps["skeleton encoder"]["folder"]), work, data, "skeletons")
    labels_as_evaluated(Path(done["folder"]), work, data, "rgb")
    with pytest.raises(
        ua.UsageError, match=r"clip\.mp4 has no skeleton file: .* needs clip\.skeleton beside the video"
    ):
        ua.load_model(done["folder"], cache=work / "cache").predict(data / "rgb" / "clip.mp4")
    # With another store of pose features in the cache, a run still has the baselines on what it read.
    run_forked("extract", "pose-features", "extract.pose_features.encoder=motion", cwd=work)
    assert run_forked("run", "--epochs", 1, cwd=work)["baseline"]["features"] in {"poses", "pose-features", "frames"}
    refused = run_forked("runs", "rm", steps["skeleton encoder"]["run"], "--yes", cwd=work, code=2)
    assert f"{done['run']} reads pose features of its encoder" in refused["error"]
    again = run_forked("run", cwd=work)
    assert again["reused"]
    assert again["folder"] == done["folder"]
    assert again["metrics"] == done["metrics"]
    assert json.loads((Path(done["folder"]) / "result.json").read_text())["metrics"] == done["metrics"]
    # Another encoder leaves the features of the first in the cache: baselines are on those that the run has read.
    other = run_forked("run", "train.encoder_epochs=1", cwd=work)
    assert other["keys"]["pose-features"]["key"] != done["keys"]["pose-features"]["key"]
    assert other["baseline"] is not None
    kept = json.loads((Path(other["folder"]) / "baselines.json").read_text())["rows"]
    assert {row["features"] for row in kept} == {"poses", "pose-features", "frames"}


def test_what_is_missing_is_said_before_anything_is_extracted(work: Path, data: Path) -> None:
    (work / "unialign.yaml").write_text(f"dataset: demo\ndata: {data}\n")
    found = run_forked("run", cwd=work, code=2)
    assert "--weights yolo11n-pose.pt" in found["error"]
    assert not (work / "cache").exists()
