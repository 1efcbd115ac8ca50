"""Joint layouts: known ones, those that come with data, and finding one by its joints."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unialign.errors import UsageError
from unialign.stages.datasets.utd_mhad import read_utd_skeleton
from unialign.stages.skeleton_layouts import (
    LAYOUTS,
    Layout,
    custom_layout,
    find_layout,
    layout_from,
    layout_in,
    mirror_by_name,
)

HAND = ("wrist", "LThumb", "RThumb", "l_index", "r_index")
STAR = [(0, 1), (2, 0), (0, 3), (4, 0)]


def test_a_layout_of_data_is_a_tree_towards_its_middle_and_mirrors_by_name() -> None:
    made = custom_layout(HAND, STAR, where="file")
    assert made.center == 0
    assert made.bones == ((1, 0), (2, 0), (3, 0), (4, 0))
    assert made.mirror == (0, 2, 1, 4, 3)
    assert made.name.startswith("own-5-")
    assert not made.is_known
    assert custom_layout(HAND, STAR[::-1], where="file") == made
    assert custom_layout(HAND, STAR, mirror=range(5), where="file").name != made.name


def test_a_layout_travels_in_plain_values() -> None:
    made = custom_layout(HAND, STAR, center=3, where="file")
    for layout in (made, LAYOUTS["penn-13"]):
        assert layout_from(layout.plain) == layout
    assert layout_in(made.described()) == made
    assert LAYOUTS["penn-13"].plain == "penn-13"
    assert layout_in({"joints": [name.replace(" ", "_") for name in LAYOUTS["coco-17"].joints]}) is LAYOUTS["coco-17"]
    assert layout_in({}) is None


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_known_layout_that_data_describe_is_that_layout(layout: Layout) -> None:
    names = [name.replace(" ", "_") for name in layout.joints]
    assert custom_layout(names, layout.bones, center=layout.center, where="file") == layout


@pytest.mark.parametrize(
    ("names", "edges", "more", "problem"),
    [
        (("a",), [], {}, "1 joints; a layout has 2 to 256"),
        (("a", "a"), [(0, 1)], {}, "the joints 0 and 1 are both called 'a'"),
        (("a", " "), [(0, 1)], {}, "joint 1 has no name"),
        (("a", "b\n"), [(0, 1)], {}, "joint 1 has no name"),
        (("a", "b"), [(0, 2)], {}, r"the edge \(0, 2\) is not between two"),
        (("a", "b"), [(1, 1)], {}, r"the edge \(1, 1\) is not between two"),
        (("a", "b", "c"), [(0, 1)], {}, "do not connect 3 joints as one tree: give 2"),
        (("a", "b", "c"), [(0, 1), (1, 2), (2, 0)], {}, "do not connect 3 joints as one tree"),
        (("a", "b", "c", "d"), [(0, 1), (1, 2), (2, 0)], {}, "do not connect 4 joints"),
        (("a", "b"), [(0, 1)], {"center": 2}, "the center 2 is not one"),
        (("a", "b"), [(0, 1)], {"mirror": [0]}, "mirror should name"),
        (("a", "b", "c"), [(0, 1), (1, 2)], {"mirror": [1, 2, 0]}, "pairs must name each other"),
    ],
)
def test_what_makes_no_skeleton_is_refused(names, edges, more, problem: str) -> None:
    with pytest.raises(UsageError, match=f"file: .*{problem}"):
        custom_layout(names, edges, **more, where="file")


@given(
    st.dictionaries(
        st.sampled_from(["joints", "bones", "mirror", "center", "layout"]),
        st.none()
        | st.integers()
        | st.text(max_size=4)
        | st.lists(st.lists(st.integers(-2, 3), max_size=3), max_size=3),
    )
)
def test_a_description_that_is_none_is_refused(described: dict) -> None:
    with pytest.raises(UsageError):
        layout_from({**described, "layout": "own", "bones": described.get("bones", [[1, 0], [1, 0]])})


@given(st.lists(st.text("lr_LRefthand ", max_size=9), max_size=9))
def test_mirrors_by_name_are_their_own_inverse(names: list[str]) -> None:
    mirror = mirror_by_name(names)
    assert [mirror[joint] for joint in mirror] == list(range(len(names)))


def test_layouts_are_found_by_joints_and_unit() -> None:
    for count, unit, name in (
        *((25, "metre", "ntu-25"), (25, "pixel", "body-25"), (17, "pixel", "coco-17"), (17, "metre", "h36m-17")),
        *((18, "pixel", "coco-18"), (13, "pixel", "penn-13"), (15, "pixel", "jhmdb-15"), (33, "metre", "mediapipe-33")),
    ):
        assert find_layout(count, unit, None, "file") == (LAYOUTS[name], "")
    with pytest.raises(UsageError, match="no known layout has 13 joints in metres"):
        find_layout(13, "metre", None, "file")
    with pytest.raises(UsageError, match="utd-20 or kinect-20; say which"):
        find_layout(20, "metre", None, "file")
    noise = np.random.default_rng(0).normal(size=(40, 20, 3))
    with pytest.raises(UsageError, match="utd-20 or kinect-20; say which"):
        find_layout(20, "metre", noise, "file")


def test_of_two_layouts_the_one_with_the_shortest_bones_is_right(shared_data) -> None:
    files = sorted((shared_data / "skeletons" / "utd_mhad").rglob("*_skeleton.mat"))[::40]
    assert len(files) > 10
    order = [LAYOUTS["utd-20"].joints.index(joint) for joint in LAYOUTS["kinect-20"].joints]
    for path in files:
        keypoints = read_utd_skeleton(path)
        assert find_layout(20, "metre", keypoints, "file")[0].name == "utd-20"
        found, note = find_layout(20, "metre", keypoints[:, order], "file")
        assert found.name == "kinect-20"
        assert "taken as kinect-20, in which neighboring joints are nearest" in note
