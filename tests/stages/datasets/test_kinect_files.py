"""The parser of `.skeleton` files and the rules that pick bodies."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.body_rules import choose_bodies, of_bodies
from unialign.stages.datasets.kinect_files import SkeletonClip, read_skeleton

# Neighbours that float64 cannot tell apart.
BIG, BIGGER = 72057594037931101, 72057594037931102
Body = tuple[int, np.ndarray]


def text_of(frames: list[list[Body]]) -> str:
    """A `.skeleton` file of frames of (body id, positions (25, 3)); pixels are 100 times x and y."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body_id, points in bodies:
            lines += [f"{body_id} 0 1 1 1 1 0 0.1 -0.2 2", "25"]
            lines += [
                f"{x:.7g} {y:.7g} {z:.7g} 1.5 2.5 {100 * x:.7g} {100 * y:.7g} 0.1 0.2 0.3 0.4 2" for x, y, z in points
            ]
    return "\n".join(lines) + "\n"


def person(height: float = 1.7, shift: float = 0.0) -> np.ndarray:
    points = np.zeros((25, 3))
    points[:, 0] = np.linspace(-0.2, 0.2, 25) + shift
    points[:, 1] = np.linspace(0, height, 25)
    points[:, 2] = 3
    return points


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "S001C001P001R001A001.skeleton"
    path.write_text(text)
    return path


def test_bodies_are_told_apart_by_all_digits_of_their_id(tmp_path: Path) -> None:
    assert float(BIG) == float(BIGGER)
    frames = [[(BIG, person())], [], [(BIGGER, person(shift=1)), (BIG, person(shift=2))]]
    clip = read_skeleton(write(tmp_path, text_of(frames)))
    assert clip.body_ids == (BIG, BIGGER)
    assert clip.keypoints.shape == (3, 2, 25, 3)
    assert clip.keypoints.dtype == np.float32
    assert clip.slots.tolist() == [[0, -1], [-1, -1], [1, 0]]
    assert np.isnan(clip.keypoints[1]).all()
    assert np.isnan(clip.pixels[0, 1]).all()
    np.testing.assert_allclose(clip.keypoints[2, 0], person(shift=2), atol=1e-6)
    np.testing.assert_allclose(clip.pixels[2, 1], 100 * person(shift=1)[:, :2], atol=1e-4)
    assert clip.joint_states[0].tolist() == [[2] * 25, [-1] * 25]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.lists(st.integers(0, 5), max_size=3, unique=True), max_size=5), st.randoms(use_true_random=False))
def test_every_value_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, ids: list[list[int]], random: object
) -> None:
    points = np.random.default_rng(0).normal(size=(len(ids), 6, 25, 3)).round(6)
    frames = [[(body, points[t, body]) for body in bodies] for t, bodies in enumerate(ids)]
    clip = read_skeleton(write(tmp_path_factory.mktemp("clip"), text_of(frames)))
    assert clip.num_frames == len(ids)
    assert clip.body_ids == tuple(dict.fromkeys(body for bodies in ids for body in bodies))
    for t, bodies in enumerate(ids):
        for column, body in enumerate(clip.body_ids):
            if body in bodies:
                np.testing.assert_allclose(clip.keypoints[t, column], points[t, body], atol=1e-6)
            else:
                assert np.isnan(clip.keypoints[t, column]).all()


def test_a_file_cut_anywhere_is_truncated_or_says_its_line(tmp_path: Path) -> None:
    text = text_of([[(BIG, person())], [], [(BIG, person()), (3, person())]])
    # The last line ends in "2\n": without the newline alone the file is still whole.
    for length in range(0, len(text) - 1, 7):
        path = write(tmp_path, text[:length])
        with pytest.raises(CorruptInput) as caught:
            read_skeleton(path)
        assert caught.value.status == "truncated", (length, str(caught.value))
        assert str(caught.value).startswith(f"{path}: ")
    assert read_skeleton(write(tmp_path, text[:-1])).num_frames == 3


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.skeleton"
    path.write_bytes(text_of([[(BIG, person())]]).replace("\n", "\r\n").encode())
    assert read_skeleton(path).body_ids == (BIG,)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("2\n1\n", "two\n1\n", "line 1 should be the number of frames"),
        ("2\n1\n", "2\n-1\n", "line 2 should be the number of bodies"),
        ("2\n1\n", "2\n1.0\n", "line 2 should be the number of bodies"),
        ("2\n1\n", "99999999999999\n1\n", "line 1 should be"),
        ("2\n1\n", "1\n1\n", "line 30 follows the last of 1 frames"),
        (f"{BIG} 0", "7.2e16 0", "line 3 should begin with a body id"),
        (f"{BIG} 0 1", f"{BIG} 0", "line 3 should have the 10 values"),
        ("\n25\n", "\n20\n", "line 4 should say 25 joints"),
        (" 0.4 2\n", " 2\n", "line 5 should have the 12 values"),
        (" 0.4 2\n", " 0.4 7\n", "line 5 should end with a tracking state"),
        ("1.5 2.5", "1.5 2,5", "line 5 holds a value that is not a number"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, problem: str) -> None:
    text = text_of([[(BIG, person())], [(BIG, person())]])
    assert old in text
    path = write(tmp_path, text.replace(old, new, 1))
    with pytest.raises(CorruptInput, match=problem) as caught:
        read_skeleton(path)
    assert caught.value.status == "unreadable"
    assert str(path) in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.skeleton"
    path.write_bytes(b"\x89PNG\r\n\xff\x00")
    with pytest.raises(CorruptInput, match="not ASCII"):
        read_skeleton(path)
    with pytest.raises(CorruptInput, match="cannot be read"):
        read_skeleton(tmp_path)
    with pytest.raises(CorruptInput, match="repeats body id"):
        read_skeleton(write(tmp_path, text_of([[(1, person()), (1, person())]])))
    with pytest.raises(CorruptInput, match="more than a skeleton file may hold"):
        read_skeleton(write(tmp_path, "500000\n" + "0\n" * 500_000))


