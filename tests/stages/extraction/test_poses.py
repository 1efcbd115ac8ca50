"""Poses from a real network on real frames."""

import copy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.made_extractor import DEEDS
from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.pipeline.extraction.supervisor import Limits, Supervisor
from unialign.stages.extraction import poses, ultralytics_pose
from unialign.stages.extraction.base import Extractor, Source
from unialign.stages.extraction.letterbox import letterbox, placement
from unialign.stages.extraction.pose_batches import Network
from unialign.stages.extraction.poses import YoloPoses, to_detections, yolo_poses
from unialign.stages.skeleton_layouts import HAND_21
from unialign.stages.video import decode_frames, encode_clip

# Looked for, not imported: what matters is the environment in which it is imported.
pytestmark = pytest.mark.skipif(find_spec("ultralytics") is None, reason="needs the extra ultralytics")


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> Path:
    return shared_data / "weights" / "yolov8n-pose.pt"


@pytest.fixture(scope="module")
def clips(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three short clips of real people, of 5, 3 and 6 frames."""
    folder, paths = tmp_path_factory.mktemp("clips"), []
    sources = sorted((shared_data / "videos" / "gestures").rglob("*.mp4"))[::30]
    for source, num_frames in zip(sources, (5, 3, 6), strict=True):
        pictures = [picture for picture, _ in zip(decode_frames(source), range(num_frames), strict=False)]
        even = [picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2] for picture in pictures]
        encode_clip(folder / f"clip{num_frames}.mp4", even, fps=20, crf=12)
        paths.append(folder / f"clip{num_frames}.mp4")
    return paths


@pytest.fixture(scope="module")
def extractor(weights: Path) -> YoloPoses:
    torch.set_num_threads(1)
    return yolo_poses(weights, image_size=320, batch_frames=4, device="cpu")


def test_people_are_found_and_described(extractor: YoloPoses, clips: list[Path]) -> None:
    checked: Extractor = extractor
    (outcome,) = checked.run([Source("a", clips[0])])
    assert outcome.status == "ok"
    assert outcome.source == file_digest(clips[0])
    assert outcome.detail["decoded"] == outcome.detail["declared"] == outcome.detail["frames_with_person"] == 5
    assert set(outcome.arrays) == {spec.name for spec in extractor.arrays()}
    for spec in extractor.arrays():
        value = outcome.arrays[spec.name]
        assert value.dtype == spec.dtype
        assert value.shape == ((5, *spec.shape[1:]) if spec.ragged else spec.shape)
    height, width = outcome.arrays["frame_size"]
    first = outcome.arrays["keypoints"][:, 0].astype(float)
    assert first[..., 0].min() >= 0
    assert first[..., 0].max() <= width
    assert first[..., 1].max() <= height
    # The person stands upright: the nose is above the ankles.
    assert (first[:, 0, 1] < first[:, 15:, 1].min(axis=1)).all()
    assert outcome.arrays["fps"] == 20


def test_grouping_of_clips_changes_no_bit(extractor: YoloPoses, clips: list[Path]) -> None:
    sources = [Source(path.stem, path) for path in clips]
    together = list(extractor.run(sources))
    alone = [next(extractor.run([source])) for source in sources]
    backwards = list(extractor.run(sources[::-1]))[::-1]
    assert [one.id for one in together] == [source.id for source in sources]
    for several in (alone, backwards):
        for first, second in zip(together, several, strict=True):
            assert first.detail == second.detail
            np.testing.assert_array_equal(first.arrays["keypoints"], second.arrays["keypoints"])


@pytest.mark.parametrize(("deed", "status"), [("raise", "internal-error"), ("abort", "crashed")])
def test_a_clip_that_ends_a_batch_costs_itself_and_no_clip_that_shares_it(
    extractor: YoloPoses, clips: list[Path], deed: str, status: str
) -> None:
    class Breaking(YoloPoses):
        def detect(self, network: Network, place: int, clips: Sequence[poses.DetectionJob]) -> list[np.ndarray]:
            if any(clip.video.source.id == "clip3" for clip in clips):
                DEEDS[deed]()
            return super().detect(network, place, clips)

    sources = [Source(path.stem, path) for path in clips]
    given = {field.name: getattr(extractor, field.name) for field in fields(extractor)}
    with Supervisor(Breaking(**given), 1, Limits()) as watched:
        found = watched.run(sources)
    assert [outcome.status for outcome in found] == ["ok", status, "ok"]
    for one, other in zip(found[::2], extractor.run(sources[::2]), strict=True):
        assert (one.detail, one.source) == (other.detail, other.source)
        assert one.arrays["keypoints"].tobytes() == other.arrays["keypoints"].tobytes()


def test_every_batch_has_the_full_size(
    extractor: YoloPoses, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the last batch of a shard would round differently, by less than float16 shows most of the time."""
    shape = (4, 320, 320, 3)
    network, shapes = ultralytics_pose.load_network(extractor.weights, extractor.weights_digest, "cpu", shape), []

    class Watched(ultralytics_pose.PoseNetwork):
        def __init__(self) -> None:
            super().__init__(network.predict, shape)

        def detect(
            self, pictures: np.ndarray | torch.Tensor, confidence: float, max_detections: int
        ) -> list[np.ndarray]:
            shapes.append(tuple(pictures.shape))
            return super().detect(pictures, confidence, max_detections)

    monkeypatch.setattr(ultralytics_pose, "load_network", lambda *_: Watched())
    assert [one.status for one in extractor.run([Source("a", clips[0]), Source("b", clips[2])])] == ["ok", "ok"]
    assert shapes == [shape] * 3


def test_frames_keep_their_order(extractor: YoloPoses, clips: list[Path], tmp_path: Path) -> None:
    pictures = list(decode_frames(clips[0]))
    encode_clip(tmp_path / "late.mp4", [np.zeros_like(pictures[0])] * 3 + pictures[:3], fps=10, crf=12)
    (outcome,) = extractor.run([Source("late", tmp_path / "late.mp4")])
    assert np.isnan(outcome.arrays["keypoints"][:3]).all()
    assert not np.isnan(outcome.arrays["keypoints"][3:, 0]).any()
    assert outcome.detail["frames_with_person"] == 3


def test_bad_clips_do_not_end_the_rest(extractor: YoloPoses, clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clips[0].read_bytes()[:3000])
    encode_clip(tmp_path / "black.mp4", [np.zeros((64, 64, 3), dtype=np.uint8)] * 3, fps=10)
    encode_clip(tmp_path / "long.mp4", [np.zeros((64, 64, 3), dtype=np.uint8)] * 7, fps=10)
    sources = [
        Source("good", clips[1]),
        Source("cut", tmp_path / "cut.mp4"),
        Source("absent", tmp_path / "absent.mp4"),
        Source("black", tmp_path / "black.mp4"),
        Source("long", tmp_path / "long.mp4"),
        Source("last", clips[2]),
    ]
    short = YoloPoses(extractor.weights, extractor.weights_digest, image_size=320, batch_frames=4, max_frames=6)
    outcomes = list(short.run(sources))
    assert [one.id for one in outcomes] == [source.id for source in sources]
    assert [one.status for one in outcomes] == ["ok", "unreadable", "missing-file", "no-person", "too-long", "ok"]
    assert outcomes[3].detail["decoded"] == 3
    assert outcomes[4].detail["declared"] == 7
    assert all(str(tmp_path) not in str(one.detail) for one in outcomes)
    assert not any(one.arrays for one in outcomes if one.status != "ok")
    (alone,) = extractor.run(sources[-1:])
    np.testing.assert_array_equal(outcomes[-1].arrays["keypoints"], alone.arrays["keypoints"])


def test_the_network_sees_what_ultralytics_sees(weights: Path, shared_data: Path) -> None:
    """Our letterbox, suppression and scaling against `predict` of the library itself."""
    network = ultralytics_pose.load_network(weights, file_digest(weights), "cpu", (1, 640, 640, 3))
    yolo = ultralytics_pose.loader()
    num_persons = 0
    for path in sorted((shared_data / "pictures" / "coco8-pose" / "images").rglob("*.jpg"))[:4]:
        picture = np.asarray(Image.open(path).convert("RGB"))
        found = network.detect(letterbox(picture, 640)[None], 0.5, 20)[0]
        ours = to_detections(found, picture.shape[0], picture.shape[1], 640)
        theirs = yolo(str(weights)).predict(picture[..., ::-1], imgsz=640, conf=0.5, rect=False, verbose=False)[0]
        boxes, joints = theirs.boxes.xyxy.numpy(), theirs.keypoints.data.numpy()
        assert abs(len(boxes) - len(ours.scores)) <= 1
        side = max(picture.shape)
        for box, pose in zip(boxes, joints, strict=True):
            nearest = int(np.abs(ours.boxes - box).max(axis=1).argmin())
            seen = pose[:, 2] > 0.7
            assert np.abs(ours.boxes[nearest] - box).mean() < 0.02 * side
            if seen.any():
                assert np.median(np.abs(ours.keypoints[nearest][seen, :2] - pose[seen, :2])) < 0.01 * side
                num_persons += 1
    assert num_persons >= 4


@given(height=st.integers(1, 900), width=st.integers(1, 900), side=st.sampled_from([64, 320, 640]))
@settings(max_examples=60, deadline=None)
def test_pixels_come_back_from_the_square(height: int, width: int, side: int) -> None:
    top, left, new_height, new_width = placement(height, width, side)
    assert max(new_height, new_width) == side
    assert min(top, left) >= 0
    x, y = 0.3 * width, 0.8 * height
    row = np.zeros((1, 56), dtype=np.float64)
    row[0, :4] = left, top, left + new_width, top + new_height
    row[0, 5::3], row[0, 6::3] = left + x * new_width / width, top + y * new_height / height
    back = to_detections(row, height, width, side)
    np.testing.assert_allclose(back.boxes[0], [0, 0, width, height], atol=1e-3)
    np.testing.assert_allclose(back.keypoints[0, :, 0], x, atol=1e-2)
    np.testing.assert_allclose(back.keypoints[0, :, 1], y, atol=1e-2)


def test_the_letterbox_is_centered_on_gray() -> None:
    square = letterbox(np.full((10, 20, 3), 255, dtype=np.uint8), 64)
    assert (square[:16] == 114).all()
    assert (square[16:48] == 255).all()
    assert (square[48:] == 114).all()


def test_wrong_weights_are_usage_errors(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(UsageError, match="--weights"):
        yolo_poses(None)
    with pytest.raises(UsageError, match="no such weights file"):
        yolo_poses(tmp_path / "yolo11n-pose.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("no network")
    for name in ("state.pt", "text.pt"):
        with pytest.raises(UsageError, match="pose checkpoint"):
            next(yolo_poses(tmp_path / name).run([Source("a")]))
    with pytest.raises(UsageError, match="digest"):
        next(YoloPoses(weights, "sha256:00").run([Source("a")]))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "exploded",))  # type: ignore[return-value]

    torch.save({"model": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(UsageError, match="cannot be loaded"):
        next(yolo_poses(tmp_path / "bomb.pt").run([Source("a")]))
    assert not (tmp_path / "exploded").exists()


def test_a_missing_extra_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ultralytics_pose.loader.cache_clear()
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(UsageError, match=r"unialign\[ultralytics\]"):
        ultralytics_pose.loader()


def test_settings_are_checked(weights: Path) -> None:
    for wrong in ({"image_size": 333}, {"confidence": 0}, {"num_people": 0}, {"batch_frames": 0}):
        with pytest.raises(UsageError):
            YoloPoses(weights, "sha256:00", **wrong)  # type: ignore[arg-type]


def test_the_size_suits_the_stride_of_the_network(
    extractor: YoloPoses, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks of the p6 kind have a stride of 64: yolov7 report 1387."""
    assert ultralytics_pose.network_stride(extractor.weights, extractor.weights_digest) == 32
    coarse = copy.deepcopy(ultralytics_pose.load_model(extractor.weights, extractor.weights_digest))
    coarse.stride = torch.tensor([16.0, 64.0])
    monkeypatch.setattr(ultralytics_pose, "load_model", lambda *_: coarse)
    with pytest.raises(UsageError, match="352 is not a multiple of 64, which this network needs; take 384"):
        next(replace(extractor, image_size=352).run([Source("a", clips[0])]))
    assert next(extractor.run([Source("a", clips[0])])).status == "ok"


def test_the_key_tells_settings_but_no_places(weights: Path) -> None:
    key = YoloPoses(weights, "sha256:12", device="cpu").key()
    assert key == YoloPoses(Path("elsewhere.pt"), "sha256:12", device="cuda").key()
    assert "weights" in key
    assert str(weights) not in str(key)
    assert key != YoloPoses(weights, "sha256:12", image_size=320).key()
    assert key != YoloPoses(weights, "sha256:13").key()


def test_loading_is_quiet_offline_and_leaves_the_process_alone(weights: Path, tmp_path: Path) -> None:
    code = f"""
import os, socket, sys
import numpy as np
from pathlib import Path
from unialign.stages.extraction.poses import yolo_poses
from unialign.stages.extraction import ultralytics_pose as module
def refuse(*given, **named):
    os.write(2, b"NETWORK")
    raise OSError("no network in this test")
socket.getaddrinfo = socket.socket.connect = refuse
import PIL.Image, torch
before, options, patched = dict(os.environ), np.get_printoptions(), (PIL.Image.open, torch.save)
poses = yolo_poses(Path({str(weights)!r}))
module.load_network(poses.weights, poses.weights_digest, "cpu", (1, 64, 64, 3))
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert (PIL.Image.open, torch.save) == patched
assert np.get_printoptions() == options, (np.get_printoptions(), options)
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "NETWORK" not in done.stderr
    assert "AGPL-3.0" in done.stderr
    assert list(home.iterdir()) == []
    # The folder for the library's settings is gone again.
    assert not list(tmp_path.glob("unialign*"))


def test_a_network_with_other_joints_needs_their_layout(
    extractor: YoloPoses, clips: list[Path], tmp_path: Path
) -> None:
    ultralytics_pose.loader()
    from ultralytics.nn.tasks import PoseModel

    torch.manual_seed(0)
    network = PoseModel("yolov8n-pose.yaml", nc=1, data_kpt_shape=(21, 3), verbose=False)
    torch.save({"model": network, "train_args": {}}, tmp_path / "hand.pt")
    parameters = {"image_size": 64, "batch_frames": 2, "device": "cpu"}
    with pytest.raises(UsageError, match="finds 21 joints, coco-17 has 17; say with --layout"):
        list(yolo_poses(tmp_path / "hand.pt", **parameters).run(()))
    # Untrained, it is nowhere sure of anything; what comes out has the right form.
    hand = yolo_poses(tmp_path / "hand.pt", **parameters, confidence=1e-6, layout=HAND_21)
    (outcome,) = hand.run([Source("a", clips[1])])
    assert outcome.status == "ok"
    assert outcome.arrays["keypoints"].shape == (3, 2, 21, 3)
    assert hand.arrays()[0].attributes["layout"] == "hand-21"
    assert "layout" not in extractor.key()["parameters"]
    assert hand.key()["parameters"]["layout"] == "hand-21"
