"""Contract of UTD-MHAD in the program: from its files to poses, an encoder trained on them, and features."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.pipeline.made_utd import called, write_files
from unialign.cache.reader import StoreReader
from unialign.cli import app
from unialign.errors import UsageError
from unialign.pipeline.exchange.pyskl_export import export_pyskl
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.datasets.utd_mhad import read_utd_skeleton
from unialign.stages.extraction.pose_encoder import load_encoder

SMALL = ("train.encoder.width=8", "train.encoder.clip_len=8", "train.settings.device=cpu")


def test_files_become_poses_an_encoder_and_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_files(tmp_path / "files")
    (root / "a3_s1_t1_skeleton.mat").write_bytes(b"broken")
    where = ("--dataset", "utd-mhad", "--root", root, "--json")
    extract = ["extract", "poses", "--source", "skeleton", *map(str, where)]
    first = CliRunner().invoke(app, extract)
    assert first.exit_code == 3
    assert json.loads(first.stdout)["quarantined"] == {"unreadable": 1}
    assert json.loads(CliRunner().invoke(app, extract).stdout)["extracted"] == 0
    (store,) = (tmp_path / "cache" / "utd-mhad" / "poses").glob("*.zarr")
    poses = StoreReader(store)
    assert len(poses.ids) == 9
    keypoints = poses.read_one("a5_s2_t1")["keypoints"]
    assert np.array_equal(keypoints[:, 0], read_utd_skeleton(root / "a5_s2_t1_skeleton.mat"))
    assert poses.array_attributes("keypoints")["layout"] == "utd-20"
    with pytest.raises(UsageError, match="no array 'keypoints' with the coordinates"):
        export_pyskl(store, load_dataset("utd-mhad", root), tmp_path / "poses.pkl")

    run = json.loads(
        called(
            "train",
            "--model",
            "stgcn++",
            "--epochs",
            2,
            *where,
            *SMALL,
            "protocol=zero-shot-1",
            "train.min_coverage=0.6",
        )
    )
    encoder = load_encoder(Path(run["exported"]))
    assert (encoder.layout.name, encoder.recipe, len(encoder.classes)) == ("utd-20", "agcn-3d", 3)
    assert run["samples"]["train"] == {"used": 2, "missing": 1, "missing_by_class": {"poses": {"class 2": 1}}}

    chosen = (*map(str, where), "extract.pose_features.num_offsets=1", "extract.device=cpu")
    features = CliRunner().invoke(app, ["extract", "pose-features", "--weights", run["exported"], *chosen])
    assert features.exit_code == 3
    assert json.loads(features.stdout)["quarantined"] == {"unreadable": 1}
    (store,) = (tmp_path / "cache" / "utd-mhad" / "pose-features").glob("*.zarr")
    made = StoreReader(store)
    assert made.read_one("a5_s2_t1")["feature"].shape == (2, encoder.width)
    assert made.store.attributes["trained_on"]["protocol"] == "zero-shot-1"
    assert len(made.store.attributes["trained_on"]["classes"]) == 3
