"""Images of a run: lines of a skeleton follow the layout of its joints."""

import numpy as np
import pytest

from unialign.pipeline.evaluation.plots import LEAST_SIDE, PEOPLE, draw_skeleton
from unialign.stages.skeleton_layouts import LAYOUTS, Layout


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_line_is_drawn_along_each_bone_and_nowhere_else(layout: Layout) -> None:
    # Joints on a circle: no two lines lie on each other.
    turns = 2 * np.pi * np.arange(len(layout.joints)) / len(layout.joints)
    blank, middle = np.zeros((LEAST_SIDE, LEAST_SIDE, 3), np.uint8), LEAST_SIDE / 2
    person = middle + 0.8 * middle * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    drawn = np.asarray(draw_skeleton(blank, person[None], layout.bones))
    for child, parent in layout.bones:
        column, row = ((person[child] + person[parent]) / 2).round().astype(int)
        assert (drawn[row - 1 : row + 2, column - 1 : column + 2] == PEOPLE[0]).all(axis=2).any()
    bare = np.asarray(draw_skeleton(blank, person[None], ()))
    assert bare.any(axis=2).sum() < drawn.any(axis=2).sum()
