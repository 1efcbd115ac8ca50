"""Own skeletons in an npz file: what is read, what is assumed, and what is refused."""

import contextlib
import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.datasets.facts import dataset_facts
from unialign.stages.datasets.own_skeletons import own_skeleton_digest, read_own_skeleton, read_own_skeletons
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.skeleton_files import SkeletonFiles
from unialign.stages.skeleton_layouts import LAYOUTS, custom_layout

LENGTHS = (4, 3, 5)
HAND = {"joints": np.array(["wrist", "left tip", "right tip"]), "edges": np.array([[0, 1], [0, 2]])}


def content(joints: int = 17, coordinates: int = 2, people: int = 2, **changed: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    keypoints = generator.uniform(1, 600 if coordinates == 2 else 2, (sum(LENGTHS), people, joints, coordinates))
    arrays: dict[str, Any] = {
        "ids": np.array(["a/1", "c", "b"]),
        "labels": np.array(["wave", "bow", "wave"]),
        "keypoints": keypoints.astype(np.float32),
        "lengths": np.array(LENGTHS),
    }
    return {name: value for name, value in (arrays | changed).items() if value is not None}


def written(path: Path, **arrays: Any) -> Path:
    np.savez(path, **content(**arrays))
    return path


def extracted(path: Path) -> dict[str, Any]:
    dataset = load_dataset("skeletons", path)
    extractor = SkeletonFiles(dataset.skeleton_format)
    found = extractor.run([Source(each.id, path) for each in dataset.samples])
    return {each.id: each for each in found}


def test_four_arrays_are_a_dataset(tmp_path: Path) -> None:
    arrays = content()
    arrays["keypoints"][2, 1] = np.nan
    arrays["keypoints"][3, 0, 5, 0] = np.nan
    path = tmp_path / "my clips.npz"
    np.savez(path, **arrays)
    dataset = load_dataset("skeletons", path)
    assert [(each.id, dataset.classes[each.label]) for each in dataset.samples] == [
        ("a/1", "wave"),
        ("b", "wave"),
        ("c", "bow"),
    ]
    assert (dataset.classes, dataset.collection) == (("bow", "wave"), "skeletons-my-clips")
    assert list(dataset.protocols) == ["holdout"]
    assert dataset.notes[0] == "3 samples of 17 joints (coco-17) in pixels, up to 2 persons"
    assert dataset.notes[1].startswith("no 'image_size': an image of ")
    keypoints = extracted(path)["a/1"].arrays["keypoints"]
    assert keypoints.shape == (4, 2, 17, 3)
    assert np.isnan(keypoints[2, 1]).all()
    assert np.isnan(keypoints[3, 0, 5]).all()
    assert np.isnan(keypoints).sum() == 17 * 3 + 3
    np.testing.assert_array_equal(keypoints[:2, :, :, :2], arrays["keypoints"][:2])
    assert (keypoints[:2, ..., 2] == 1).all()
    size = extracted(path)["b"].arrays["frame_size"]
    assert size.tolist() == np.ceil(np.nanmax(arrays["keypoints"], axis=(0, 1, 2)))[::-1].tolist()


def test_joints_in_the_corner_of_the_image_are_absent_in_pixels(tmp_path: Path) -> None:
    keypoints = content()["keypoints"]
    keypoints[0, 0, 5] = keypoints[1, 1] = 0
    path = written(tmp_path / "a.npz", keypoints=keypoints)
    found = extracted(path)["a/1"].arrays["keypoints"]
    assert np.argwhere(np.isnan(found[..., 0])).tolist() == [[0, 0, 5], *([1, 1, joint] for joint in range(17))]
    assert "18 joints (4.4 %) at the origin are taken as absent, as NaN is" in read_own_skeletons(path).notes


def test_in_meters_and_around_the_body_only_a_person_of_zeros_is_absent(tmp_path: Path) -> None:
    room, body = content(joints=25, coordinates=3)["keypoints"], content()["keypoints"] - 300
    for name, keypoints in (("room", room), ("body", body)):
        keypoints[0, 0, 0] = keypoints[2, 1] = 0
        found = extracted(written(tmp_path / f"{name}.npz", keypoints=keypoints))["a/1"].arrays["keypoints"]
        assert np.isnan(found[2, 1]).all(), name
        assert np.isnan(found).any(axis=3).sum() == keypoints.shape[2], name


def test_the_notes_say_that_val_is_tested_and_that_labels_should_count_from_zero(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", splits=np.array(["train", "train", "val"]), labels=np.array([1, 2, 1]))
    notes = dataset_facts(load_dataset("skeletons", path))["notes"]
    assert any(note.startswith("there is no test part, so val is what is tested") for note in notes)
    assert "no clip has the label 0 (class 0), all others occur: labels count from 0, not from 1" in notes


def test_everything_that_is_given_is_used(tmp_path: Path) -> None:
    scores = np.random.default_rng(1).uniform(size=(12, 2, 3)).astype(np.float32)
    path = tmp_path / "all.npz"
    np.savez(
        path,
        **{
            **content(joints=3),
            **HAND,
            "scores": scores,
            "splits": np.array(["Train", "test", "val"]),
            "groups": np.array([7, 8, 7]),
            "labels": np.array([1, 0, 1]),
            "classes": np.array(["take_off", "land"]),
            "image_size": np.array([[480, 640]] * 3),
            "units": np.array("pixel"),
            "centre": np.array(1),
            "mirror": np.array([0, 2, 1]),
            "remarks": np.array(["free text"]),
        },
    )
    dataset = load_dataset("skeletons", path)
    assert dataset.classes == ("take off", "land")
    assert list(dataset.protocols) == ["split", "group"]
    split = dataset.split()
    assert (split.train, split.val, split.test) == (("a/1",), ("b",), ("c",))
    assert [each.attributes for each in dataset.samples] == [{"group": "7"}, {"group": "7"}, {"group": "8"}]
    layout = dataset.skeleton_format.layout
    assert layout == custom_layout(HAND["joints"].tolist(), [(0, 1), (0, 2)], center=1, where="x")
    assert (layout.bones, layout.mirror) == (((0, 1), (2, 0)), (0, 2, 1))
    assert dataset.notes[1:] == ("array 'remarks' is not used",)
    found = extracted(path)["c"]
    np.testing.assert_array_equal(found.arrays["keypoints"][..., 2], scores[4:7])
    assert found.arrays["frame_size"].tolist() == [480, 640]
    assert "assumed" not in found.detail
    (keypoints, _) = SkeletonFiles(dataset.skeleton_format).arrays()
    assert keypoints.attributes["bones"] == [[0, 1], [2, 0]]


def test_metres_have_scores_of_their_own_and_persons_are_chosen(tmp_path: Path) -> None:
    arrays = content(joints=25, coordinates=3, people=3)
    arrays["keypoints"][:2, 0] = np.nan
    scores = np.random.default_rng(1).uniform(size=(12, 3, 25)).astype(np.float32)
    np.savez(tmp_path / "a.npz", **arrays, scores=scores)
    dataset = load_dataset("skeletons", tmp_path / "a.npz")
    assert (dataset.skeleton_format.layout.name, dataset.skeleton_format.unit) == ("ntu-25", "metre")
    found = extracted(tmp_path / "a.npz")["a/1"]
    np.testing.assert_array_equal(found.arrays["keypoints"], arrays["keypoints"][:4, 1:])
    np.testing.assert_array_equal(found.arrays["scores"], scores[:4, 1:])
    assert found.detail["persons"] == 3


@pytest.mark.parametrize(
    ("joints", "coordinates", "scale", "name", "unit"),
    [
        (13, 2, 1, "penn-13", "pixel"),
        (15, 2, 1, "jhmdb-15", "pixel"),
        (18, 2, 1, "coco-18", "pixel"),
        (25, 2, 1, "body-25", "pixel"),
        (33, 3, 1, "mediapipe-33", "metre"),
        (17, 3, 1, "h36m-17", "metre"),
        (17, 3, [300, 200, 0.4], "coco-17", "pixel"),
    ],
)
def test_layout_and_unit_follow_from_the_numbers(tmp_path: Path, joints, coordinates, scale, name, unit) -> None:
    arrays = content(joints, coordinates)
    np.savez(tmp_path / "a.npz", **arrays | {"keypoints": arrays["keypoints"] * np.array(scale)})
    form = load_dataset("skeletons", tmp_path / "a.npz").skeleton_format
    assert (form.layout.name, form.unit) == (name, unit)
    named = written(tmp_path / "b.npz", joints=20, coordinates=3, layout=np.array("kinect-20"))
    assert load_dataset("skeletons", named).skeleton_format.layout is LAYOUTS["kinect-20"]


def test_each_sample_has_its_own_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = content(image_size=np.array([480, 640]))
    np.savez(path, **arrays)
    before = {name: own_skeleton_digest(path, name) for name in ("a/1", "b", "c")}
    assert [each.digest for each in load_dataset("skeletons", path).samples] == [
        before["a/1"],
        before["b"],
        before["c"],
    ]
    arrays["keypoints"][4, 0, 0, 0] += 1
    np.savez(path, **arrays)
    after = {name: own_skeleton_digest(path, name) for name in ("a/1", "b", "c")}
    assert {name for name in before if before[name] != after[name]} == {"c"}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"ids": None}, "has no 'ids'"),
    ({"ids": np.array([], str)}, "give one id for each sample"),
    ({"ids": np.array([["a", "b", "c"]])}, "give one id for each sample"),
    ({"ids": np.array([1, 2, 3])}, "'ids' is an array of int64, not of texts"),
    ({"ids": np.array(["a", "b", None])}, "'ids' holds Python objects"),
    ({"ids": np.array(["a", "a", "b"])}, "two samples have the id 'a'"),
    ({"ids": np.array(["a", "A", "b"])}, "differ only in case"),
    ({"ids": np.array(["a", "../x", "b"])}, "holds '..'"),
    ({"ids": np.array(["a", "/x", "b"])}, "is absolute"),
    ({"ids": np.array([b"a", b"\xff", b"b"])}, "no UTF-8"),
    ({"labels": None, "keypoints": None}, "has no 'labels' and no 'keypoints'"),
    ({"labels": np.array([0, 1])}, r"'labels' has the shape \(2,\), not \(3,\)"),
    ({"labels": np.array([0, -1, 1])}, "goes from -1 to 1"),
    ({"labels": np.array([0.5, 1, 1])}, "'labels' holds fractions"),
    ({"labels": np.array([np.nan, 1, 1])}, "'labels' holds numbers that are no counts"),
    ({"labels": np.array([0, 10**6, 1])}, "goes from 0 to 1000000"),
    ({"labels": np.array([True, False, True])}, "'labels' is an array of bool"),
    ({"labels": np.array(["a", "A", "b"])}, "read the same"),
    ({"labels": np.array([0, 1, 2]), "classes": np.array(["x", "y"])}, "goes up to 2, but 'classes' has 2 names"),
    ({"classes": np.array(["x", "y"])}, "the label 'wave' is none of 'classes'"),
    ({"lengths": np.array([4, 3, 4])}, "adds up to 11 frames, but 'keypoints' has 12"),
    ({"lengths": np.array([12, 0, 0])}, "'c' has 0 frames"),
    ({"lengths": np.array([13, -2, 1])}, "'c' has -2 frames"),
    ({"lengths": np.array([4.5, 3, 4.5])}, "'lengths' holds fractions"),
    ({"lengths": np.array(["4", "3", "5"])}, "'lengths' is an array of <U1"),
    ({"keypoints": np.ones((12, 17, 2))}, r"'keypoints' has the shape \(12, 17, 2\)"),
    ({"keypoints": np.ones((12, 1, 17, 4))}, r"'keypoints' has the shape \(12, 1, 17, 4\)"),
    ({"keypoints": np.ones((12, 0, 17, 2))}, "'keypoints' has 0 persons"),
    ({"keypoints": np.ones((12, 65, 17, 2))}, "'keypoints' has 65 persons"),
    ({"keypoints": np.ones((12, 1, 17, 2), complex)}, "'keypoints' is an array of complex128"),
    ({"keypoints": np.full((12, 1, 14, 2), 9)}, "no known layout has 14 joints in pixels"),
    ({"keypoints": np.ones((12, 1, 0, 2))}, "leaves no joints"),
    ({"keypoints": np.full((12, 1, 17, 2), 0.9)}, "up to 0.9 are no pixels"),
    ({"labels": np.array(["a", "b\x07", "c"])}, "holds a control character"),
    ({"classes": np.array(["wave", "bow", "wave"])}, "names 'wave' twice"),
    ({"groups": np.array(["Anna", "anna", "ben"])}, "'Anna' and 'anna', which read the same"),
    ({"groups": np.array(["anna", "", "ben"])}, "'groups' is empty for some sample"),
    ({"ids": np.array(["a\\b", "c", "d"])}, "holds a backslash; write / between folders"),
    ({"keypoints": np.ones((12, 1, 20, 3))}, "utd-20 or kinect-20; say which"),
    ({"keypoints": np.full((12, 1, 17, 2), 1e7)}, "no pixels of an image"),
    ({"keypoints": np.full((12, 1, 25, 3), 500.0)}, "are no metres"),
    ({"scores": np.ones((12, 2, 16))}, "'scores' has the shape"),
    ({"scores": np.ones((12, 2, 17), str)}, "'scores' is an array of"),
    ({"keypoints": np.ones((12, 1, 17, 3)), "scores": np.ones((12, 1, 17)), "units": np.array("px")}, "drop one"),
    ({"splits": np.array(["train", "test"])}, "'splits' has the shape"),
    ({"splits": np.array(["train", "tset", "val"])}, "'splits' has 'tset'"),
    ({"splits": np.array(["train", "train", ""])}, "needs a train part and one to test on"),
    ({"splits": np.array(["test", "test", "val"])}, "needs a train part"),
    ({"splits": np.array(["train", "test", "eval"])}, "has both a test and an eval part"),
    ({"groups": np.array([1, 2])}, "'groups' has the shape"),
    ({"groups": np.array([1.5, 2, 3])}, "'groups' holds fractions"),
    ({"units": np.array("feet")}, "'units' is 'feet'; known are pixel and metre"),
    ({"units": np.array(["pixel", "metre"])}, "give one word for all samples"),
    ({"units": np.array("metre")}, "two coordinates are in pixels"),
    ({"image_size": np.ones((2, 2), int)}, "'image_size' has the shape"),
    ({"image_size": np.zeros((3, 2), int)}, "no heights and widths"),
    ({"image_size": np.full((3, 2), 10**6)}, "no heights and widths"),
    ({"layout": np.array("smpl")}, "unknown joint layout 'smpl'"),
    ({"layout": np.array("ntu-25")}, "has 25 joints, keypoints have 17"),
    ({"joints": np.array(["a", "b"])}, "'joints' has the shape"),
    ({"joints": np.array([f"j{at}" for at in range(17)])}, "'joints' are those of no known layout; give 'edges'"),
    ({"edges": np.ones((15, 2), int)}, "'edges' has the shape"),
    ({"edges": np.ones((16, 2), int)}, "is not between two"),
    ({"edges": np.array([(0, 1)] * 16)}, "do not connect 17 joints"),
    ({"edges": np.array([(0, at) for at in range(1, 17)]), "centre": np.array([1, 2])}, "not the number of one joint"),
    ({"edges": np.array([(0, at) for at in range(1, 17)]), "centre": np.array(17)}, "the center 17 is not one"),
    ({"edges": np.array([(0, at) for at in range(1, 17)]), "mirror": np.arange(16)}, "mirror should name"),
    ({"edges": np.array([(0, at) for at in range(1, 17)]), "mirror": np.roll(np.arange(17), 1)}, "name each other"),
]


