"""Poses from `.skeleton` files and pickles: shapes, statuses, keys."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import file_digest
from unialign.cache.records import STATUSES
from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.datasets.pyskl import read_pyskl
from unialign.stages.datasets.utd_mhad import read_utd_skeleton
from unialign.stages.extraction.base import Extractor, Outcome, Source
from unialign.stages.extraction.skeletons import PysklSkeletons, ReadySkeletons


def skeleton_text(bodies: list[list[int]]) -> str:
    """A `.skeleton` file: the body ids of each frame. Joint v of body b in frame t is at (b + v / 100, v / 10, t)."""
    lines = [str(len(bodies))]
    for t, ids in enumerate(bodies):
        lines.append(str(len(ids)))
        for body in ids:
            lines += [f"{body} 0 1 1 1 1 0 0 0 2", "25"]
            lines += [f"{body + v / 100} {v / 10} {t} 0 0 960 540 0 0 0 1 2" for v in range(25)]
    return "\n".join(lines) + "\n"


def source(tmp_path: Path, name: str, text: str) -> Source:
    path = tmp_path / f"{name}.skeleton"
    path.write_text(text)
    return Source(name, path)


def fits(outcome: Outcome, specs: tuple[ArraySpec, ...]) -> bool:
    """Whether the arrays are what the store was promised."""
    for spec in specs:
        array = outcome.arrays[spec.name]
        inner = array.shape[1:] == spec.shape[1:] and len(array) <= spec.shape[0]
        if array.dtype != spec.dtype or not inner or (not spec.ragged and array.shape != spec.shape):
            return False
    return set(outcome.arrays) == {spec.name for spec in specs}


def test_frames_stay_where_they_are_and_absence_is_nan(tmp_path: Path) -> None:
    extractor = ReadySkeletons(max_frames=64)
    poses: Extractor = extractor
    text = skeleton_text([[], *[[3]] * 12, *[[3, 8]] * 12, []])
    (outcome,) = poses.run([source(tmp_path, "a", text)])
    assert outcome.status == "ok"
    assert fits(outcome, poses.arrays())
    keypoints = outcome.arrays["keypoints"]
    assert keypoints.shape == (26, 2, 25, 3)
    assert np.isnan(keypoints[[0, 25]]).all()
    assert np.isnan(keypoints[1:13, 1]).all()
    np.testing.assert_allclose(keypoints[13, 0, 24], [3.24, 2.4, 13], rtol=1e-6)
    np.testing.assert_allclose(keypoints[13, 1, 24], [8.24, 2.4, 13], rtol=1e-6)
    assert outcome.source == file_digest(tmp_path / "a.skeleton")
    assert outcome.detail == {"frames": 26, "bodies": 2, "frames_without_person": 2, "missing_joints": 0}


def test_a_missing_joint_is_counted(tmp_path: Path) -> None:
    text = skeleton_text([[3]] * 3).replace("3.0 0.0 0 0 0", "nan 0.0 0 0 0", 1)
    (outcome,) = ReadySkeletons().run([source(tmp_path, "a", text)])
    assert outcome.detail["missing_joints"] == 1
    assert np.isnan(outcome.arrays["keypoints"][0, 0, 0]).all()


def test_a_bad_sample_gets_its_status_and_the_others_go_on(tmp_path: Path) -> None:
    good = skeleton_text([[1]] * 4)
    sources = [
        Source("none"),
        Source("gone", tmp_path / "gone.skeleton"),
        source(tmp_path, "empty", skeleton_text([[], []])),
        source(tmp_path, "long", skeleton_text([[1]] * 9)),
        source(tmp_path, "cut", good[:-30]),
        source(tmp_path, "odd", good.replace("25", "20", 1)),
        Source("folder", tmp_path),
        source(tmp_path, "good", good),
    ]
    outcomes = list(ReadySkeletons(max_frames=8).run(sources))
    assert [(outcome.id, outcome.status) for outcome in outcomes] == [
        ("none", "missing-file"),
        ("gone", "missing-file"),
        ("empty", "no-person"),
        ("long", "too-long"),
        ("cut", "truncated"),
        ("odd", "unreadable"),
        ("folder", "unreadable"),
        ("good", "ok"),
    ]
    assert {outcome.status for outcome in outcomes} <= set(STATUSES)
    for outcome in outcomes:
        assert bool(outcome.arrays) == (outcome.status == "ok")
        assert str(tmp_path) not in repr(outcome.detail)
    assert [bool(outcome.source) for outcome in outcomes] == [False, False, True, True, True, True, False, True]
    assert outcomes[5].detail["why"].startswith("line 4 should say 25 joints")


def test_the_key_holds_the_parameters_and_no_path() -> None:
    keys = [
        ReadySkeletons().key(),
        ReadySkeletons(num_people=1).key(),
        ReadySkeletons(max_frames=300).key(),
        ReadySkeletons(body_rule="first").key(),
        PysklSkeletons(Path("a.pkl"), "coco-17").key(),
        PysklSkeletons(Path("a.pkl"), "ntu-25").key(),
    ]
    assert len({repr(key) for key in keys}) == len(keys)
    assert PysklSkeletons(Path("b.pkl"), "coco-17").key() == keys[4]
    assert pickle.loads(pickle.dumps(ReadySkeletons(body_rule="first"))).key() == keys[3]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReadySkeletons(body_rule="best"),
        lambda: ReadySkeletons(num_people=0),
        lambda: PysklSkeletons(Path("a.pkl"), "smpl"),
        lambda: PysklSkeletons(Path("absent.pkl")).key(),
    ],
)
def test_unusable_settings_are_rejected(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def annotation(name: str, scores: list[float], frames: int = 3, joints: int = 17) -> dict[str, Any]:
    """Person m has the score scores[m] everywhere and stands at x = 10 m."""
    people = len(scores)
    keypoint = np.full((people, frames, joints, 2), 50, np.float16)
    keypoint[..., 0] = 10 * np.arange(people)[:, None, None]
    score = np.broadcast_to(np.array(scores, np.float16)[:, None, None], (people, frames, joints)).copy()
    return {
        "frame_dir": name,
        "label": 0,
        "total_frames": frames,
        "img_shape": (240, 320),
        "keypoint": keypoint,
        "keypoint_score": score,
    }


def packed(tmp_path: Path, annotations: list[dict[str, Any]]) -> Path:
    path = tmp_path / "set.pkl"
    path.write_bytes(pickle.dumps({"split": {}, "annotations": annotations}))
    return path


def test_a_pickle_gives_pixels_scores_and_the_size_of_frames(tmp_path: Path) -> None:
    crowd = annotation("crowd", [0.25, 0.75, 0.5])
    crowd["keypoint"][1, 0] = 0
    crowd["keypoint_score"][1, 0] = 0
    path = packed(tmp_path, [crowd, annotation("alone", [0.5])])
    extractor = PysklSkeletons(path, max_frames=8)
    assert extractor.key()["layout"] == "coco-17"
    outcomes = list(extractor.run([Source("crowd", path), Source("alone", path)]))
    assert all(fits(outcome, extractor.arrays()) for outcome in outcomes)
    keypoints = outcomes[0].arrays["keypoints"]
    # The weakest of three is left out; the others keep the order of the file.
    assert keypoints[1, :, 0].tolist() == [[10, 50, 0.75], [20, 50, 0.5]]
    assert np.isnan(keypoints[0, 0]).all()
    assert np.isfinite(keypoints[0, 1]).all()
    assert outcomes[0].arrays["frame_size"].tolist() == [240, 320]
    assert np.isnan(outcomes[1].arrays["keypoints"][:, 1]).all()
    first = read_pyskl(path).annotations[0]
    assert (first.id, first.digest) == (outcomes[0].id, outcomes[0].source)
    assert outcomes[0].detail == {"frames": 3, "persons": 3, "frames_without_person": 0}


def test_pixels_of_large_frames_keep_their_digits(tmp_path: Path) -> None:
    large = annotation("large", [0.7])
    large["keypoint"] = large["keypoint"].astype(np.float32) + np.float32(3800.25)
    path = packed(tmp_path, [large])
    (outcome,) = PysklSkeletons(path).run([Source("large", path)])
    assert (outcome.arrays["keypoints"][:, 0, :, :2] == [3800.25, 3850.25]).all()


def test_a_pickle_in_metres_has_no_frame_size(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(3, 5, 25, 3)).astype(np.float16)
    points[0] = 0
    points[1, 0] = 0
    entry = {"frame_dir": "a", "label": 0, "total_frames": 5, "keypoint": points}
    path = packed(tmp_path, [entry])
    extractor = PysklSkeletons(path)
    (outcome,) = extractor.run([Source("a", path)])
    assert fits(outcome, extractor.arrays())
    keypoints = outcome.arrays["keypoints"]
    np.testing.assert_array_equal(keypoints[1:, 0], points[1, 1:].astype(np.float32))
    np.testing.assert_array_equal(keypoints[:, 1], points[2].astype(np.float32))
    assert np.isnan(keypoints[0, 0]).all()


def test_annotations_that_do_not_fit_get_their_status(tmp_path: Path) -> None:
    bare = annotation("bare", [0.5])
    del bare["keypoint_score"]
    endless = annotation("endless", [0.5])
    endless["keypoint"][0, 0, 0, 0] = np.inf
    far = annotation("far", [0.5])
    far["keypoint"] = far["keypoint"].astype(np.float64) + 1e39
    sure = annotation("sure", [0.5])
    sure["keypoint_score"] = sure["keypoint_score"].astype(np.float64) * 1e39
    zero = annotation("zero", [0.0])
    zero["keypoint"][:] = 0
    entries = [
        annotation("good", [0.5]),
        annotation("nobody", []),
        annotation("long", [0.5], frames=9),
        annotation("other", [0.5], joints=18),
        bare,
        endless,
        far,
        sure,
        zero,
    ]
    path = packed(tmp_path, entries)
    names = [entry["frame_dir"] for entry in entries]
    sources = [*(Source(name, path) for name in names), Source("absent", path), Source("good")]
    outcomes = list(PysklSkeletons(path, max_frames=8).run(sources))
    assert [outcome.status for outcome in outcomes] == [
        "ok",
        "no-person",
        "too-long",
        "unreadable",
        "ok",
        *["unreadable"] * 3,
        "no-person",
        "missing-file",
        "missing-file",
    ]


def only(tmp_path: Path, **changes: Any) -> Outcome:
    """The outcome of one clip with these fields, None for one that it lacks."""
    entry = {key: value for key, value in {**annotation("a", [0.5, 0.25]), **changes}.items() if value is not None}
    path = packed(tmp_path, [entry])
    extractor = PysklSkeletons(path)
    (outcome,) = extractor.run([Source("a", path)])
    assert outcome.status != "ok" or fits(outcome, extractor.arrays())
    return outcome


def test_what_pixels_lack_is_filled_in_and_named(tmp_path: Path) -> None:
    whole = only(tmp_path)
    points, scores = (annotation("a", [0.5, 0.25])[name] for name in ("keypoint", "keypoint_score"))
    points[1, 0] = 0
    bare = only(tmp_path, keypoint=points, keypoint_score=None)
    assert bare.detail["assumed"] == ["keypoint_score: 1"]
    assert (bare.arrays["keypoints"][1:, :, :, 2] == 1).all()
    assert np.isnan(bare.arrays["keypoints"][0, 1]).all()
    third = np.concatenate([annotation("a", [0.5, 0.25])["keypoint"], scores[..., None]], axis=3)
    for known in (None, scores):
        packed_scores = only(tmp_path, keypoint=third, keypoint_score=known)
        assert packed_scores.detail["assumed"] == ["keypoint_score: third number of keypoint"]
        np.testing.assert_array_equal(packed_scores.arrays["keypoints"], whole.arrays["keypoints"])
    sizeless = only(tmp_path, img_shape=None)
    assert sizeless.arrays["frame_size"].tolist() == [1080, 1920]
    assert sizeless.detail["assumed"] == ["img_shape: 1080 x 1920"]
    assert only(tmp_path, img_shape=None, original_shape=[480, 640]).arrays["frame_size"].tolist() == [480, 640]
    assert "assumed" not in whole.detail


@pytest.mark.parametrize("score", [0.0, 0.9])
def test_joints_that_all_lie_at_zero_are_nobody(tmp_path: Path, score: float) -> None:
    """Whatever their scores say: both projects write so what was not found."""
    nobody = {"keypoint": np.zeros((2, 3, 17, 2)), "keypoint_score": np.full((2, 3, 17), score)}
    assert only(tmp_path, **nobody).status == "no-person"
    points = annotation("a", [0.5, 0.25])["keypoint"]
    points[0, 1] = 0
    found = only(tmp_path, keypoint=points, keypoint_score=np.full(points.shape[:3], 0.9)).arrays["keypoints"]
    assert np.isnan(found[1, 0]).all()
    assert np.isfinite(found[[0, 2], 0]).all()


def test_scores_a_little_above_one_are_taken(tmp_path: Path) -> None:
    """Genuine files hold the maxima of heatmaps."""
    scores = np.full(annotation("a", [0.5, 0.25])["keypoint_score"].shape, 1.04)
    assert only(tmp_path, keypoint_score=scores).status == "ok"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"keypoint": np.full((2, 3, 17, 2), 0.5), "img_shape": None}, "numbers up to 0.5, which are no pixels"),
        ({"keypoint": np.full((2, 3, 17, 2), 0.5)}, "numbers up to 0.5, which are no pixels"),
        ({"keypoint": np.full((2, 3, 17, 2), 3000.0), "img_shape": None}, "joints far outside 1920 x 1080"),
        ({"keypoint": np.full((2, 3, 17, 3), 40.0), "keypoint_score": None}, "no score from 0 to 1"),
        ({"keypoint_score": np.full((2, 3, 17), 100.0)}, "'keypoint_score' from 100 to 100, not 0 to 1; divide per"),
        ({"keypoint_score": np.full((2, 3, 17), -3.0)}, "'keypoint_score' from -3 to -3, not 0 to 1"),
        ({"keypoint": np.full((2, 3, 17, 3), 0.75)}, "another 'keypoint_score'"),
        ({"keypoint": np.full((2, 3, 25, 3), 200.0), "keypoint_score": None}, "no metres"),
    ],
)
def test_what_could_be_meant_otherwise_is_unreadable_with_its_reason(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    outcome = only(tmp_path, **changes)
    assert outcome.status == "unreadable"
    assert why in outcome.detail["why"]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_variant_is_taken_or_gives_its_reason(tmp_path: Path, data: st.DataObject) -> None:
    joints, coordinates = data.draw(st.sampled_from([13, 17, 17, 18, 25, 25])), data.draw(st.sampled_from([2, 3]))
    shape = (data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3)), joints, coordinates)
    kind = data.draw(st.sampled_from(["f2", "f4", "f8", "i4", "u2"]))
    high = data.draw(st.sampled_from([0.0, 1.0, 3.0, 200.0, 5000.0]))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    keypoint = random.uniform(0, high, shape).astype(kind)
    score = data.draw(st.sampled_from([None, random.uniform(0, 1, shape[:3]), keypoint[..., -1]]))
    if keypoint.dtype.kind == "f" and data.draw(st.booleans()) and keypoint.size:
        keypoint.flat[0] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, -1]))
    size = data.draw(st.sampled_from([None, (240, 320), [240.0, 320.0], np.array([240, 320])]))
    changes = {"keypoint": keypoint, "keypoint_score": score, "img_shape": size, "total_frames": shape[1]}
    try:
        outcome = only(tmp_path, **changes)
    except UsageError as error:
        assert (joints, coordinates) in {(13, 3), (18, 3)}
        assert "no known layout has" in str(error)  # noqa: PT017
        return
    if outcome.status == "unreadable":
        assert outcome.detail["why"]
    else:
        assert outcome.status in {"ok", "no-person"}
    if outcome.status == "ok" and "frame_size" in outcome.arrays:
        kept = outcome.arrays["keypoints"]
        assert (outcome.arrays["frame_size"] > 0).all()
        assert ("assumed" in outcome.detail) == (score is None or size is None or coordinates == 3)
        assert np.nanmin(kept[..., 2]) >= 0 or score is not None


def test_each_clip_has_a_digest_of_what_it_is_made_of(tmp_path: Path) -> None:
    first, second = annotation("a", [0.5]), annotation("b", [0.5])
    before = {each.id: each.digest for each in read_pyskl(packed(tmp_path, [first, second])).annotations}
    second["keypoint"][0, 0, 0, 0] += 1
    first["label"] = 3
    after = {each.id: each.digest for each in read_pyskl(packed(tmp_path, [second, first])).annotations}
    assert before["a"] == after["a"]
    assert before["b"] != after["b"]
    for name, value in {"img_shape": (241, 320), "keypoint_score": first["keypoint_score"] / 2}.items():
        other = read_pyskl(packed(tmp_path, [{**first, name: value}])).annotations[0].digest
        assert other not in before.values()


def test_a_changed_pickle_is_read_again(tmp_path: Path) -> None:
    path = packed(tmp_path, [annotation("a", [0.5])])
    assert [o.status for o in PysklSkeletons(path).run([Source("b", path)])] == ["missing-file"]
    packed(tmp_path, [annotation("a", [0.5]), annotation("b", [0.5])])
    assert [o.status for o in PysklSkeletons(path).run([Source("b", path)])] == ["ok"]


def test_an_unsafe_pickle_ends_the_run(tmp_path: Path) -> None:
    path = tmp_path / "set.pkl"
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(CorruptInput, match="could run code"):
        list(PysklSkeletons(path, "coco-17").run([Source("a", path)]))
    path.write_bytes(pickle.dumps([]))
    with pytest.raises(UsageError, match="no annotations"):
        PysklSkeletons(path).arrays()


def test_a_pickle_of_20_joints_is_read_in_the_layout_that_its_bones_tell(tmp_path: Path, shared_data: Path) -> None:
    files = sorted((shared_data / "skeletons" / "utd_mhad").rglob("*_skeleton.mat"))[::60]
    entries = []
    for path in files:
        keypoints = read_utd_skeleton(path)[None]
        entries.append({"frame_dir": path.stem, "label": 0, "keypoint": keypoints, "total_frames": keypoints.shape[1]})
    pickled = tmp_path / "utd.pkl"
    pickled.write_bytes(pickle.dumps(entries))
    (note, *_) = load_dataset("pyskl", pickled).notes
    assert "taken as utd-20" in note
    extractor = PysklSkeletons(pickled)
    assert extractor.arrays()[0].attributes["layout"] == "utd-20"
    found = list(extractor.run([Source(path.stem, pickled) for path in files]))
    assert [each.status for each in found] == ["ok"] * len(files)
    np.testing.assert_array_equal(found[3].arrays["keypoints"][:, 0], read_utd_skeleton(files[3]))
    asked = PysklSkeletons(pickled, layout="kinect-20")
    assert asked.arrays()[0].attributes["layout"] == "kinect-20"
    assert asked.key() != extractor.key()


@pytest.mark.parametrize(("joints", "name"), [(13, "penn-13"), (15, "jhmdb-15"), (18, "coco-18"), (25, "body-25")])
def test_pickles_of_other_2d_joints_are_pixels_with_scores(tmp_path: Path, joints: int, name: str) -> None:
    points = np.random.default_rng(0).uniform(200, 400, (1, 5, joints, 3)).astype(np.float32)
    points[..., 2] = 0.5
    entry = {"frame_dir": "a", "label": 0, "keypoint": points, "total_frames": 5, "img_shape": (480, 640)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([entry]))
    extractor = PysklSkeletons(tmp_path / "a.pkl")
    assert extractor.arrays()[0].attributes["layout"] == name
    (found,) = extractor.run([Source("a", tmp_path / "a.pkl")])
    np.testing.assert_array_equal(found.arrays["keypoints"][:, 0], points[0])
