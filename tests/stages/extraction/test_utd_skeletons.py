"""Poses of UTD-MHAD: shapes, statuses and keys, from generated and from real files."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.extraction.base import Extractor, Source
from unialign.stages.extraction.skeletons import PysklSkeletons, ReadySkeletons
from unialign.stages.extraction.utd_skeletons import UtdSkeletons


def source(folder: Path, name: str, values: np.ndarray) -> Source:
    path = folder / f"{name}_skeleton.mat"
    savemat(path, {"d_skel": values}, do_compression=True)
    return Source(name, path)


def test_one_person_frames_stay_and_absence_is_nan(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20, 3, 9))
    values[:, :, 4] = np.nan
    values[7, 0, 2] = np.inf
    extractor: Extractor = UtdSkeletons(max_frames=16)
    (outcome,) = extractor.run([source(tmp_path, "a1_s1_t1", values)])
    assert outcome.status == "ok"
    (spec,) = extractor.arrays()
    keypoints = outcome.arrays["keypoints"]
    assert (keypoints.shape, keypoints.dtype.name) == ((9, 1, 20, 3), "float32")
    assert spec.shape == (16, 1, 20, 3)
    assert np.isnan(keypoints[4]).all()
    assert np.isnan(keypoints[2, 0, 7]).all()
    assert keypoints[8, 0, 19].tolist() == values[19, :, 8].astype(np.float32).tolist()
    assert outcome.source == file_digest(tmp_path / "a1_s1_t1_skeleton.mat")
    assert outcome.detail == {"frames": 9, "frames_without_person": 1, "missing_joints": 1}


def test_what_cannot_be_used_has_a_status(tmp_path: Path) -> None:
    (tmp_path / "broken.mat").write_bytes(b"nothing of the kind")
    sources = [
        Source("absent", tmp_path / "absent.mat"),
        Source("none", None),
        Source("broken", tmp_path / "broken.mat"),
        source(tmp_path, "long", np.zeros((20, 3, 17))),
        source(tmp_path, "empty", np.full((20, 3, 5), np.nan)),
    ]
    found = list(UtdSkeletons(max_frames=16).run(sources))
    assert [each.status for each in found] == ["missing-file", "missing-file", "unreadable", "too-long", "no-person"]
    assert found[2].detail["why"] == "is no MATLAB file of level 5; save it with -v6 or -v7."
    assert not any(each.arrays for each in found)


def test_the_store_is_one_of_its_own() -> None:
    (spec,) = UtdSkeletons().arrays()
    assert (spec.attributes["layout"], spec.attributes["unit"]) == ("utd-20", "metre")
    assert UtdSkeletons().key() != ReadySkeletons(num_people=1).key()
    with pytest.raises(UsageError, match="max_frames"):
        UtdSkeletons(max_frames=0)
    with pytest.raises(UsageError, match="unknown joint layout"):
        PysklSkeletons(Path("a.pkl"), layout="smpl")


def test_real_files(shared_data: Path) -> None:
    samples = load_dataset("utd-mhad", shared_data / "skeletons" / "utd_mhad").samples[::90]
    for outcome in UtdSkeletons().run([Source(each.id, each.files["skeleton"]) for each in samples]):
        assert outcome.status == "ok"
        assert 41 <= outcome.detail["frames"] <= 125
        assert outcome.detail["missing_joints"] == 0
        # About as long as a person: from the head to the left foot.
        keypoints = outcome.arrays["keypoints"][:, 0]
        assert 1.0 < np.median(np.linalg.norm(keypoints[:, 0] - keypoints[:, 15], axis=1)) < 2.0