@pytest.mark.parametrize(("changed", "problem"), WRONG, ids=[problem[:40] for _, problem in WRONG])
def test_what_is_not_as_described_is_refused_with_the_file_and_the_array(tmp_path: Path, changed, problem) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{name: value for name, value in (content() | changed).items() if value is not None})
    with pytest.raises((CorruptInput, UsageError), match=problem) as raised:
        load_dataset("skeletons", path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"image_size": np.array([10, 20])}, "times the width or height of an image of 20 x 10"),
        ({"scores": np.full((12, 2, 17), 97.0)}, "scores from 97 to 97, not 0 to 1; divide per cents by 100"),
        ({"scores": np.full((12, 2, 17), -3.0)}, "scores from -3 to -3, not 0 to 1"),
    ],
)
def test_numbers_that_are_no_pixels_or_scores_are_unreadable(tmp_path: Path, changed, why: str) -> None:
    outcome = extracted(written(tmp_path / "a.npz", **changed))["b"]
    assert outcome.status == "unreadable"
    assert str(outcome.detail["why"]).endswith(why)


def test_what_has_no_effect_is_in_the_notes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", mirror=np.arange(17), layout=np.array("coco-17"))
    assert "'mirror' is not used without 'edges'" in load_dataset("skeletons", path).notes


