"""Contract of the joint layouts: mirrors are symmetric, bones make a tree, the partition is normalized."""

import numpy as np
import pytest

from unialign.stages.models.skeleton.graph import spatial_partition
from unialign.stages.skeleton_layouts import LAYOUTS, Layout, layout_of


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_bones_are_a_tree_towards_the_center(layout: Layout):
    parents = dict(layout.bones)
    assert len(parents) == len(layout.bones) == len(layout.joints) - 1
    for joint in range(len(layout.joints)):
        steps = 0
        while joint != layout.center:
            joint, steps = parents[joint], steps + 1
            assert steps < len(layout.joints)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_mirror_is_its_own_inverse_and_keeps_bones(layout: Layout):
    mirror = np.array(layout.mirror)
    assert (mirror[mirror] == np.arange(len(mirror))).all()
    assert {(mirror[child], mirror[parent]) for child, parent in layout.bones} == set(layout.bones)
    assert (layout.shoulders is None) == (layout.name == "hand-21")
    if layout.shoulders is not None:
        right, left = layout.shoulders
        assert mirror[right] == left
        assert layout.joints[right] == "right shoulder"
    sides = [name for name in layout.joints if name.startswith(("left", "right"))]
    assert (mirror != np.arange(len(mirror))).sum() == len(sides)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_partition_is_the_literal_definition(layout: Layout):
    partition, parents = spatial_partition(layout), dict(layout.bones)
    assert partition.dtype == np.float32
    for joint in range(len(layout.joints)):
        children = [child for child, parent in layout.bones if parent == joint]
        expected = np.zeros((3, len(layout.joints)))
        expected[0, joint] = 1
        if joint in parents:
            expected[1, parents[joint]] = 1
        expected[2, children] = 1 / max(len(children), 1)
        np.testing.assert_allclose(partition[:, :, joint], expected, rtol=1e-6)


def test_layout_is_found_by_name_and_by_joints():
    for name, layout in LAYOUTS.items():
        assert layout_of(name) is layout
        assert layout_of([joint.replace(" ", "_") for joint in layout.joints]) is layout
    assert layout_of("smpl") is None
    assert layout_of(LAYOUTS["coco-17"].joints[::-1]) is None


def test_joint_counts_are_those_of_the_names():
    for name, layout in LAYOUTS.items():
        assert len(layout.joints) == len(set(layout.joints)) == int(name.split("-")[1])
