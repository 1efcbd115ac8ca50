"""Contract of `pipeline.needs`: a command's checks are its extra, what it reads, and room; nothing else."""

from pathlib import Path

import pytest

from tests.made_stores import made_dataset, poses_store
from unialign.pipeline import needs as module
from unialign.pipeline.config import Config, load_config
from unialign.pipeline.needs import needs


def configured(folder: Path, *overrides: str) -> Config:
    return load_config({"cache": folder / "cache"}, overrides, environment={})


def ready(config: Config, *command: str) -> dict[str, bool]:
    """The checks without the one of the room, which names the machine."""
    *checks, room = needs(config, command)
    assert " GB free under " in room["check"]
    return {check["check"]: check["ok"] for check in checks}


def test_training_needs_the_stores_of_its_system(tmp_path: Path) -> None:
    poses_store(tmp_path / "cache", made_dataset())
    assert ready(configured(tmp_path, "train.model=skeleton"), "train") == {"extra train": True, "store of poses": True}
    reads_more = ready(configured(tmp_path, "train.unialign.modalities=[video, pose]"), "train")
    assert reads_more == {"extra train": True, "store of frames": False, "store of pose-features": False}


def test_an_extraction_needs_data_and_weights_or_an_input_modality(tmp_path: Path) -> None:
    weights = tmp_path / "yolo.pt"
    config = configured(tmp_path, f"extract.poses.weights={weights}", f"data={tmp_path}")
    assert ready(config, "extract", "poses")["pose weights"] is False
    weights.touch()
    assert ready(config, "extract", "poses")["pose weights"] is True
    assert ready(configured(tmp_path), "extract", "frames") == {"extra extract": True, "data root": False}
    assert ready(configured(tmp_path, "extract.poses.source=skeleton"), "extract", "poses").keys() == {
        "extra extract",
        "data root",
    }
    assert ready(configured(tmp_path), "extract", "pose-features")["store of poses"] is False


def test_what_an_extra_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "absent", lambda extra: ["torch", "numba"])
    (extra, *_) = needs(configured(tmp_path), ["evaluate"])
    assert extra == {
        "check": "extra train",
        "ok": False,
        "advice": "pip install 'unialign[train]'; it lacks torch, numba",
    }


def test_run_needs_what_its_extractions_read(tmp_path: Path) -> None:
    found = ready(configured(tmp_path), "run")
    assert found.keys() == {"extra all", "data root", "pose network", "pose weights", "embedded text encoder"}
    assert (found["data root"], found["pose weights"]) == (False, False)
    alone = ready(configured(tmp_path, "train.model=skeleton", "extract.poses.source=skeleton"), "run")
    assert alone == {"extra all": True, "data root": False}


def test_a_command_of_the_package_alone_needs_room(tmp_path: Path) -> None:
    assert ready(configured(tmp_path), "cache", "ls") == {}