def test_infinite_numbers_are_the_fault_of_their_sample(tmp_path: Path) -> None:
    arrays = content()
    arrays["keypoints"][5, 0, 0, 0] = np.inf
    np.savez(tmp_path / "a.npz", **arrays)
    found = extracted(tmp_path / "a.npz")
    assert {name: each.status for name, each in found.items()} == {"a/1": "ok", "b": "ok", "c": "unreadable"}
    assert found["c"].detail["why"] == "'c' holds infinite numbers; what is absent is NaN."


def test_files_that_are_no_npz_and_sources_that_are_not_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CorruptInput, match="is no whole npz file"):
        load_dataset("skeletons", path)
    written(path)
    form = load_dataset("skeletons", path).skeleton_format
    assert next(iter(SkeletonFiles(form).run([Source("other", path)]))).status == "missing-file"
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(CorruptInput, match="is no whole npz file"):
        load_dataset("skeletons", tmp_path / "a.npy")


def test_compressed_files_are_read_and_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    plain, packed = written(tmp_path / "a.npz"), tmp_path / "b.npz"
    np.savez_compressed(packed, **content())
    for name in ("a/1", "b", "c"):
        np.testing.assert_array_equal(
            read_own_skeleton(plain, name).keypoints, read_own_skeleton(packed, name).keypoints
        )
        assert own_skeleton_digest(plain, name) == own_skeleton_digest(packed, name)
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content().items():
            buffer = io.BytesIO()
            np.save(buffer, value)
            archive.writestr(f"{name}.npy", buffer.getvalue())
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**27,)})
        archive.writestr("scores.npy", header.getvalue() + bytes(2**29))
    assert bomb.stat().st_size < 2**20
    tracemalloc.start()
    with pytest.raises(CorruptInput, match="are more than such a file may hold; save it with"):
        read_own_skeletons(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    kept=st.floats(0.2, 1.0),
    compressed=st.booleans(),
)
def test_damage_is_an_error_of_the_file_and_nothing_else(tmp_path: Path, changes, kept, compressed) -> None:
    path = tmp_path / f"{compressed}.npz"
    if not path.exists():
        (np.savez_compressed if compressed else np.savez)(path, **content(people=1, joints=3), **HAND)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(data[: int(kept * len(data))])
    with contextlib.suppress(CorruptInput, UsageError):
        for sample in load_dataset("skeletons", damaged).samples:
            read_own_skeleton(damaged, sample.id)
