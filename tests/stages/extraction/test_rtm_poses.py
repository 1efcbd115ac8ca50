"""Poses by RTMO, RTMDet and RTMPose: their inputs and outputs as published, in ONNX files made here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests import made_rtm
from unialign.errors import UsageError
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.rtm_networks import RtmFile, decode_simcc, load_rtm, rtm_file
from unialign.stages.extraction.rtm_poses import RtmPoses
from unialign.stages.skeleton_layouts import HALPE_26
from unialign.stages.video import encode_clip

RED, BLUE, GREEN = (220, 40, 60), (30, 60, 200), (20, 160, 40)


def frame(
    *boxes: tuple[tuple[int, int, int], tuple[int, int, int, int]], size: tuple[int, int] = (120, 200)
) -> np.ndarray:
    """Rectangles (x1, y1, x2, y2) of one color each on black."""
    image = np.zeros((*size, 3), np.uint8)
    for color, (left, top, right, bottom) in boxes:
        image[top:bottom, left:right] = color
    return image


@pytest.fixture(scope="module")
def rtmo(tmp_path_factory: pytest.TempPathFactory) -> RtmFile:
    path = made_rtm.rtmo(tmp_path_factory.mktemp("rtmo") / "end2end.onnx", [RED, BLUE], [0.9, 0.6])
    return rtm_file(path, "--weights")


@pytest.fixture(scope="module")
def top_down(tmp_path_factory: pytest.TempPathFactory) -> tuple[RtmFile, RtmFile]:
    """RTMPose, and an RTMDet that also sees a green thing that is no person."""
    folder = tmp_path_factory.mktemp("rtmpose")
    detector = made_rtm.rtmdet(folder / "rtmdet.onnx", [GREEN, RED, BLUE], [0.95, 0.6, 0.9], [41, 0, 0])
    pose = made_rtm.rtmpose(folder / "rtmpose.onnx", RED)
    return rtm_file(pose, "--weights"), rtm_file(detector, "--detector")


def test_rtmo_finds_people_in_pixels_of_the_frame(rtmo: RtmFile) -> None:
    red, blue = (20, 10, 60, 100), (110, 30, 180, 90)
    found = load_rtm(rtmo, None, "cpu", 640, 1).people(frame((RED, red), (BLUE, blue)), 0.25, 20)
    np.testing.assert_allclose(found.scores, [0.9, 0.6], atol=1e-6)
    # A pixel of the network's image of 64 x 64 is 3.1 pixels of the frame.
    np.testing.assert_allclose(found.boxes, [red, blue], atol=4)
    for box, joints in zip(np.array([red, blue]), found.keypoints, strict=True):
        wanted = box[:2] + made_rtm.places(17) * (box[2:] - box[:2])
        np.testing.assert_allclose(joints[:, :2], wanted, atol=4)
        np.testing.assert_allclose(joints[:, 2], 0.75)


def test_who_is_not_sure_enough_or_found_twice_is_left_out(tmp_path: Path, rtmo: RtmFile) -> None:
    image = frame((RED, (20, 10, 60, 100)), (BLUE, (110, 30, 180, 90)))
    network = load_rtm(rtmo, None, "cpu", 640, 1)
    assert len(network.people(image, 0.7, 20).scores) == 1
    assert len(network.people(image, 0.25, 1).scores) == 1
    twice = rtm_file(made_rtm.rtmo(tmp_path / "twice.onnx", [RED, RED], [0.5, 0.8]), "--weights")
    found = load_rtm(twice, None, "cpu", 640, 1).people(image, 0.25, 20)
    np.testing.assert_allclose(found.scores, [0.8])


def test_rtmpose_gets_the_crop_of_each_person_and_only_of_people(top_down: tuple[RtmFile, RtmFile]) -> None:
    pose, detector = top_down
    red, blue = (30, 20, 90, 100), (120, 30, 180, 90)
    image = frame((RED, red), (BLUE, blue), (GREEN, (2, 2, 20, 20)))
    found = load_rtm(pose, detector, "cpu", 640, 1).people(image, 0.25, 20)
    np.testing.assert_allclose(found.scores, [0.9, 0.6], atol=1e-6)  # blue, then red; not green
    # RTMPose looks for red: in the crop of the red person it is where the person begins. A bin is half a pixel of the
    # crop, which is 80 * 1.25 / 64 = 1.6 pixels of the frame.
    step = 1.5625
    joints = found.keypoints[1]
    np.testing.assert_allclose(joints[:, 0], red[0] + step / 2 * np.arange(17), atol=2.5)
    np.testing.assert_allclose(joints[:, 1], red[1] + step / 2 * np.arange(17), atol=2.5)
    np.testing.assert_allclose(joints[:, 2], 0.5)  # the smaller of 0.875 and 0.5


def test_simcc_is_decoded_to_the_largest_column_and_row() -> None:
    across, down = np.zeros((1, 2, 96)), np.zeros((1, 2, 128))
    across[0, 0, 10], down[0, 0, 40] = 0.5, 0.75
    across[0, 1, 95], down[0, 1, 127] = 1.25, 1.5
    found = decode_simcc(across, down, (64, 48), (100.0, 200.0), 2.0)
    np.testing.assert_allclose(found, [[110, 240, 0.5], [195, 327, 1.0]])


def test_a_crop_at_the_border_is_black_outside(top_down: tuple[RtmFile, RtmFile]) -> None:
    pose, detector = top_down
    found = load_rtm(pose, detector, "cpu", 640, 1).people(frame((RED, (0, 0, 60, 80))), 0.5, 20)
    joints = found.keypoints[list(found.scores).index(np.float32(0.6))]
    np.testing.assert_allclose(joints[0, :2], [0, 0], atol=2.5)


def test_clips_become_tracks_and_a_bad_one_costs_itself_only(rtmo: RtmFile, tmp_path: Path) -> None:
    moving = [frame((RED, (20 + 2 * at, 10, 60 + 2 * at, 100))) for at in range(6)]
    encode_clip(tmp_path / "moving.mp4", moving, fps=10, crf=10)
    encode_clip(tmp_path / "empty.mp4", [frame()] * 3, fps=10, crf=10)
    (tmp_path / "cut.mp4").write_bytes(b"nothing")
    extractor = RtmPoses(rtmo, max_frames=16, device="cpu")
    sources = [Source(name, tmp_path / f"{name}.mp4") for name in ("moving", "empty", "cut", "absent")]
    found = list(extractor.run(sources))
    assert [one.status for one in found] == ["ok", "no-person", "unreadable", "missing-file"]
    for spec in extractor.arrays():
        value = found[0].arrays[spec.name]
        assert (value.dtype, value.shape) == (spec.dtype, (6, *spec.shape[1:]) if spec.ragged else spec.shape)
    left = found[0].arrays["keypoints"][:, 0, :, 0].min(axis=1)
    np.testing.assert_allclose(np.diff(left), 2, atol=3.5)
    alone = next(extractor.run(sources[:1]))
    assert alone.arrays["keypoints"].tobytes() == found[0].arrays["keypoints"].tobytes()


def test_other_joints_need_their_layout(tmp_path: Path) -> None:
    body = rtm_file(made_rtm.rtmo(tmp_path / "body.onnx", [RED], [0.9], num_joints=26), "--weights")
    with pytest.raises(UsageError, match="finds 26 joints, coco-17 has 17; say with --layout"):
        list(RtmPoses(body, device="cpu").run(()))
    extractor = RtmPoses(body, layout=HALPE_26, device="cpu")
    assert list(extractor.run(())) == []
    keypoints = extractor.arrays()[0]
    assert keypoints.shape[2] == 26
    assert keypoints.attributes["layout"] == "halpe-26"


def test_everything_that_decides_the_bytes_is_in_the_key(rtmo: RtmFile, top_down: tuple[RtmFile, RtmFile]) -> None:
    plain = RtmPoses(rtmo)
    others = [
        replace(plain, weights=top_down[0]),
        replace(plain, detector=top_down[1]),
        replace(plain, layout=HALPE_26),
        replace(plain, confidence=0.5),
        replace(plain, image_size=320),
    ]
    assert all(other.key() != plain.key() for other in others)
    assert replace(plain, device="cuda").key() == plain.key()
    moved = replace(plain, weights=replace(rtmo, path=Path("elsewhere.onnx")))
    assert moved.key() == plain.key()


def test_files_that_are_no_such_network_are_one_clear_error(
    rtmo: RtmFile, top_down: tuple[RtmFile, RtmFile], tmp_path: Path
) -> None:
    pose, detector = top_down
    (tmp_path / "text.onnx").write_text("no network")
    cases = [
        (lambda: rtm_file(tmp_path / "absent.onnx", "--weights"), "no such file"),
        (lambda: load_rtm(rtm_file(tmp_path / "text.onnx", "--weights"), None, "cpu", 640, 1), "cannot load it"),
        (lambda: load_rtm(pose, None, "cpu", 640, 1), "needs people's boxes"),
        (lambda: load_rtm(pose, rtmo, "cpu", 640, 1), "is no detector"),
        (lambda: load_rtm(detector, None, "cpu", 640, 1), "no RTMO and no RTMPose"),
        (lambda: load_rtm(rtmo, detector, "cpu", 640, 1), "leave out --detector"),
        (lambda: load_rtm(replace(rtmo, digest="sha256:0"), None, "cpu", 640, 1), "is not the one whose digest"),
    ]
    for attempt, message in cases:
        with pytest.raises(UsageError, match=message):
            attempt()
