"""Contract of skeletons that other programs write: what is read, and one sentence for everything else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unialign.errors import CorruptInput, UsageError
from unialign.pipeline.config import load_config
from unialign.pipeline.extraction.extractors import extract_configured
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.datasets.ctr_gcn import read_ctr_gcn
from unialign.stages.datasets.keypoint_files import read_keypoints
from unialign.stages.skeleton_layouts import COCO_17

POSE = np.random.default_rng(0).uniform(20, 200, (4, 25, 2)).round(2)  # (T, V, 2)


def flat(joints: np.ndarray, score: float = 0.5) -> list[float]:
    """x, y, score, ... of (V, 2)."""
    return np.concatenate([joints, np.full((len(joints), 1), score)], axis=1).ravel().tolist()


def openpose(folder: Path, frames: int = 4, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(frames):
        people = [{"person_id": [-1], "pose_keypoints_2d": flat(POSE[at])}]
        if at == 2:
            people.insert(0, {"pose_keypoints_2d": flat(POSE[0])})
        (folder / f"clip_{first + at:012d}_keypoints.json").write_text(json.dumps({"version": 1.3, "people": people}))
    return folder


def test_openpose_has_a_file_per_frame_and_persons_in_the_order_of_the_frame(tmp_path: Path) -> None:
    folder = openpose(tmp_path / "a")
    clip = read_keypoints(folder, "a")
    assert clip.keypoints.shape == (4, 2, 25, 3)
    np.testing.assert_allclose(clip.keypoints[:2, 0, :, :2], POSE[:2], rtol=1e-6)
    np.testing.assert_allclose(clip.keypoints[2, 1, :, :2], POSE[2], rtol=1e-6)
    assert (clip.keypoints[:2, 0, :, 2] == 0.5).all()
    assert np.isnan(clip.keypoints[0, 1]).all()
    assert clip.image_size == tuple(np.ceil(POSE.max(axis=(0, 1)))[::-1].astype(int))
    assert clip.assumed == ("an image that just holds all joints",)
    # A joint that was not found has a score of 0.
    path = folder / "clip_000000000003_keypoints.json"
    content = json.loads(path.read_text())
    content["people"][0]["pose_keypoints_2d"][3:6] = [0, 0, 0]
    path.write_text(json.dumps(content))
    assert np.isnan(read_keypoints(folder, "a").keypoints[3, 0, 1]).all()
    (folder / "clip_000000000001_keypoints.json").unlink()
    with pytest.raises(CorruptInput, match="lacks file number 1 of 0 to 3; replace the files") as raised:
        read_keypoints(folder, "a")
    assert raised.value.status == "truncated"


def alphapose(*detections: tuple[str, Any]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": 1, "keypoints": flat(POSE[0, :17]), "score": 2.5}
        | ({} if person is None else {"idx": person})
        for image, person in detections
    ]


def written(path: Path, content: object) -> Path:
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_alphapose_keeps_tracked_persons_in_one_place(tmp_path: Path) -> None:
    detections = alphapose(("0.jpg", 7), ("0.jpg", 9), ("1.jpg", [9]), ("3.jpg", [[9.0]]))
    clip = read_keypoints(written(tmp_path / "a.json", detections), "a")
    present = np.isfinite(clip.keypoints).all(axis=(2, 3))
    assert present.tolist() == [[True, True], [False, True], [False, False], [False, True]]
    clip = read_keypoints(
        written(tmp_path / "b.json", alphapose(("5.jpg", None), ("5.jpg", None), ("6.jpg", None))), "b"
    )
    assert np.isfinite(clip.keypoints).all(axis=(2, 3)).tolist() == [[True, True], [True, False]]


def test_kinetics_skeletons_are_fractions_of_an_image_of_340_x_256(tmp_path: Path) -> None:
    person = {"pose": (POSE[0, :18] / (340, 256)).ravel().tolist(), "score": [0.5] * 17 + [0]}
    content = {"data": [{"frame_index": 2, "skeleton": [person]}], "label": "x", "label_index": 0}
    clip = read_keypoints(written(tmp_path / "a.json", content), "a")
    assert (clip.keypoints.shape, clip.image_size) == ((2, 1, 18, 3), (256, 340))
    np.testing.assert_allclose(clip.keypoints[1, 0, :17, :2], POSE[0, :17], rtol=1e-5)
    assert np.isnan(clip.keypoints[1, 0, 17]).all()
    assert np.isnan(clip.keypoints[0]).all()


def landmarks(scale: float = 1.0) -> list[dict[str, float]]:
    return [{"x": scale * at / 40, "y": 0.5, "z": 0.1, "visibility": 0.9} for at in range(1, 34)]


def test_mediapipe_is_pixels_with_an_image_size_and_meters_without(tmp_path: Path) -> None:
    entry = {"pose_landmarks": landmarks(), "pose_world_landmarks": [landmarks(0.5)]}
    sized = {"width": 640, "height": 480, "frames": [entry, None, [landmarks(), landmarks()]]}
    clip = read_keypoints(written(tmp_path / "a.json", sized), "a")
    assert (clip.keypoints.shape, clip.image_size) == ((3, 2, 33, 3), (480, 640))
    np.testing.assert_allclose(clip.keypoints[0, 0, 3], (64, 240, 0.9), rtol=1e-6)
    assert np.isnan(clip.keypoints[1]).all()
    world = read_keypoints(written(tmp_path / "b.json", {"frames": [entry, {}]}), "b")
    assert (world.image_size, world.keypoints.shape) == (None, (2, 1, 33, 3))
    np.testing.assert_allclose(world.keypoints[0, 0, 3], (0.05, 0.5, 0.1), rtol=1e-6)


def test_a_csv_has_a_line_per_frame_and_person(tmp_path: Path) -> None:
    names = [name.replace(" ", "_") for name in COCO_17.joints]
    header = ["frame", "person", *(f"{name}_{kind}" for name in names for kind in ("x", "y", "confidence"))]
    lines = [
        [str(frame), str(person), *map(str, flat(POSE[0, :17] + frame))] for frame, person in ((3, 0), (4, 0), (4, 1))
    ]
    lines[0][2:5] = ["", "", ""]
    path = written(tmp_path / "a.csv", "\n".join(",".join(line) for line in [header, *lines]))
    clip = read_keypoints(path, "a")
    assert clip.keypoints.shape == (2, 2, 17, 3)
    np.testing.assert_allclose(clip.keypoints[1, 1, :, :2], POSE[0, :17] + 4, rtol=1e-6)
    assert np.isnan(clip.keypoints[0, 0, 0]).all()
    metres = "a_x,a_y,a_z,b_x,b_y,b_z\n1,2,3,4,5,6\n1,2,3,4,5,nan\n"
    clip = read_keypoints(written(tmp_path / "b.csv", metres), "b")
    assert (clip.image_size, clip.keypoints[0, 0].tolist()) == (None, [[1, 2, 3], [4, 5, 6]])
    assert np.isnan(clip.keypoints[1, 0, 1]).all()


def test_columns_of_a_csv_are_ordered_by_the_names_of_a_known_layout(tmp_path: Path) -> None:
    values = [(f"{at}", f"{at + 100}") for at in range(17)]
    names = [name.replace(" ", "_") for name in COCO_17.joints]
    for order in (range(17), range(16, -1, -1), sorted(range(17), key=names.__getitem__)):
        header = ",".join(f"{names[at]}_x,{names[at]}_y" for at in order)
        line = ",".join(",".join(values[at]) for at in order)
        clip = read_keypoints(written(tmp_path / "a.csv", f"{header}\n{line}\n"), "a")
        np.testing.assert_array_equal(clip.keypoints[0, 0, :, 1], np.arange(17) + 100)


def test_reasons_name_the_clip_and_the_frame_without_the_way_to_them(tmp_path: Path) -> None:
    clip = tmp_path / "walk"
    clip.mkdir()
    for content, problem in (("{", "is no JSON"), ('{"people": 3}', "has no list 'people'")):
        (clip / "walk_000000000000_keypoints.json").write_text(content)
        with pytest.raises(CorruptInput, match=problem) as raised:
            read_keypoints(clip, "walk")
        assert str(tmp_path) not in str(raised.value).removeprefix(f"{clip}: ")


def test_what_programs_write_differently_reads_the_same(tmp_path: Path) -> None:
    plain = "frame,a_x,a_y\n7,10,20\n8,11,21\n"
    wanted = read_keypoints(written(tmp_path / "a.csv", plain), "a").keypoints
    for number, text in enumerate(
        ("\ufeff" + plain, plain.replace("\n", "\r\n"), "frame,a_x,a_y\n7.0,10.0,20.0\n8.0,11.0,21.0\n")
    ):
        np.testing.assert_array_equal(read_keypoints(written(tmp_path / f"{number}.csv", text), "a").keypoints, wanted)
    sized = {"width": 640, "height": 480, "frames": [{"pose_landmarks": landmarks()}]}
    wanted = read_keypoints(written(tmp_path / "a.json", sized), "a").keypoints
    # Sizes from OpenCV are floats; messages of protobuf become dictionaries; Windows puts a mark before UTF-8.
    as_dictionary = {"width": 640.0, "height": 480.0, "frames": [{"pose_landmarks": {"landmark": landmarks()}}]}
    for number, content in enumerate((as_dictionary, b"\xef\xbb\xbf" + json.dumps(sized).encode())):
        clip = read_keypoints(written(tmp_path / f"{number}.json", content), "a")
        np.testing.assert_array_equal(clip.keypoints, wanted)


def test_a_broken_clip_does_not_cost_the_others(tmp_path: Path) -> None:
    """What cannot be decoded, and what is no pixels of an image, is unreadable; the extraction goes on."""
    names = ",".join(f"{name}_{axis}" for name in COCO_17.joints for axis in "xy")
    root = clips(tmp_path / "set", lambda path: written(path.with_suffix(".csv"), f"{names}\n{'5,' * 33}5\n"))
    written(root / "wave/a.csv", b"\xff")
    written(root / "jump/c.csv", f"{names}\n{'0.5,' * 33}0.5\n")
    config = load_config(
        {"cache": tmp_path / "cache", "data": root, "dataset": "skeleton-files", "extract.poses.source": "skeleton"}
    )
    done = extract_configured("poses", load_dataset("skeleton-files", root), config)
    assert (done.extracted, dict(done.quarantined)) == (2, {"unreadable": 2})
    assert {reason["why"] for reason in done.reasons} == {
        "is not UTF-8 text at byte 0; save it as UTF-8.",
        "numbers up to 0.5, which are no pixels",
    }


def test_pixels_in_place_of_fractions_are_no_pose(tmp_path: Path) -> None:
    """ST-GCN's and MediaPipe's numbers are fractions of the image; multiplied pixels would lie far outside of it."""
    root = tmp_path / "set"
    person = {"pose": POSE[0, :18].ravel().tolist(), "score": [0.5] * 18}
    content = {"data": [{"frame_index": 1, "skeleton": [person]}]}
    clips(root, lambda path: written(path.with_suffix(".json"), content))
    config = load_config(
        {"cache": tmp_path / "cache", "data": root, "dataset": "skeleton-files", "extract.poses.source": "skeleton"}
    )
    done = extract_configured("poses", load_dataset("skeleton-files", root), config)
    assert dict(done.quarantined) == {"unreadable": 4}
    assert "times the width or height of an image of 340 x 256" in str(done.reasons[0]["why"])


def test_a_list_without_detections_shows_nobody(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="holds no detections") as raised:
        read_keypoints(written(tmp_path / "a.json", []), "a")
    assert raised.value.status == "no-person"


HOSTILE: list[tuple[str, object, str]] = [
    ("json", "{", "is no JSON"),
    ("json", {}, "is no clip of AlphaPose"),
    ("json", 5, "is no clip of AlphaPose"),
    ("json", [], "holds no detections"),
    ("json", "[" * 300, "is no JSON"),
    ("json", [{"image_id": "x.jpg"}], "no frame number in 'image_id'"),
    ("json", [{"image_id": "1", "keypoints": "ab"}], "entry 0, keypoints: is no list of numbers"),
    ("json", [{"image_id": "1", "keypoints": [1, 2]}], "2 numbers are not x, y and score"),
    ("json", [{"image_id": "1", "keypoints": [True, 2, 3]}], "is no list of numbers"),
    ("json", [{"image_id": "1", "keypoints": [10**400, 2, 3]}], "is no JSON|too large"),
    ("json", [{"image_id": "1", "keypoints": [1.0] * 5000}], "5,000 numbers are of more than 256 joints"),
    ("json", [{"image_id": "1"}], "entry 0, keypoints: is missing"),
    ("json", [{"image_id": "1", "idx": True, "keypoints": [1, 2, 3]}], "'idx' 'True', which is no number"),
    ("json", [{"image_id": "1", "idx": 0.5, "keypoints": [1, 2, 3]}], "'idx' '0.5', which is no number"),
    ("json", [{"image_id": "1", "idx": "x", "keypoints": [1, 2, 3]}], "'idx' 'x', which is no number"),
    ("json", [{"image_id": "1", "idx": 1, "keypoints": [9, 9, 1]}] * 2, "person 1 is twice in one frame"),
    (
        "json",
        [{"image_id": "1", "keypoints": [9, 9, 1]}, {"image_id": "999999999", "keypoints": [9, 9, 1]}],
        "frames are more than 216,000",
    ),
    ("json", [{"image_id": "1", "keypoints": [9, 9, 1]}] * 65, "65 persons of 1 joints in 1 frames are too many"),
    ("json", [{"image_id": "1", "keypoints": [9] * 3 * at} for at in (1, 2)], "persons have 1 and 2 joints"),
    ("json", [{"image_id": "1", "keypoints": [9e5, 9, 1]}], "keypoints up to 900000 are no pixels"),
    ("json", [{"image_id": "1", "keypoints": [1e9, 9, 1]}], "numbers up to 1e.09, which are no places of joints"),
    ("json", {"data": 3}, "'data' is no list of 'frame_index'"),
    ("json", {"data": []}, "has no frames"),
    ("json", {"data": [{"frame_index": 10**12, "skeleton": []}]}, "'data' is no list of 'frame_index'"),
    ("json", {"data": [{"frame_index": 1, "skeleton": []}]}, "shows no person"),
    (
        "json",
        {"data": [{"frame_index": 1, "skeleton": [{"pose": [1], "score": [1]}]}]},
        "1 numbers of 'pose' do not fit",
    ),
    (
        "json",
        {"data": [{"frame_index": 1, "skeleton": [{"pose": [0.5, 0.5], "score": [1]}]}] * 2},
        "frame 1 is there twice",
    ),
    ("json", {"frames": [landmarks()]}, "has no 'width' and 'height'"),
    ("json", {"frames": [{"pose_landmarks": landmarks()}]}, "has neither 'width' and 'height' nor"),
    ("json", {"frames": [None]}, "shows no person"),
    ("json", {"width": 0, "height": 5, "frames": [[]]}, "no size of an image"),
    ("json", {"width": 5, "frames": [[]]}, "no size of an image"),
    ("json", {"width": 5, "height": 5, "frames": [["x"]]}, "is no list of objects with x, y and z"),
    ("json", {"width": 5, "height": 5, "frames": [[{"x": 1}]]}, "is no list of numbers"),
    ("json", {"width": 5, "height": 5, "frames": {}}, "'frames' is no list"),
    ("csv", "", "is empty"),
    ("csv", b"a_x,a_y\n\xff,1\n", "is not UTF-8 text at byte 8"),
    ("csv", 'a_x,a_y\n"1,1\n', "line 2 is not CSV"),
    ("csv", "a_x;a_y\n1;1\n", "is separated by semicolons"),
    ("csv", "a_x\ta_y\n1\t1\n", "is separated by tabs"),
    ("csv", "frame,person\n0,0\n", "has no columns of joints"),
    ("csv", ",a_x,a_y\n0,1,1\n", "column 1 has no name; without the index of pandas"),
    ("csv", "a_x,a_y\nnan,nan\n,1\n", "no joint of any person has a place"),
    ("csv", "frame,speed\n", "the column 'speed' is neither"),
    ("csv", "a_x,a_y,b_x\n1,2,3\n", "not every joint has the same columns"),
    ("csv", "a_x,a_y,a_z,a_score\n1,2,3,4\n", "joints have score, x, y, z"),
    ("csv", "a_x,a_y,b_x,b_y\n1,2,3,4\n5,6,7\n", "line 3 has 3 cells, but the header has 4"),
    ("csv", "a_x,a_y,frame\n1,2\n", "line 2 has 2 cells, but the header has 3"),
    ("csv", "a_x,a_y\n1,2,3\n", "line 2 has 3 cells, but the header has 2"),
    ("csv", "a_x,a_y,A_x\n1,2,3\n", "two columns for the x of a"),
    ("csv", "a_x,a_y,a_score,a_confidence\n1,2,3,4\n", "two columns for the score of a"),
    ("csv", "frame,a_x,a_y,frame\n1,2,3,4\n", "two columns frame"),
    ("csv", "a_x,a_y\n1,x\n", "line 2 holds something that is no number"),
    ("csv", "a_x,a_y\n", "has a header, but no lines below it"),
    ("csv", "frame,a_x,a_y\n-1,1,1\n", "'-1', no number of a frame"),
    ("csv", "frame,a_x,a_y\n0,1,1\n999999,1,1\n", "1,000,000 frames are more than 216,000"),
    ("csv", "frame,a_x,a_y\n0,1,1\n0,1,1\n", "person 0 is twice in frame 0"),
    ("csv", "person,a_x,a_y\n70,1,1\n", "71 persons"),
]


@pytest.mark.parametrize(("suffix", "content", "problem"), HOSTILE)
def test_what_is_no_clip_is_one_sentence(tmp_path: Path, suffix: str, content: object, problem: str) -> None:
    path = written(tmp_path / f"a.{suffix}", content)
    with pytest.raises(CorruptInput, match=problem) as raised:
        read_keypoints(path, "a")
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


FIELDS = (
    *("image_id", "keypoints", "idx", "data", "frame_index", "skeleton", "pose", "score", "frames", "width", "height"),
    *("pose_landmarks", "pose_world_landmarks", "x", "y", "z"),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(FIELDS),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_clip_or_one_sentence(tmp_path: Path, content: object) -> None:
    path = written(tmp_path / "a.json", content)
    message = ""
    try:
        assert read_keypoints(path, "a").keypoints.ndim == 4
    except CorruptInput as error:
        message = str(error)
    assert not message or message.startswith(str(path))


def clips(root: Path, write: Callable[[Path], object]) -> Path:
    for name in ("wave/a", "wave/b", "jump/c", "jump/d"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write(root / name)
    return root


@pytest.mark.parametrize(
    ("write", "layout", "form"),
    [
        (openpose, "body-25", "openpose"),
        (lambda path: written(path.with_suffix(".json"), alphapose(("1.jpg", 1), ("2.jpg", 1))), "coco-17", "json"),
        (
            lambda path: written(path.with_suffix(".json"), {"frames": [{"pose_world_landmarks": landmarks()}]}),
            "mediapipe-33",
            "json",
        ),
        (
            lambda path: written(
                path.with_suffix(".csv"),
                ",".join(f"{name}_{axis}" for name in COCO_17.joints for axis in "xy")
                + "\n"
                + ",".join(str(value) for value in POSE[0, :17].ravel()),
            ),
            "coco-17",
            "csv, zeros are absent",
        ),
    ],
)
def test_class_folders_of_files_become_poses(
    tmp_path: Path, write: Callable[[Path], object], layout: str, form: str
) -> None:
    root = clips(tmp_path / "set", write)
    dataset = load_dataset("skeleton-files", root)
    assert [(sample.id, dataset.classes[sample.label]) for sample in dataset.samples] == [
        ("jump/c", "jump"),
        ("jump/d", "jump"),
        ("wave/a", "wave"),
        ("wave/b", "wave"),
    ]
    assert (dataset.skeleton_format.layout.name, dataset.skeleton_format.name) == (layout, form)
    config = load_config(
        {"cache": tmp_path / "cache", "data": root, "dataset": "skeleton-files", "extract.poses.source": "skeleton"}
    )
    assert extract_configured("poses", dataset, config).extracted == 4
    assert extract_configured("poses", dataset, config).extracted == 0


def test_a_list_labels_files_and_another_format_is_refused(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", lambda path: written(path.with_suffix(".json"), alphapose(("1.jpg", 1))))
    (root / "labels.csv").write_text("path,label,split\nwave/a.json,x,train\njump/c.json,y,test\n")
    dataset = load_dataset("skeleton-files", root)
    assert {sample.id: dataset.classes[sample.label] for sample in dataset.samples} == {"wave/a": "x", "jump/c": "y"}
    assert dataset.split().test == ("jump/c",)
    (root / "labels.csv").write_text("path,label\nwave/a.mp4,x\n")
    with pytest.raises(UsageError, match=r"'wave/a\.mp4', which is neither one nor a folder"):
        load_dataset("skeleton-files", root)
    openpose(root / "wave" / "z")
    with pytest.raises(UsageError, match="expected files of one format"):
        load_dataset("skeleton-files", root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="but none is there"):
        load_dataset("skeleton-files", tmp_path / "empty")


def kinetics(root: Path, **changed: Any) -> Path:
    person = {"pose": (POSE[0, :18] / (340, 256)).ravel().tolist(), "score": [0.5] * 18}
    for part, clip, label in (("train", "a", 1), ("train", "b", 0), ("val", "c", 0)):
        (root / f"kinetics_{part}").mkdir(parents=True, exist_ok=True)
        content = {"data": [{"frame_index": 1, "skeleton": [person]}], "label": "x", "label_index": label}
        written(root / f"kinetics_{part}" / f"{clip}.json", content)
    names = ("abseiling", "air drumming")
    lists = {
        "train": {
            name: {"has_skeleton": name != "z", "label": names[at], "label_index": at}
            for name, at in (("a", 1), ("b", 0), ("z", 0))
        },
        "val": {"c": {"has_skeleton": True, "label": names[0], "label_index": 0}},
    } | changed
    for part, content in lists.items():
        written(root / f"kinetics_{part}_label.json", content)
    return root


def test_kinetics_skeleton_has_its_own_lists(tmp_path: Path) -> None:
    dataset = load_dataset("kinetics-skeleton", kinetics(tmp_path))
    assert dataset.classes == ("abseiling", "air drumming")
    assert {sample.id: (sample.label, bool(sample.files)) for sample in dataset.samples} == {
        "a": (1, True),
        "b": (0, True),
        "c": (0, True),
        "z": (0, False),
    }
    assert (dataset.split().train, dataset.split().test) == (("a", "b", "z"), ("c",))
    assert dataset.notes == ("1 clips have no skeleton here",)
    config = load_config(
        {"cache": tmp_path / "x", "data": tmp_path, "dataset": dataset.name, "extract.poses.source": "skeleton"}
    )
    done = extract_configured("poses", dataset, config)
    assert (done.extracted, dict(done.quarantined)) == (3, {"missing-file": 1})


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"val": []}, "'the file' has no 'label'"),
        ({"val": {"c": {"label": "x"}}}, "'c' has no 'label' and 'label_index'"),
        ({"val": {"c": {"label": "x", "label_index": 0}}}, "another label or part"),
        ({"val": {"a": {"label": "air drumming", "label_index": 1}}}, "another label or part"),
        ({"val": {"c": {"label": "x", "label_index": 7}}}, "are not 0 to 2"),
    ],
)
def test_lists_of_kinetics_skeleton_of_another_form_are_refused(
    tmp_path: Path, changed: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        load_dataset("kinetics-skeleton", kinetics(tmp_path, **changed))


def ctr_gcn(path: Path, **changed: Any) -> Path:
    generator = np.random.default_rng(0)
    frames = generator.uniform(-1, 1, (5, 6, 150)).astype(np.float32)
    frames[1, 4:] = 0
    frames[1, :, 75:] = 0
    frames[1, 0, 3:6] = 0  # the joint that positions are relative to
    frames[2] = 0
    arrays = {
        "x_train": frames[:3],
        "y_train": np.eye(60, dtype=np.int64)[[3, 0, 59]],
        "x_test": frames[3:],
        "y_test": np.eye(60, dtype=np.int64)[[1, 1]],
    }
    np.savez(path, **{name: value for name, value in (arrays | changed).items() if value is not None})
    return path


def test_a_file_of_ctr_gcn_has_samples_labels_and_parts(tmp_path: Path) -> None:
    path = ctr_gcn(tmp_path / "NTU60_CS.npz")
    dataset = load_dataset("ctr-gcn", path)
    assert {sample.id: sample.label for sample in dataset.samples} == {
        "test/000000": 1,
        "test/000001": 1,
        "train/000000": 3,
        "train/000001": 0,
        "train/000002": 59,
    }
    assert (dataset.classes[0], len(dataset.classes)) == ("drink water", 60)
    assert dataset.split().test == ("test/000000", "test/000001")
    clip = read_ctr_gcn(path, "train/000001").keypoints
    assert clip.shape == (4, 2, 25, 3)
    assert np.isnan(clip[:, 1]).all()
    assert np.isfinite(clip[:, 0]).all()
    assert (clip[0, 0, 1] == 0).all()
    with pytest.raises(CorruptInput, match="train/000002 is all zeros") as raised:
        read_ctr_gcn(path, "train/000002")
    assert raised.value.status == "no-person"
    for strange in ("train/3", "train/x", "val/0", "train"):
        with pytest.raises(KeyError):
            read_ctr_gcn(path, strange)
    config = load_config(
        {"cache": tmp_path / "cache", "data": path, "dataset": "ctr-gcn", "extract.poses.source": "skeleton"}
    )
    done = extract_configured("poses", dataset, config)
    assert (done.extracted, dict(done.quarantined)) == (4, {"no-person": 1})


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"x_test": None}, "has no 'x_test' and 'y_test'"),
        ({"y_train": None}, "has no 'x_train' and 'y_train'"),
        ({"x_test": np.zeros((2, 6, 75), np.float32)}, r"'x_test' is float32 \(2, 6, 75\)"),
        ({"x_test": np.zeros((2, 6, 150), np.int64)}, "'x_test' is int64"),
        ({"x_test": np.zeros((2, 9, 150), np.float32)}, "have .6, 9. frames"),
        ({"y_test": np.ones((2, 60), np.int64)}, "'y_test' is not one-hot"),
        ({"y_test": np.eye(60)[:1]}, "'y_test' has the shape"),
        ({"y_test": np.array([1, -1])}, "labels from -1 to 1"),
        ({"y_test": np.array([1, 10**9])}, "labels from 1 to 1000000000"),
        ({"y_test": np.array(["a", "b"])}, "not of whole numbers"),
        ({"y_test": np.array([0.5, 1])}, "fractions"),
    ],
)
def test_files_of_ctr_gcn_of_another_form_are_refused(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(CorruptInput, match=problem) as raised:
        load_dataset("ctr-gcn", ctr_gcn(tmp_path / "a.npz", **changed))
    assert str(tmp_path) in str(raised.value)
    # The input as a whole, not one file of many: docs/cli.md.
    assert raised.value.exit_code == 2
