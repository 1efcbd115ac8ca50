from dataclasses import replace

import numpy as np
import pytest

from unialign.stages.demo.body import JOINT_INDEX, Posture
from unialign.stages.demo.camera import AZIMUTHS, Camera
from unialign.stages.demo.motions import ACTIONS
from unialign.stages.demo.performers import make_performer
from unialign.stages.demo.scene import SENSOR_NOISE, SIZE, ClipKey, render_take, stage_take, track_take

KEYS = [ClipKey(1, 2, 1, 1), ClipKey(2, 5, 1, 7), ClipKey(3, 4, 1, 12), ClipKey(1, 9, 1, 8)]


def test_names_follow_the_ntu_grammar():
    assert ClipKey(camera=2, performer=13, replication=1, action=9).name == "S001C002P013R001A009"


def test_same_numbers_give_the_same_bytes():
    first, second = (stage_take(KEYS[0], seed=5) for _ in range(2))
    assert render_take(first).tobytes() == render_take(second).tobytes()
    for one, other in zip(track_take(first), track_take(second), strict=True):
        assert one.tobytes() == other.tobytes()


def test_tracking_does_not_depend_on_rendering():
    drawn, fresh = stage_take(KEYS[1], seed=5), stage_take(KEYS[1], seed=5)
    render_take(drawn)
    np.testing.assert_array_equal(track_take(drawn)[0], track_take(fresh)[0])


@pytest.mark.parametrize("changed", ["camera", "performer", "replication", "action", "seed"])
def test_every_number_changes_the_clip(changed):
    key = ClipKey(1, 1, 1, 3)
    numbers = {"camera": 2, "performer": 2, "replication": 2, "action": 4}
    base = track_take(stage_take(key, seed=1))[0]
    if changed == "seed":
        other = track_take(stage_take(key, seed=2))[0]
    else:
        other = track_take(stage_take(replace(key, **{changed: numbers[changed]}), seed=1))[0]
    assert base.shape != other.shape or not np.allclose(base, other, atol=0.01)


def test_clips_have_about_32_frames_and_the_stated_size():
    lengths = [len(stage_take(ClipKey(1, p, 1, a), 0).posture.joints) for p in range(1, 7) for a in (1, 6, 11)]
    assert 28 <= min(lengths) < max(lengths) <= 36
    frames = render_take(stage_take(KEYS[3], 0))
    assert frames.shape[1:] == (*SIZE, 3)
    assert frames.dtype == np.uint8


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_joints_lie_on_the_pixels_of_the_figure(key):
    take = stage_take(key, seed=0)
    aside = take.camera.rotation[0] * 50.0
    gone = replace(take, posture=Posture(take.posture.joints + aside, take.posture.trunk, take.posture.head))
    difference = np.abs(render_take(take).astype(int) - render_take(gone).astype(int)).sum(axis=-1)
    _, pixels = track_take(take)
    hits = []
    for frame, spots in enumerate(np.rint(pixels).astype(int)):
        for column, row in spots:
            if 1 <= row < SIZE[0] - 1 and 1 <= column < SIZE[1] - 1:
                hits.append(difference[frame, row - 1 : row + 2, column - 1 : column + 2].max() > 20)
    assert len(hits) > 0.9 * pixels[..., 0].size
    assert np.mean(hits) > 0.97
    # The figure is a small part of the image, so hits by chance are rare.
    assert np.mean(difference > 20) < 0.2


def test_tracked_joints_are_the_figure_plus_sensor_noise():
    take = stage_take(KEYS[2], seed=0)
    joints, _ = track_take(take)
    error = joints - take.camera.to_camera(take.posture.joints)
    assert np.std(error) == pytest.approx(SENSOR_NOISE, rel=0.1)
    assert 2.5 < joints[..., 2].min() < joints[..., 2].max() < 5


def camera_at(azimuth: float) -> Camera:
    return Camera(azimuth, 3.5, 1.4, 1.1, 0.0, 150.0, SIZE, np.zeros((1, 2)))


def test_camera_space_is_right_handed_with_x_to_the_cameras_left():
    camera = camera_at(0.0)
    rotation = camera.rotation
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    # The performer faces the camera: the left hand is to the camera's right, at negative x and in a high column.
    left, right, high = camera.to_camera(np.array([[[0.5, 1.1, 0.0], [-0.5, 1.1, 0.0], [0.0, 1.8, 0.0]]]))[0]
    assert left[0] < 0 < right[0]
    spots = camera.project(np.array([[left, right, high]]))[0]
    assert spots[0, 1] > SIZE[1] / 2 > spots[1, 1]
    assert spots[2, 0] < spots[0, 0] - 20


def test_aim_is_in_the_middle_of_the_image_from_every_side():
    for azimuth in AZIMUTHS:
        camera = camera_at(azimuth)
        spot = camera.project(camera.to_camera(np.array([[[0.0, 1.1, 0.0]]])))[0, 0]
        np.testing.assert_allclose(spot, (np.array(SIZE) - 1) / 2, atol=1e-9)


def test_cameras_see_the_performer_from_different_sides():
    sides = []
    for camera in (1, 2):
        take = stage_take(ClipKey(camera, 1, 1, 14), 0)
        joints = take.camera.to_camera(take.posture.joints)[0]
        across = joints[JOINT_INDEX["left shoulder"]] - joints[JOINT_INDEX["right shoulder"]]
        sides.append(np.degrees(np.arctan2(across[2], -across[0])))
    assert abs(sides[0] - sides[1]) > 30


def test_performers_differ():
    performers = [make_performer(0, number) for number in range(1, 11)]
    assert len({performer.look for performer in performers}) == 10
    assert len({performer.proportions for performer in performers}) == 10
    assert np.ptp([performer.proportions.height for performer in performers]) > 0.1
    assert make_performer(0, 3) == make_performer(0, 3) != make_performer(1, 3)


def test_every_action_stays_in_view():
    for action in range(1, len(ACTIONS) + 1):
        for performer in (1, 4, 7):
            take = stage_take(ClipKey(1, performer, 1, action), 0)
            _, pixels = track_take(take)
            inside = (pixels > 0) & (pixels < np.array(SIZE)[::-1] - 1)
            assert inside.all(axis=-1).mean() > 0.97
