import numpy as np

from unialign.pipeline.evaluation.tracks import held, track_states

# A body of height 2 and width 1.
BODY = np.array([[0.0, 0.0], [0.5, 1.0], [-0.5, 1.0], [0.0, 2.0]])


def tracks(*places: float | None) -> np.ndarray:
    """(T, 1, 4, 2): one person whose body is at these x, None where it is not found."""
    return np.stack([np.full((1, 4, 2), np.nan) if at is None else (BODY + np.array([at, 0.0]))[None] for at in places])


def test_a_track_is_lost_between_frames_that_have_it_and_absent_outside() -> None:
    assert track_states(tracks(None, 0, 0.1, None, None, 0.2, None)) == [" pp--p "]
    assert track_states(tracks(None, None)) == ["  "]


def test_a_jump_is_a_move_by_more_than_a_body_per_frame() -> None:
    assert track_states(tracks(0, 0.5, 3.0, 3.1)) == ["pp!p"]
    assert track_states(tracks(0, 1.9, 3.8)) == ["ppp"]
    # Three frames give time for three body sizes.
    assert track_states(tracks(0, None, None, 5.0)) == ["p--p"]
    assert track_states(tracks(0, None, None, 7.0)) == ["p--!"]


def test_a_lost_person_keeps_the_last_pose() -> None:
    joints = tracks(None, 1.0, None, None, 2.0)
    kept = held(joints)
    assert np.isnan(kept[0]).all()
    np.testing.assert_array_equal(kept[2], joints[1])
    np.testing.assert_array_equal(kept[3], joints[1])
    assert np.isnan(joints[2]).all()  # the given array is left alone


def test_single_unknown_joints_lose_no_track() -> None:
    joints = tracks(0, 0, 0)
    joints[1, 0, 2] = np.nan
    assert track_states(joints) == ["ppp"]