def test_a_joint_without_a_finite_position_is_absent(tmp_path: Path) -> None:
    text = text_of([[(1, person())]]).replace("-0.2 0 3", "nan 0 3", 1).replace("150 ", "inf ", 1)
    clip = read_skeleton(write(tmp_path, text))
    assert np.isnan(clip.keypoints[0, 0, 0]).all()
    assert np.isfinite(clip.keypoints[0, 0, 1:]).all()


def clip_of(tmp_path: Path, frames: list[list[Body]]) -> SkeletonClip:
    return read_skeleton(write(tmp_path, text_of(frames)))


def walker(t: int, speed: float, shift: float = 0.0) -> np.ndarray:
    return person(shift=shift + speed * t)


def select_bodies(clip: SkeletonClip, num_people: int = 2, rule: str = "motion") -> np.ndarray:
    return of_bodies(clip.keypoints, choose_bodies(clip, num_people, rule))


def test_motion_rule_orders_by_motion_and_drops_noise(tmp_path: Path) -> None:
    wide = person(height=0.1)  # a table: broader than high, and moving most
    frames = [
        [
            (1, walker(t, 0.01)),
            (2, walker(t, 0.05, 1)),
            (3, wide + np.array([0.5 * t, 0, 0])),
            *([(4, walker(t, 0.9))] if t < 8 else []),  # too short
        ]
        for t in range(20)
    ]
    clip = clip_of(tmp_path, frames)
    people = select_bodies(clip, 2)
    np.testing.assert_array_equal(people[:, 0], clip.keypoints[:, 1])
    np.testing.assert_array_equal(people[:, 1], clip.keypoints[:, 0])
    assert np.isnan(select_bodies(clip, 3)[:, 2]).all()


def test_motion_rule_joins_the_pieces_of_a_lost_person(tmp_path: Path) -> None:
    frames: list[list[Body]] = [[(1, walker(t, 0.05)), (9, walker(t, 0.001, 3))] for t in range(15)]
    frames += [[]] * 3
    frames += [[(9, walker(t, 0.001, 3)), (2, walker(t, 0.04))] for t in range(15)]
    clip = clip_of(tmp_path, frames)
    people = select_bodies(clip, 2, "motion")
    first, other, second = (clip.body_ids.index(body) for body in (1, 9, 2))
    np.testing.assert_array_equal(people[:15, 0], clip.keypoints[:15, first])
    np.testing.assert_array_equal(people[18:, 0], clip.keypoints[18:, second])
    np.testing.assert_array_equal(people[:, 1], clip.keypoints[:, other])
    assert np.isnan(people[15:18]).all()


def test_motion_rule_keeps_a_single_short_body(tmp_path: Path) -> None:
    frames: list[list[Body]] = [[(1, person())]] * 3
    people = select_bodies(clip_of(tmp_path, frames), 2, "motion")
    assert np.isfinite(people[:, 0]).all()
    assert np.isnan(people[:, 1]).all()
    both: list[list[Body]] = [[(1, person()), (2, person(shift=t))] for t in range(3)]
    assert np.isfinite(select_bodies(clip_of(tmp_path, both), 2, "motion")).all()


def test_rules_by_file_order_ignore_ids(tmp_path: Path) -> None:
    still, slow, fast = person(), 0.01, 0.2
    frames = [
        [(5 + t % 2, still), (1, walker(t, slow, 1)), (2, walker(t, fast, 2)), (3, still), (4, walker(t, 9))]
        for t in range(12)
    ]
    clip = clip_of(tmp_path, frames)
    column = {body: clip.keypoints[:, clip.body_ids.index(body)] for body in (1, 2)}
    first = select_bodies(clip, 2, "first")
    np.testing.assert_allclose(first[:, 0], np.broadcast_to(still, (12, 25, 3)), atol=1e-6)
    np.testing.assert_array_equal(first[:, 1], column[1])
    # The fifth body moves most, but the rule looks at four; a still body's joints still differ from each other.
    energy = select_bodies(clip, 2, "energy")
    np.testing.assert_array_equal(energy[:, 0], column[2])
    np.testing.assert_array_equal(energy[:, 1], column[1])


def test_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="motion, energy, first"):
        select_bodies(clip_of(tmp_path, [[(1, person())]]), 2, "biggest")


@pytest.mark.parametrize("rule", ["motion", "energy", "first"])
def test_a_file_without_bodies_selects_nobody(tmp_path: Path, rule: str) -> None:
    people = select_bodies(clip_of(tmp_path, [[], []]), 2, rule)
    assert people.shape == (2, 2, 25, 3)
    assert np.isnan(people).all()
