"""Contract of own skeletons in the program: a file of any joint layout becomes poses, an encoder, and features."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import unialign as ua
from unialign.cli import app
from unialign.errors import StaleCache
from unialign.stages.extraction.pose_encoder import load_encoder
from unialign.stages.skeleton_layouts import layout_in

SMALL = ("train.encoder.width=8", "train.encoder.clip_len=8", "train.settings.device=cpu", "train.val_share=0")
JOINTS = ("wrist", "left thumb", "right thumb", "left tip", "right tip")
EDGES = ((0, 1), (0, 2), (3, 1), (4, 2))


def hands(path: Path, *, coordinates: int, more: float = 0) -> Path:
    """Twelve clips of two classes: hands that swing along x, or along y."""
    generator = np.random.default_rng(0)
    clips = []
    for at in range(12):
        time = np.arange(8 + at % 3)[:, None, None, None]
        swing = np.sin(time / 2) * np.eye(coordinates)[at % 2] + generator.normal(
            0, 0.02, (len(time), 1, 5, coordinates)
        )
        clips.append(2 + more + np.arange(5)[:, None] / 5 + swing)
    np.savez(
        path,
        ids=np.array([f"clip {at:02d}" for at in range(12)]),
        labels=np.array(["left-right", "up-down"] * 6),
        lengths=np.array([len(clip) for clip in clips]),
        keypoints=np.concatenate(clips) * (60 if coordinates == 2 else 1),
        splits=np.array(["train"] * 8 + ["test"] * 4),
        joints=np.array(JOINTS),
        edges=np.array(EDGES),
    )
    return path


def called(*arguments: object) -> dict:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(("coordinates", "recipe"), [(2, "pyskl-2d"), (3, "centered-3d")])
def test_a_file_of_any_layout_becomes_poses_an_encoder_and_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coordinates: int, recipe: str
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ("--dataset", "skeletons", "--root", hands(tmp_path / "hands.npz", coordinates=coordinates))
    first = called("extract", "poses", "--source", "skeleton", *where)
    assert (first["extracted"], first["dataset"]["collection"]) == (12, "skeletons-hands")
    assert called("extract", "poses", "--source", "skeleton", *where)["extracted"] == 0
    store = ua.open_store(first["store"])
    layout = layout_in(store.array_attributes("keypoints"))
    assert layout is not None
    assert (layout.joints, layout.mirror) == (JOINTS, (0, 2, 1, 4, 3))

    run = called("train", "--model", "stgcn++", "--epochs", 2, *where, *SMALL)
    encoder = load_encoder(Path(run["exported"]))
    assert (encoder.layout, encoder.recipe, encoder.classes) == (layout, recipe, ("left-right", "up-down"))
    features = called("extract", "pose-features", "--weights", run["exported"], *where, "extract.device=cpu")
    assert features["extracted"] == 12


def test_a_changed_file_makes_the_changed_samples_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = hands(tmp_path / "hands.npz", coordinates=3)
    where = ("--dataset", "skeletons", "--root", path)
    called("extract", "poses", "--source", "skeleton", *where)
    arrays = dict(np.load(path))
    arrays["keypoints"][0, 0, 0, 0] += 0.5
    np.savez(path, **arrays)
    done = CliRunner().invoke(app, [*map(str, ("train", "--model", "stgcn++", "--epochs", 1, *where, *SMALL))])
    assert isinstance(done.exception, StaleCache)
    assert called("extract", "poses", "--source", "skeleton", *where, "--repair")["extracted"] == 1


def test_the_same_from_python(tmp_path: Path) -> None:
    path = hands(tmp_path / "hands.npz", coordinates=3)
    dataset = ua.load_dataset("skeletons", path)
    assert (len(dataset.samples), len(dataset.split("split").test)) == (12, 4)
    values = {"dataset": "skeletons", "data": path, "cache": tmp_path / "cache", "extract__poses__source": "skeleton"}
    store = ua.open_store(ua.extract("poses", **values).store)
    assert store["clip 03"]["keypoints"].shape == (8, 1, 5, 3)
